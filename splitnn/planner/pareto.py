"""All plans that are best for some price of a joule: the front of latency against the device's energy.

Each plan is a point; those on the lower left convex hull of all points are best for some weighing of the two. They
follow as the pieces of the envelope do: between two corners, a minimum cut across the line that joins them finds what
lies furthest below it, or proves that nothing does. Exact, in integers. Plans inside the hull's dents are no one's
best for any weights; a budget (``Constraints.max_energy_j``) finds those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from splitnn.cost.energy import EnergyPrices
from splitnn.cost.estimate import Codecs
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph
from splitnn.planner.choice import PricedProblem
from splitnn.planner.constraints import NO_CONSTRAINTS, Constraints
from splitnn.planner.objective import Objective
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.relaxation import Placement


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One plan of the front, and the price of a second, in joules, from which on it is better than the next plan."""

    plan: Plan
    latency_s: float
    energy_j: float
    from_j_per_s: float  # 0 for the last plan, which needs the least energy


def pareto(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    energy: EnergyPrices,
    constraints: Constraints = NO_CONSTRAINTS,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
) -> tuple[FrontPoint, ...]:
    """The corners of the front, the quickest plan first.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: constraints contradict each other.
        ValueError: a constraint names what does not exist, or is a budget: those are for ``choose``.
    """
    problem = PricedProblem(
        graph,
        profiles,
        topology,
        objective=Objective({"latency": 1.0, "energy": 1.0}),
        constraints=constraints,
        codecs=codecs,
        mode=mode,
        energy=energy,
        tariff=None,
    )
    if budgets := problem.budgets():
        raise ValueError(f"a front is drawn without budgets, but {budgets[0].name} is limited")
    front = _Front(problem)
    return tuple(front.points())


_Corner = tuple[int, int, Placement]  # nanoseconds, nanojoules


class _Front:
    def __init__(self, problem: PricedProblem) -> None:
        self._problem = problem
        self._latency, self._energy = problem.meter("latency"), problem.meter("energy")

    def points(self) -> list[FrontPoint]:
        problem = self._problem
        quickest = self._solve(problem.most("energy") + 1, 1)
        frugal = self._solve(1, problem.most("latency") + 1)
        corners = self._between(quickest, frugal)
        found = []
        for (latency, energy, placement), after in zip(corners, [*corners[1:], None], strict=True):
            price = (energy - after[1]) / (after[0] - latency) if after is not None else 0.0
            found.append(FrontPoint(problem.plan(placement), latency * 1e-9, energy * 1e-9, price))
        return found

    def _between(self, first: _Corner, last: _Corner) -> list[_Corner]:
        """The corners between two of them, those included."""
        if first[:2] == last[:2]:
            return [first]
        per_ns, per_nj = first[1] - last[1], last[0] - first[0]
        middle = self._solve(per_ns, per_nj)
        if middle[0] * per_ns + middle[1] * per_nj == first[0] * per_ns + first[1] * per_nj:
            return [first, last]
        return [*self._between(first, middle), *self._between(middle, last)[1:]]

    def _solve(self, per_ns: int, per_nj: int) -> _Corner:
        weights = [0] * len(self._problem.task.meters)
        weights[self._latency], weights[self._energy] = per_ns, per_nj
        placement = self._problem.cut(weights)
        return placement.amounts[self._latency], placement.amounts[self._energy], placement
