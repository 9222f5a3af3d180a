"""Which constraint keeps a better plan out, and how far it would have to give way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from splitnn.cost.energy import EnergyPrices
from splitnn.cost.estimate import Codecs
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph
from splitnn.planner.bounded import minimise
from splitnn.planner.budget import Budget
from splitnn.planner.choice import Choice, Settled, settle
from splitnn.planner.constraints import Constraints
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import LATENCY, Objective
from splitnn.planner.plan import Mode
from splitnn.planner.priced import PricedProblem


@dataclass(frozen=True, slots=True)
class Binding:
    """A constraint without which a better plan would be chosen."""

    name: str  # as ``Constraints.loosened`` says it; "all of them together" when no single one binds
    without: Choice
    limit: str  # of a budget, as text with its unit; else empty
    needed: str  # the least that the budget has to be for anything to be gained, likewise
    is_proven: bool  # that less than ``needed`` gains nothing


def binding_constraints(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    constraints: Constraints,
    objective: Objective = LATENCY,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    energy: EnergyPrices | None = None,
    tariff: Tariff | None = None,
    effort: int = 400,
) -> tuple[Binding, ...]:
    """The constraints that bind, what costs most first; each is given up while all others stay.

    ``effort`` is the number of minimum cuts of each search; one that ends early may miss a gain, but invents none.

    Raises:
        ProfileMismatch, InfeasiblePlan, ValueError: as ``splitnn.planner.choice.choose``.
    """

    def problem(obeyed: Constraints) -> PricedProblem:
        return PricedProblem(
            graph,
            profiles,
            topology,
            objective=objective,
            constraints=obeyed,
            codecs=codecs,
            mode=mode,
            energy=energy,
            tariff=tariff,
        )

    tight = problem(constraints)
    chosen = settle(tight, effort=effort)
    budgets = {budget.name: budget for budget in tight.budgets()}
    found = []
    for name, loose in constraints.loosened():
        loosened = problem(loose)
        free = settle(loosened, effort=effort)
        if free.steps >= chosen.steps:
            continue
        if name not in budgets:
            found.append(Binding(name, free.choice, "", "", is_proven=True))
            continue
        limit = budgets[name]
        least, is_proven = _least(tight, limit, chosen=chosen, free=free, effort=effort)
        found.append(Binding(name, free.choice, limit.show(limit.limit), limit.show(least), is_proven))
    if not found and constraints != Constraints():
        free = settle(problem(Constraints()), effort=effort)
        if free.steps < chosen.steps:
            found.append(Binding("all of them together", free.choice, "", "", is_proven=True))
    return tuple(sorted(found, key=lambda each: each.without.value))


def _least(problem: PricedProblem, budget: Budget, *, chosen: Settled, free: Settled, effort: int) -> tuple[int, bool]:
    """The least use of a budget by any plan that is worth more than the chosen one and keeps the other budgets."""
    wanted, scale = problem.wanted()
    better = [replace(row, limit=chosen.steps * scale - 1) for row in wanted]
    others = [other.row for other in problem.budgets() if other.name != budget.name]
    # The placement that is the best without the budget is counted by the meters of another problem: count it anew.
    start = problem.task.placement(free.placement.tiers, free.placement.choices)
    found = minimise(problem.task, [replace(budget.row, limit=None), *better, *others], start=start, effort=effort)
    return found.value, found.value == found.bound
