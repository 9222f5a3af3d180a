"""The front of latency against energy, against trying all plans under many weights."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from splitnn.planner.constraints import Constraints
from splitnn.planner.pareto import pareto
from tests.planner.every_plan import every_plan, joules, random_prices
from tests.planner.random_problems import CODECS, random_problem

PROBLEMS = 200
WEIGHTS = 30


def test_the_front_is_best_under_every_weight(seed: int) -> None:
    rng = random.Random(seed)
    longest = 0
    for number in range(PROBLEMS):
        problem = random_problem(rng, layers=rng.randint(1, 5), tiers=rng.choice((2, 2, 3)), pinned=False)
        prices = random_prices(rng, problem)
        front = pareto(problem.graph, problem.profiles, problem.topology, energy=prices, codecs=CODECS)
        points = [(cost.latency_s, joules(cost, prices)) for tiers, cost in every_plan(problem)]
        for _ in range(WEIGHTS):
            weight = 10 ** rng.uniform(-5, 8)  # joules for a second
            best = min(latency_s * weight + energy_j for latency_s, energy_j in points)
            found = min(point.latency_s * weight + point.energy_j for point in front)
            assert found == pytest.approx(best, abs=1e-7), f"seed {seed}, problem {number}, {weight} J/s"
        for point in front:
            assert point.latency_s == point.plan.predicted.latency_s
            assert joules(point.plan.predicted, prices) == pytest.approx(point.energy_j, abs=1e-7)
        for quick, slow in pairwise(front):
            assert quick.latency_s < slow.latency_s and quick.energy_j > slow.energy_j
            assert quick.from_j_per_s > slow.from_j_per_s >= 0, "a corner that is not convex"
        longest = max(longest, len(front))
    assert longest >= 3, "the random problems are too easy: no front has three corners"


def test_a_front_is_drawn_without_budgets(seed: int) -> None:
    problem = random_problem(random.Random(seed), layers=3, tiers=2, pinned=False)
    prices = random_prices(random.Random(seed), problem)
    constraints = Constraints(deadline_s=1.0)
    with pytest.raises(ValueError, match="deadline is limited"):
        pareto(problem.graph, problem.profiles, problem.topology, energy=prices, constraints=constraints)
