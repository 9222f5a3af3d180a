"""Exits, cut and codecs together, within what may be lost of accuracy.

What a policy's exits cost was counted on held-out data, and what a lossy codec costs that very policy was calibrated.
The upper ends of both are added up. A policy for which no codec was calibrated uses lossless ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from splitnn.cost.accuracy import Calibration, policy_drop
from splitnn.cost.energy import EnergyPrices
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.accuracy import AllowedCodecs, Option, within_accuracy
from splitnn.planner.constraints import NO_CONSTRAINTS, Constraints
from splitnn.planner.deadlines import every_policy
from splitnn.planner.exits import Weighed, ask
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import LATENCY, Objective
from splitnn.planner.plan import LOSSLESS

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
    objective: Objective = LATENCY,
    constraints: Constraints = NO_CONSTRAINTS,
    energy: EnergyPrices | None = None,
    tariff: Tariff | None = None,
) -> list[Weighed]:
    """Every policy whose exits and codecs together lose at most ``limit`` of the last exit's accuracy, best first.

    What exits lose is the upper end of 95 %, as ``policy_drop`` has it; where all samples go to the last one, nothing.

    The best is worth least of those that keep the budgets. ``drops`` says of a policy what the lossy ones among
    ``codecs`` cost it, as ``policy_drops`` does; see ``splitnn.planner.accuracy``, which says when the choice of codecs
    is exact.

    Raises:
        ProfileMismatch, ValueError: as ``splitnn.planner.exits.ask``.
        InfeasiblePlan: the constraints contradict each other, or no policy loses so little.
    """
    found: list[Weighed] = []
    failed: InfeasiblePlan | None = None
    for policy in every_policy(exits):
        spare = limit - max(0.0, policy_drop(exits, [each.name for each in policy.exits]).high)
        if spare < -_ROUNDING:
            continue

        def solve(allowed: AllowedCodecs, policy: Exits = policy) -> Weighed:
            return ask(
                graph,
                profiles,
                topology,
                exits=policy,
                objective=objective,
                constraints=constraints,
                codecs=allowed,
                energy=energy,
                tariff=tariff,
            )

        try:
            weighed = within_accuracy(
                solve,
                tensors=graph.tensors,
                codecs=codecs,
                drops=drops(policy),
                limit=max(0.0, spare),
                plan_of=lambda each: each.plan,
                worth=lambda each: (each.excess, each.choice.value),
            )
        except InfeasiblePlan as error:
            failed = failed or error
        else:
            found.append(weighed)
    if not found:
        raise failed or InfeasiblePlan(f"no choice of exits loses at most {limit:.2%}")  # not even the last one alone
    return sorted(found, key=lambda each: (each.excess, each.choice.value))
