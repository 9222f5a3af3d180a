"""The exact best plan for a model with exits: cut, codecs, and the host that decides each exit, together.

Once it is known on which host each exit is decided, every term of the mean cost has one share of samples that pay it
(``splitnn.cost.expected``), and the rest is one minimum cut with the exits' logits pinned. Exits are decided in order,
so there are few ways to give them to hosts: 4 for three exits and two hosts, 10 for three. All are tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

from splitnn.cost.cost import Cost
from splitnn.cost.estimate import Codecs, check_profiles, tabulate
from splitnn.cost.expected import Shares, deciding_tiers, expected_cost
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.pins import TierRanges, tier_ranges
from splitnn.planner.plan import LOSSLESS, Mode, Plan
from splitnn.planner.search import Decision, cheapest
from splitnn.planner.terms import terms_of


def plan_exits(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    exits: Exits,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    pins: Mapping[str, str] | None = None,
) -> Plan:
    """The plan with the lowest mean latency; of equals the one that decides exits on earlier hosts.

    Its predicted cost is a mean over samples throughout, bytes included. Layers that none of the exits needs cost
    nothing wherever they are.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: the pins contradict each other or leave no order of the exits.
        ValueError: a pin names what does not exist, or an exit is no output of the graph.
    """
    hosts = [host.name for host in topology.hosts]
    model = check_profiles(graph, profiles, topology)
    table = tabulate(graph, profiles, topology, codecs=codecs)
    best: tuple[Decision, Shares, TierRanges] | None = None
    for decided_on, pinned in exit_pins(graph, exits, hosts, pins or {}):
        ranges = tier_ranges(graph, pinned, hosts)
        shares = Shares.of(graph, exits, decided_on, hosts=len(hosts))
        found = cheapest(terms_of(shares.graph, shares.table(table), ranges.of_part(graph, shares.graph)))
        if best is None or found.latency_ns < best[0].latency_ns:
            best = found, shares, ranges
    if best is None:
        raise InfeasiblePlan("the pins leave no host on which each exit could be decided after the one before it")
    found, shares, ranges = best
    tiers = ranges.filled(graph, dict(zip(shares.graph.index, found.tiers, strict=True)))
    decided = Plan.priced(graph, tiers, table=table, model=model, hosts=hosts, mode=mode)
    cost = shares.price(dict(zip(graph.index, tiers, strict=True)), table)
    if cost.latency_ns != found.latency_ns:
        raise RuntimeError(
            f"defect of the planner: the minimum cut is worth {found.latency_ns} ns, "
            f"but its placement costs {cost.latency_ns} ns"
        )
    return at_mean(decided, cost, shares.graph, mode=mode)


def at_mean(decided: Plan, cost: Cost, part: Graph, *, mode: Mode) -> Plan:
    """A plan at its mean cost; tensors that cross for nobody but layers outside ``part`` are never sent: as if raw."""
    hops = tuple(
        {tensor: codec if part.consumers[tensor] else "raw" for tensor, codec in hop.items()} for hop in decided.hops
    )
    is_lossy = any(codec not in LOSSLESS for hop in hops for codec in hop.values())
    return replace(decided, hops=hops, predicted=cost, mode="fast" if is_lossy else mode)


@dataclass(frozen=True, slots=True)
class Weighed:
    """One policy at one bandwidth: a plan, the mean cost of a request, and the cost of one that leaves last."""

    exits: Exits
    plan: Plan
    mean: Cost
    worst: Cost
    decided_on: tuple[int, ...]  # of each exit the index of its host

    @classmethod
    def of(
        cls,
        decided: Plan,
        graph: Graph,
        profiles: Mapping[str, Profile],
        topology: Topology,
        *,
        exits: Exits,
        codecs: Codecs,
    ) -> Weighed:
        """A plan that was made with these codecs, weighed as a policy's."""
        mean, worst = (
            expected_cost(graph, decided.placement, profiles, topology, exits=each, codecs=codecs)
            for each in (exits, exits.at_worst())
        )
        tiers = deciding_tiers(graph, exits, dict(zip(decided.order, decided.tiers, strict=True)))
        return cls(exits, replace(decided, predicted=mean), mean, worst, tiers)

    def answered_by(self, tier: int) -> float:
        """The share of samples that the host of that index answers."""
        left = [left for left, host in zip(self.exits.left, self.decided_on, strict=True) if host == tier]
        return sum(left) / self.exits.samples


def weigh(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    policies: Iterable[Exits],
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    pins: Mapping[str, str] | None = None,
    deadline_s: float = math.inf,
) -> list[Weighed]:
    """Every policy with its best plan, the most accurate first; those in which a sample would be late come last.

    A policy's plan is the one with the lowest mean where no sample is late with it, else the one with the lowest worst
    case. ``splitnn.planner.deadlines`` says the same for all bandwidths at once.

    Raises:
        ProfileMismatch, InfeasiblePlan, ValueError: as ``plan_exits``.
    """
    found = []
    for exits in policies:
        for aim in (exits, exits.at_worst()):
            decided = plan_exits(graph, profiles, topology, exits=aim, codecs=codecs, mode=mode, pins=pins)
            weighed = Weighed.of(decided, graph, profiles, topology, exits=exits, codecs=codecs)
            if weighed.worst.latency_s <= deadline_s:
                break
        found.append(weighed)
    return sorted(found, key=lambda w: (w.worst.latency_s > deadline_s, -w.exits.accuracy, w.mean.latency_ns))


def exit_pins(
    graph: Graph, exits: Exits, hosts: Sequence[str], pins: Mapping[str, str]
) -> Iterator[tuple[tuple[int, ...], dict[str, str]]]:
    """Every way to give the exits to hosts in order that the pins allow: of each exit its host, and all pins together.

    Raises:
        InfeasiblePlan: the pins contradict each other.
        ValueError: a pin names what does not exist, or an exit is no output of the graph.
    """
    exits.check_fits(graph)
    tier_ranges(graph, pins, hosts)
    logits = [graph.producer[each.output] for each in exits.exits]
    for decided_on in combinations_with_replacement(range(len(hosts)), len(logits)):
        wanted = {(layer, hosts[tier]) for layer, tier in zip(logits, decided_on, strict=True)}
        if len(dict(wanted)) < len(wanted) or any(pins.get(layer, host) != host for layer, host in wanted):
            continue
        pinned = {**pins, **dict(wanted)}
        try:
            tier_ranges(graph, pinned, hosts)
        except InfeasiblePlan:
            continue
        yield decided_on, pinned
