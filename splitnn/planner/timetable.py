"""Edgent's problem at run time: ways to answer, found beforehand, of which a request takes one by look-up.

Finding ways takes minimum cuts (``splitnn.planner.deadlines``, for a range of bandwidths at once). Pricing them anew
when conditions change takes a sum each, and choosing one for a request a few comparisons.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from splitnn.cost.estimate import Codecs, tabulate
from splitnn.cost.expected import Shares, deciding_tiers
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.accuracy import Option, drop_of_plan
from splitnn.planner.deadlines import compute_deadline_map, every_policy
from splitnn.planner.plan import LOSSLESS, Plan

_MOST_MAPS = 16
_MOST_COMBINED = 4  # of more exits only single ones, and all together, are weighed


@dataclass(frozen=True, slots=True)
class Way:
    """Exits to ask, with a plan, as it is priced now."""

    exits: Exits
    plan: Plan  # its cost is that of a sample that leaves last
    accuracy: float  # on held-out data, less what its lossy codecs cost at worst
    mean_s: float

    @property
    def worst_s(self) -> float:
        """Seconds until the answer for a sample that leaves last."""
        return self.plan.predicted.latency_s


def policies_of(exits: Exits) -> list[Exits]:
    """The choices among the exits that are worth weighing."""
    if len(exits.exits) <= _MOST_COMBINED:
        return every_policy(exits)
    return [*(exits.only(each.name) for each in exits.exits), exits]


def ways_between(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    policy: Exits,
    codecs: Sequence[str],
    drops: Mapping[Option, float] | None,
    limit: float,
    low_bps: float,
    high_bps: float,
) -> list[Way]:
    """The ways of one policy that are the quickest, in the mean or at worst, at some bandwidth in between.

    Without ``drops`` by all of ``codecs``, lossy ones too: they were asked for, and cost nothing here. With them by the
    lossless ones, and by lossy ones as far as a plan's together lose at most ``limit``: exactly those as long as
    ``_MOST_MAPS`` searches suffice, else some that would just have been allowed may be missing. What the exits
    themselves lose may have used the limit up; then it is below 0, and lossless ways are left.

    Raises:
        ProfileMismatch, InfeasiblePlan, ValueError: as ``compute_deadline_map``.
    """

    def quickest(allowed: Codecs) -> list[Plan]:
        found = compute_deadline_map(
            graph, profiles, topology, policies=[policy], codecs=allowed, low_bps=low_bps, high_bps=high_bps
        )
        return [each.plan for each in found.plans]

    if drops is None:
        plans = {plan.id: (plan, 0.0) for plan in quickest(tuple(codecs))}
    else:
        lossless = tuple(codec for codec in codecs if codec in LOSSLESS) or ("raw",)
        plans = {plan.id: (plan, 0.0) for plan in quickest(lossless)}
        pending = deque([frozenset(option for option, drop in drops.items() if drop <= limit)])
        searched = {frozenset[Option]()}
        while pending and len(searched) < _MOST_MAPS:
            usable = pending.popleft()
            if usable in searched:
                continue
            searched.add(usable)
            for plan in quickest({t: (*lossless, *(c for u, c in usable if u == t)) for t in graph.tensors}):
                lost = drop_of_plan(plan, drops)
                if lost <= max(0.0, limit):
                    plans[plan.id] = plan, lost
                else:  # whatever is allowed loses less on one of these tensors
                    pending.extend(
                        usable - {each for each in usable if each[0] == option[0] and drops[each] >= drops[option]}
                        for option in _lossy(plan)
                    )
    return [Way(policy, plan, policy.accuracy - lost, plan.predicted.latency_s) for plan, lost in plans.values()]


def _lossy(plan: Plan) -> list[Option]:
    return sorted({(tensor, codec) for hop in plan.hops for tensor, codec in hop.items() if codec not in LOSSLESS})


def timetable(
    ways: Iterable[Way], graph: Graph, profiles: Mapping[str, Profile], topology: Topology
) -> tuple[Way, ...]:
    """These ways at the present conditions, the most accurate first, each of the others quicker at worst.

    Of equally accurate ones the one with the lower mean comes first.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
    """
    priced = sorted(
        (_priced(way, graph, profiles, topology) for way in ways), key=lambda way: (-way.accuracy, way.mean_s)
    )
    kept: list[Way] = []
    for way in priced:
        if not kept or way.worst_s < kept[-1].worst_s:
            kept.append(way)
    return tuple(kept)


def _priced(way: Way, graph: Graph, profiles: Mapping[str, Profile], topology: Topology) -> Way:
    table = tabulate(graph, profiles, topology, codecs=way.plan.codecs)
    placed = dict(zip(way.plan.order, way.plan.tiers, strict=True))
    tiers = deciding_tiers(graph, way.exits, placed)
    mean, worst = (
        Shares.of(graph, exits, tiers, hosts=len(topology.hosts)).price(placed, table)
        for exits in (way.exits, way.exits.at_worst())
    )
    return replace(way, plan=replace(way.plan, predicted=worst), mean_s=mean.latency_s)
