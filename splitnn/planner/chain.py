"""Every cut of one topological order: the baseline, and what a person wants to see beside a plan.

Neurosurgeon (Kang et al. 2017) tries each layer of a chain as the last one on the device. Here the graph's own order
serves as the chain, tensors that skip layers are paid for, and with more hosts each further hop cuts the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from splitnn.cost.estimate import Codecs, check_profiles, tabulate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.graph import Graph
from splitnn.planner.pins import tier_ranges
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.terms import Terms, terms_of


@dataclass(frozen=True, slots=True)
class ChainCut:
    """Hop h lies after the first ``ends[h]`` layers of the order."""

    latency_ns: int
    ends: tuple[int, ...]

    def tiers(self, layers: int) -> tuple[int, ...]:
        """Of each layer the index of its host."""
        return tuple(sum(position >= end for end in self.ends) for position in range(layers))


def every_cut(terms: Terms) -> list[ChainCut]:
    """For each number of first layers that the device may run, ascending, the best cuts of what is left.

    Of equals, the one that keeps more layers on earlier hosts. Empty when no cut of this order obeys the pins.
    Linear in the number of layers.
    """
    layers = terms.layout.layers
    rest = [ChainCut(terms.on_device, ())] * (layers + 1)  # [k]: the best of the hops behind, from position k on
    cuts: list[ChainCut] = []
    for hop in reversed(range(len(terms.round_trip))):
        crossing, moved = terms.crossing(hop), terms.moved(hop)
        cuts = [
            ChainCut(
                rest[k].latency_ns + moved[k] + crossing[k] + (terms.round_trip[hop] if k < layers else 0),
                (k, *rest[k].ends),
            )
            for k in terms.tiers.ends(hop)
        ]
        if not hop and cuts and not cuts[0].ends[0] and layers:
            cuts[0] = replace(cuts[0], latency_ns=cuts[0].latency_ns - terms.first_stage)
        if not cuts:
            return []
        best = cuts[-1]
        for k in range(layers, -1, -1):
            offset = k - cuts[0].ends[0]
            if 0 <= offset < len(cuts) and cuts[offset].latency_ns < best.latency_ns:
                best = cuts[offset]
            rest[k] = best
    return cuts or rest[:1]


def plan_chain(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    pins: Mapping[str, str] | None = None,
) -> Plan:
    """The best plan among the cuts of the graph's own order: exact for a chain, a baseline for any other graph.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: the pins contradict each other, or no cut of this order obeys them.
        ValueError: a pin names an unknown layer or host.
    """
    problem = _Problem(graph, profiles, topology, codecs=codecs, mode=mode, pins=pins or {})
    if not problem.cuts:
        raise InfeasiblePlan(f"no cut of the model's own order obeys the pins {dict(pins or {})}; a minimum cut may")
    best = min(problem.cuts, key=lambda cut: (cut.latency_ns, [-end for end in cut.ends]))
    return problem.plan(best.tiers(len(graph)))


def alternatives(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    best: Plan,
    codecs: Codecs = ("raw",),
    pins: Mapping[str, str] | None = None,
    count: int = 2,
) -> tuple[Plan, ...]:
    """What to weigh ``best`` against, the quickest first: each host alone, and the ``count`` best cuts elsewhere.

    A cut counts when those one layer earlier and later are slower. What the pins rule out is left out, and so is
    ``best`` itself.

    Raises:
        ProfileMismatch, InfeasiblePlan, ValueError: as ``plan``.
    """
    problem = _Problem(graph, profiles, topology, codecs=codecs, mode=best.mode, pins=pins or {})
    lowest, highest = max(problem.tiers.lowest, default=0), min(problem.tiers.highest, default=0)
    alone = [(tier,) * len(graph) for tier in range(lowest, highest + 1)]
    shown = {best.tiers, *alone}
    valleys = [cut for cut in _valleys(problem.cuts) if cut.tiers(len(graph)) not in shown]
    valleys.sort(key=lambda cut: cut.latency_ns)
    chosen = [tiers for tiers in alone if tiers != best.tiers] + [cut.tiers(len(graph)) for cut in valleys[:count]]
    return tuple(sorted((problem.plan(tiers) for tiers in chosen), key=lambda plan: plan.predicted.latency_ns))


def _valleys(cuts: Sequence[ChainCut]) -> list[ChainCut]:
    """Cuts that are quicker than the next one and no slower than the one before."""
    latencies: list[float] = [math.inf, *(cut.latency_ns for cut in cuts), math.inf]
    return [
        cut
        for cut, before, after in zip(cuts, latencies, latencies[2:], strict=False)
        if before >= cut.latency_ns < after
    ]


class _Problem:
    """The cuts of one model's order, and plans made from them."""

    def __init__(
        self,
        graph: Graph,
        profiles: Mapping[str, Profile],
        topology: Topology,
        *,
        codecs: Codecs,
        mode: Mode,
        pins: Mapping[str, str],
    ) -> None:
        self._graph = graph
        self._mode: Mode = mode
        self._hosts = [host.name for host in topology.hosts]
        self._model = check_profiles(graph, profiles, topology)
        self._table = tabulate(graph, profiles, topology, codecs=codecs)
        self.tiers = tier_ranges(graph, pins, self._hosts)
        self.cuts = every_cut(terms_of(graph, self._table, self.tiers))

    def plan(self, tiers: tuple[int, ...]) -> Plan:
        return Plan.priced(self._graph, tiers, table=self._table, model=self._model, hosts=self._hosts, mode=self._mode)
