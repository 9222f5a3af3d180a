"""Edgent's problem at run time: ways to answer, found beforehand, of which a request takes one by look-up.

Finding ways takes minimum cuts (``splitnn.planner.deadlines``, for a range of bandwidths at once). Pricing them anew
when conditions change takes a sum each, and choosing one for a request a few comparisons.
"""

from __future__ import annotations

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
    drops: Mapping[Option, float],
    limit: float,
    low_bps: float,
    high_bps: float,
) -> list[Way]:
    """The ways of one policy that are the quickest, in the mean or at worst, at some bandwidth in between.

    With lossless codecs, and where ``drops`` are given with those lossy ones, too, that lose at most ``limit``; lossy
    ones among ``codecs`` for which there is no drop were asked for, and cost nothing here.

    Raises:
        ProfileMismatch, InfeasiblePlan, ValueError: as ``compute_deadline_map``.
    """
    named = tuple(codecs)
    choices: list[Codecs] = [named]
    usable = [option for option, drop in drops.items() if drop <= limit]
    if usable:
        lossless = tuple(codec for codec in named if codec in LOSSLESS) or ("raw",)
        choices = [
            lossless,
            {t: (*lossless, *(codec for tensor, codec in usable if tensor == t)) for t in graph.tensors},
        ]
    found: dict[str, Way] = {}
    for allowed in choices:
        made = compute_deadline_map(
            graph, profiles, topology, policies=[policy], codecs=allowed, low_bps=low_bps, high_bps=high_bps
        )
        for each in made.plans:
            lost = drop_of_plan(each.plan, drops) if usable else 0.0
            if lost <= limit or not usable:
                found[each.plan.id] = Way(policy, each.plan, policy.accuracy - lost, each.plan.predicted.latency_s)
    return list(found.values())


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
