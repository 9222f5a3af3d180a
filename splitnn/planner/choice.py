"""The best plan for any objective under any constraints, with what is proven about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from splitnn.cost.energy import EnergyPrices
from splitnn.cost.estimate import Codecs
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.graph import Graph
from splitnn.planner.bounded import minimise
from splitnn.planner.budget import describe_excess, excess_of, nearest_to
from splitnn.planner.constraints import NO_CONSTRAINTS, Constraints
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import LATENCY, Objective, Quantity
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.priced import PricedProblem
from splitnn.planner.relaxation import Placement


@dataclass(frozen=True)
class Choice:
    """A plan, what it is worth, and how far it is from the best one at most.

    ``value`` and ``bound`` are in ``objective.unit``: no plan that obeys the constraints is worth less than ``bound``.
    For throughput that is seconds between two requests.
    """

    plan: Plan
    objective: Objective
    value: float
    bound: float
    is_optimal: bool
    amounts: Mapping[Quantity, float]  # seconds, joules, bytes, money; what has no price is absent
    peak_bytes: tuple[int, ...]  # of each host, as in ``splitnn.cost.memory``
    cuts: int  # minimum cuts that it took

    @property
    def gap(self) -> float:
        """By which fraction of its value the plan may be improved at most; 0 when it is proven optimal."""
        return 0.0 if self.is_optimal or self.value <= 0 else max(0.0, 1 - self.bound / self.value)


def choose(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    objective: Objective = LATENCY,
    constraints: Constraints = NO_CONSTRAINTS,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    energy: EnergyPrices | None = None,
    tariff: Tariff | None = None,
    effort: int = 1000,
) -> Choice:
    """The plan that ``objective`` likes best among those that obey ``constraints``.

    Without budgets and for all but throughput this is one minimum cut, exact. Else it is branch and bound, exact when
    it ends within ``effort`` minimum cuts; ``Choice.gap`` tells. Of equally good plans the quickest is taken (with
    throughput, the quickest one found).

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: constraints contradict each other, or no plan keeps the budgets; then ``nearest`` is the plan
            that exceeds them least.
        ValueError: a constraint names what does not exist, or the objective or a budget lacks its prices;
            ``effort`` is below 1.
    """
    if effort < 1:
        raise ValueError(f"a search takes at least 1 minimum cut, not {effort}")
    problem = PricedProblem(
        graph,
        profiles,
        topology,
        objective=objective,
        constraints=constraints,
        codecs=codecs,
        mode=mode,
        energy=energy,
        tariff=tariff,
    )
    return settle(problem, effort=effort).choice


@dataclass(frozen=True, slots=True)
class Settled:
    """A choice with the placement that it is made of, and its value in whole steps of the objective.

    ``excess`` is 0, or by what share the nearest placement exceeds the budget that it exceeds most.
    """

    choice: Choice
    placement: Placement
    steps: int
    excess: float = 0.0


def settle(problem: PricedProblem, *, effort: int) -> Settled:
    """``choose`` for a problem that is made already.

    Raises:
        InfeasiblePlan, ValueError: as ``choose``.
    """
    found = settle_or_nearest(problem, effort=effort)
    if found.excess:
        raise InfeasiblePlan(explain_excess(problem, effort=effort), found.choice.plan)
    return found


def explain_excess(problem: PricedProblem, *, effort: int) -> str:
    """Which budgets the nearest placement exceeds, as text."""
    budgets = problem.budgets()
    return describe_excess(problem.task, budgets, nearest_to(problem.task, budgets, effort=effort), effort=effort)


def settle_or_nearest(problem: PricedProblem, *, effort: int) -> Settled:
    """``settle``, but where no placement keeps the budgets the one that exceeds them least, whatever it is worth.

    Raises:
        InfeasiblePlan, ValueError: as ``choose``, but for budgets.
    """
    objective = problem.objective
    wanted, scale = problem.wanted()
    budgets = problem.budgets()
    limits = [budget.row for budget in budgets]
    start = None
    first = problem.cut([sum(column) for column in zip(*(row.weights for row in wanted), strict=True)])
    if not all(row.allows(first) for row in limits):
        nearest = nearest_to(problem.task, budgets, effort=effort)
        if not nearest.is_within:
            value = max(row.of(nearest.placement) for row in wanted) // scale
            choice = _choice(problem, nearest.placement, value, 0, cuts=0)
            choice = replace(choice, bound=math.inf if nearest.is_proven else 0.0, is_optimal=False)
            return Settled(choice, nearest.placement, value, excess_of(budgets, nearest.placement))
        start = nearest.placement
    found = minimise(problem.task, [*wanted, *limits], start=start, effort=effort)
    best = found.best
    if best is None:
        raise RuntimeError("defect of the planner: the placement within the budgets was lost")
    if objective.is_throughput:
        best = problem.quickest(wanted, limits, found, effort=effort // 4)
    value = found.value // scale
    return Settled(_choice(problem, best, value, found.bound // scale, cuts=found.cuts), best, value)


def _choice(problem: PricedProblem, best: Placement, value: int, bound: int, *, cuts: int) -> Choice:
    objective = problem.objective
    unit = Fraction(1, 10**9) if objective.is_throughput else Fraction(1, objective.scale)
    return Choice(
        plan=problem.plan(best),
        objective=objective,
        value=float(value * unit),
        bound=float(bound * unit),
        is_optimal=bound >= value,
        amounts=problem.amounts(best),
        peak_bytes=problem.peak_bytes(best),
        cuts=cuts,
    )
