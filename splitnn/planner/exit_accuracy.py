"""Exits, cut and codecs together, within what may be lost of accuracy.

What a policy's exits cost was counted on held-out data, and what a lossy codec costs that very policy was calibrated.
The upper ends of both are added up. A policy for which no codec was calibrated uses lossless ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from splitnn.cost.accuracy import Calibration, policy_drop
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.accuracy import AllowedCodecs, Option, within_accuracy
from splitnn.planner.deadlines import every_policy
from splitnn.planner.exits import Weighed, plan_exits
from splitnn.planner.plan import LOSSLESS, Plan

_ROUNDING = 1e-12  # of differences of shares


def policy_drops(calibration: Calibration, codecs: Iterable[str], policy: Exits) -> dict[Option, float]:
    """What each lossy codec on each tensor costs a policy at worst, as ``drops_of`` says it of a model without exits.

    Empty where nothing was calibrated for these exits, with these thresholds.
    """
    wanted = set(codecs) - LOSSLESS
    found = {} if calibration.exits is None else calibration.exits.of(policy)
    return {option: max(0.0, drop.high) for option, drop in found.items() if option[1] in wanted}


def weigh_within(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    exits: Exits,
    codecs: Sequence[str],
    drops: Callable[[Exits], Mapping[Option, float]],
    limit: float,
    pins: Mapping[str, str] | None = None,
    deadline_s: float = math.inf,
) -> list[Weighed]:
    """Every policy whose exits and codecs together lose at most ``limit`` of the last exit's accuracy, best first.

    What exits lose is the upper end of 95 %, as ``policy_drop`` has it; where all samples go to the last one, nothing.

    The best has the lowest mean latency of those in which no sample is late. ``drops`` says of a
    policy what the lossy ones among ``codecs`` cost it, as ``policy_drops`` does; see ``splitnn.planner.accuracy``,
    which says when the choice of codecs is exact.

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
        lossy = drops(policy)
        for aim in (policy, policy.at_worst()):
            decided, allowed = within_accuracy(
                solve_for(aim),
                tensors=graph.tensors,
                codecs=codecs,
                drops=lossy,
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
