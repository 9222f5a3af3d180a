"""What `explain` says of a model with early exits: who decides each, what other ways to ask cost, when others win."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from splitnn.cli.asking import weigh_policies
from splitnn.cli.policies import pins_of
from splitnn.cli.two_hosts import TwoHosts
from splitnn.cost.expected import expected_cost
from splitnn.graph.exits import Exits, Tally
from splitnn.planner.deadlines import DeadlineMap, compute_deadline_map, every_policy
from splitnn.planner.exits import Weighed
from splitnn.planner.policy_plan import PolicyPlan

LOW_BPS, HIGH_BPS = 1e4, 1e10  # between which thresholds are looked for

Stretch = tuple[float, float]  # bandwidths, ascending


@dataclass(frozen=True, slots=True)
class Asked:
    """One exit of the plan that was chosen."""

    name: str
    host: str  # that decides it
    arrive: float  # share of all samples
    answered: float  # share of all samples
    right: float | None  # of those that it answers; None where there are none
    latency_s: float  # of a sample that leaves there


@dataclass(frozen=True, slots=True)
class Rival:
    """Another way to ask the exits, beside the one that was chosen."""

    weighed: Weighed
    less: tuple[str, ...]  # exits that only the chosen one asks
    more: tuple[str, ...]  # exits that only this one asks
    quicker: tuple[Stretch, ...]  # where its mean is below that of the chosen way, each with its best plan
    needed_bps: float | None  # from where on every sample is in time: infinite for never, None without a deadline


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why the exits are asked as they are."""

    chosen: Weighed
    asked: tuple[Asked, ...]
    rivals: tuple[Rival, ...]  # those that differ in one exit first
    choices: tuple[PolicyPlan, ...]  # what to do at each bandwidth at which anything is in time, ascending

    def here(self, bandwidth_bps: float) -> PolicyPlan | None:
        """What to do at that bandwidth."""
        return next((each for each in self.choices if each.low_bps <= bandwidth_bps <= each.high_bps), None)


def reasons(given: TwoHosts) -> Reasons | None:
    """Those of the plan that `plan` takes; None without exits, or where these cannot be planned for the goals.

    Without a deadline the model's own way to ask is followed at any bandwidth, and only its plan changes. The way down
    keeps its ratio to the way up.

    Raises:
        InfeasiblePlan: no way to ask the exits is in time.
    """
    pins = None if given.exits is None else pins_of(given.goals, given.graph, given.topology)
    if given.exits is None or pins is None or not given.goals.objective.is_latency:
        return None
    graph, profiles, topology = given.graph, given.profiles, given.topology
    deadline_s = given.goals.constraints.deadline_s
    codecs, mode = given.codecs, given.mode
    chosen, *others = weigh_policies(
        given.exits, graph, profiles, topology, goals=given.goals, codecs=codecs, mode=mode
    )
    found = compute_deadline_map(
        graph,
        profiles,
        topology,
        policies=every_policy(given.exits),
        codecs=codecs,
        mode=mode,
        pins=pins,
        low_bps=LOW_BPS,
        high_bps=HIGH_BPS,
        varying="both",
    )
    rivals = [_rival(each, chosen, found, deadline_s) for each in others]
    return Reasons(
        chosen=chosen,
        asked=_asked(given, chosen),
        rivals=tuple(sorted(rivals, key=lambda rival: len(rival.less) + len(rival.more))),
        choices=found.of(chosen.exits)[0] if deadline_s is None else tuple(found.choices(deadline_s)),
    )


def _asked(given: TwoHosts, chosen: Weighed) -> tuple[Asked, ...]:
    exits, hosts, found = chosen.exits, chosen.plan.hosts, []
    for at, each in enumerate(exits.exits):
        leaves = tuple(other in (at, len(exits.exits) - 1) for other in range(len(exits.exits)))
        alone = Exits(exits.exits, (Tally(leaves, leaves, 1),), exits.against, exits.data)
        cost = expected_cost(
            given.graph, chosen.plan.placement, given.profiles, given.topology, exits=alone, codecs=given.codecs
        )
        left = exits.left[at]
        found.append(
            Asked(
                name=each.name,
                host=hosts[chosen.decided_on[at]],
                arrive=exits.reach[at],
                answered=left / exits.samples,
                right=exits.right[at] / left if left else None,
                latency_s=cost.latency_s,
            )
        )
    return tuple(found)


def _rival(weighed: Weighed, chosen: Weighed, found: DeadlineMap, deadline_s: float | None) -> Rival:
    own, its = ([each.name for each in w.exits.exits] for w in (chosen, weighed))
    return Rival(
        weighed=weighed,
        less=tuple(name for name in own if name not in its),
        more=tuple(name for name in its if name not in own),
        quicker=quicker(found.of(weighed.exits)[0], found.of(chosen.exits)[0]),
        needed_bps=None if deadline_s is None else found.needed_bps(weighed.exits, deadline_s),
    )


def quicker(some: Sequence[PolicyPlan], others: Sequence[PolicyPlan]) -> tuple[Stretch, ...]:
    """Between which bandwidths the mean of some plans is below that of others, both given by ascending bandwidth."""
    found: list[Stretch] = []
    edges = {edge for each in (*some, *others) for edge in (each.low_bps, each.high_bps)}
    for low, high in pairwise(sorted(edges)):
        middle = math.sqrt(low) * math.sqrt(high)
        one, other = (next(c.mean for c in plans if middle <= c.high_bps) for plans in (some, others))
        slow, quick = (one.at(1 / Fraction(bps)) - other.at(1 / Fraction(bps)) for bps in (low, high))
        if slow >= 0 and quick >= 0:
            continue
        crossing = float(1 / one.meets(other)) if slow * quick < 0 else math.nan
        start, end = crossing if slow > 0 else low, crossing if quick > 0 else high
        joins = bool(found) and found[-1][1] == start
        found.append((found.pop()[0] if joins else start, end))
    return tuple(found)
