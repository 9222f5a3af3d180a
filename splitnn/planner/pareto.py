"""All plans that are best for some price of one thing in another: latency against the device's energy, say.

Each plan is a point; those on the lower left convex hull of all points are best for some weighing of the two. They
follow as the pieces of the envelope do: between two corners, a minimum cut across the line that joins them finds what
lies furthest below it, or proves that nothing does. Exact, in integers. Plans inside the hull's dents are no one's
best for any weights; a budget (``Constraints.max_energy_j``) finds those. Throughput is no sum: its front is walked
from plan to plan, each the cheapest one that is quicker at its bottleneck than the last, dents included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from splitnn.cost.energy import EnergyPrices
from splitnn.cost.estimate import Codecs
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph
from splitnn.planner.bounded import Row, minimise
from splitnn.planner.constraints import NO_CONSTRAINTS, Constraints
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import LATENCY, METER_UNITS, OBJECTIVES, QUANTITIES, THROUGHPUT
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.priced import PricedProblem
from splitnn.planner.relaxation import Placement

_LONGEST_WALK = 30


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """A plan, and what a unit of the first must be worth, in the second, for it to beat the next plan of the front."""

    plan: Plan
    first: float  # seconds, joules, bytes or money; seconds between two requests for throughput
    second: float
    from_price: float  # 0 for the last plan, which needs the least of the second


def pareto(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    pair: tuple[str, str] = ("latency", "energy"),
    energy: EnergyPrices | None = None,
    tariff: Tariff | None = None,
    constraints: Constraints = NO_CONSTRAINTS,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
) -> tuple[FrontPoint, ...]:
    """The corners of the front of a pair of quantities, the plan with the least of the first one first.

    ``throughput`` may be the first or the second; then the walk ends after 30 plans.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: constraints contradict each other.
        ValueError: a constraint names what does not exist, or is a budget: those are for ``choose``; the pair is none,
            or lacks its prices.
    """
    for name in pair:
        if name not in OBJECTIVES:
            raise ValueError(f"a front is of two of {', '.join(OBJECTIVES)}, not {name!r}")
    if pair[0] == pair[1]:
        raise ValueError(f"a front is of two different quantities, not {pair[0]} twice")
    if (missing := "energy" if "energy" in pair and energy is None else "") or ("cost" in pair and tariff is None):
        raise ValueError(f"a front of {missing or 'cost'} takes {'EnergyPrices' if missing else 'a Tariff'}")
    walks = "throughput" in pair
    problem = PricedProblem(
        graph,
        profiles,
        topology,
        objective=THROUGHPUT if walks else LATENCY,
        constraints=constraints,
        codecs=codecs,
        mode=mode,
        energy=energy,
        tariff=tariff,
    )
    if budgets := problem.budgets():
        raise ValueError(f"a front is drawn without budgets, but {budgets[0].name} is limited")
    if not walks:
        return tuple(_Front(problem, pair).points())
    walked = _walk(problem, pair[0] if pair[1] == "throughput" else pair[1])
    points = [FrontPoint(problem.plan(placement), amount, load, 0.0) for amount, load, placement in walked]
    if pair[0] == "throughput":
        points = [FrontPoint(point.plan, point.second, point.first, 0.0) for point in reversed(points)]
    return tuple(
        replace(point, from_price=(point.second - after.second) / (after.first - point.first)) if after else point
        for point, after in zip(points, [*points[1:], None], strict=True)
    )


def _walk(problem: PricedProblem, name: str) -> list[tuple[float, float, Placement]]:
    """The least of a quantity for each bottleneck that may be had, the longest first: amounts in units, placements."""
    loads, _ = problem.wanted()
    number = problem.meter(name)
    row = Row(tuple(int(meter == number) for meter in range(len(problem.task.meters))))
    unit = METER_UNITS[next(quantity for quantity in QUANTITIES if quantity == name)]
    shortest = minimise(problem.task, loads)
    found: list[tuple[float, float, Placement]] = []
    limits: list[Row] = []
    while len(found) < _LONGEST_WALK:
        start = shortest.best if limits else None
        least = minimise(problem.task, [row, *limits], start=start)
        if least.best is None:
            break
        # Of those that take as little, the one with the shortest bottleneck.
        kept = replace(row, limit=least.value)
        best = minimise(problem.task, [*loads, kept, *limits], start=least.best).best or least.best
        load = max(each.of(best) for each in loads)
        found.append((float(row.of(best) * unit), load * 1e-9, best))
        if load <= shortest.value:
            break
        limits = [replace(each, limit=load - 1) for each in loads]
    return found


_Corner = tuple[int, int, Placement]  # steps of both meters


class _Front:
    def __init__(self, problem: PricedProblem, pair: tuple[str, str]) -> None:
        self._problem = problem
        self._names = pair
        self._first, self._second = (problem.meter(name) for name in pair)
        self._units = [float(METER_UNITS[name]) for quantity in pair for name in QUANTITIES if name == quantity]

    def points(self) -> list[FrontPoint]:
        problem = self._problem
        first, second = self._names
        low = self._solve(problem.most(second) + 1, 1)
        corners = self._between(low, self._solve(1, problem.most(first) + 1))
        found = []
        unit, other = self._units
        for (less, more, placement), after in zip(corners, [*corners[1:], None], strict=True):
            price = (more - after[1]) * other / ((after[0] - less) * unit) if after is not None else 0.0
            found.append(FrontPoint(problem.plan(placement), less * unit, more * other, price))
        return found

    def _between(self, first: _Corner, last: _Corner) -> list[_Corner]:
        """The corners between two of them, those included."""
        if first[:2] == last[:2]:
            return [first]
        per_first, per_second = first[1] - last[1], last[0] - first[0]
        middle = self._solve(per_first, per_second)
        if middle[0] * per_first + middle[1] * per_second == first[0] * per_first + first[1] * per_second:
            return [first, last]
        return [*self._between(first, middle), *self._between(middle, last)[1:]]

    def _solve(self, per_first: int, per_second: int) -> _Corner:
        weights = [0] * len(self._problem.task.meters)
        weights[self._first], weights[self._second] = per_first, per_second
        placement = self._problem.cut(weights)
        return placement.amounts[self._first], placement.amounts[self._second], placement
