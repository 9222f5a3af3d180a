"""Exits, cut and codecs together, within one budget of accuracy.

What a policy's exits cost is counted on held-out data, what a lossy codec costs was calibrated for the model's last
exit. The upper ends of both are added up. That is no bound: a codec may cost an early exit more than the last one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from splitnn.cost.accuracy import policy_drop
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.accuracy import AllowedCodecs, Option, within_accuracy
from splitnn.planner.deadlines import every_policy
from splitnn.planner.exits import Weighed, plan_exits
from splitnn.planner.plan import Plan

_ROUNDING = 1e-12  # of differences of shares


def weigh_within(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    exits: Exits,
    codecs: Sequence[str],
    drops: Mapping[Option, float],
    limit: float,
    pins: Mapping[str, str] | None = None,
    deadline_s: float = math.inf,
) -> list[Weighed]:
    """Every policy whose exits and codecs together lose at most ``limit`` of the last exit's accuracy, best first.

    What exits lose is the upper end of 95 %, as ``policy_drop`` has it; where all samples go to the last one, nothing.

    The best has the lowest mean latency of those in which no sample is late. ``drops`` are of the lossy ones among
    ``codecs``; see ``splitnn.planner.accuracy``, which says when the choice of codecs is exact.

    Raises:
        ProfileMismatch, ValueError: as ``plan_exits``.
        InfeasiblePlan: the pins contradict each other.
    """

    def solve_for(aim: Exits) -> Callable[[AllowedCodecs], tuple[Plan, AllowedCodecs]]:
        def solve(allowed: AllowedCodecs) -> tuple[Plan, AllowedCodecs]:
            return plan_exits(graph, profiles, topology, exits=aim, codecs=allowed, pins=pins), allowed

        return solve

    found: list[Weighed] = []
    for policy in every_policy(exits):
        spare = limit - max(0.0, policy_drop(exits, [each.name for each in policy.exits]).high)
        if spare < -_ROUNDING:
            continue
        for aim in (policy, policy.at_worst()):
            decided, allowed = within_accuracy(
                solve_for(aim),
                tensors=graph.tensors,
                codecs=codecs,
                drops=drops,
                limit=max(0.0, spare),
                plan_of=lambda pair: pair[0],
                worth=lambda pair: pair[0].predicted.latency_ns,
            )
            weighed = Weighed.of(decided, graph, profiles, topology, exits=policy, codecs=allowed)
            if weighed.worst.latency_s <= deadline_s:
                break
        found.append(weighed)
    if not found:
        raise InfeasiblePlan(f"no choice of exits loses at most {limit:.2%}")  # not even the last one alone
    return sorted(found, key=lambda each: (each.worst.latency_s > deadline_s, each.mean.latency_ns))
