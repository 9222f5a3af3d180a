"""The front of latency against energy, against trying all plans under many weights."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from splitnn.cost.cost import Cost
from splitnn.cost.energy import EnergyPrices
from splitnn.planner.constraints import Constraints
from splitnn.planner.meters import Tariff
from splitnn.planner.pareto import pareto
from tests.planner.every_plan import every_plan, joules, random_prices
from tests.planner.random_problems import CODECS, random_problem

PROBLEMS = 200
WEIGHTS = 30
TARIFF = Tariff(per_server_s=2.0, per_gb=1e3)


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
            found = min(point.first * weight + point.second for point in front)
            assert found == pytest.approx(best, abs=1e-7), f"seed {seed}, problem {number}, {weight} J/s"
        for point in front:
            assert point.first == pytest.approx(point.plan.predicted.latency_s, rel=1e-12)
            assert joules(point.plan.predicted, prices) == pytest.approx(point.second, abs=1e-7)
        for quick, slow in pairwise(front):
            assert quick.first < slow.first and quick.second > slow.second
            assert quick.from_price > slow.from_price >= 0, "a corner that is not convex"
        longest = max(longest, len(front))
    assert longest >= 3, "the random problems are too easy: no front has three corners"


def test_a_front_is_drawn_without_budgets(seed: int) -> None:
    problem = random_problem(random.Random(seed), layers=3, tiers=2, pinned=False)
    prices = random_prices(random.Random(seed), problem)
    constraints = Constraints(deadline_s=1.0)
    with pytest.raises(ValueError, match="deadline is limited"):
        pareto(problem.graph, problem.profiles, problem.topology, energy=prices, constraints=constraints)


@pytest.mark.parametrize("pair", [("latency", "bytes"), ("energy", "cost"), ("cost", "latency")])
def test_the_front_of_any_pair_that_adds_up_is_best_under_every_weight(seed: int, pair: tuple[str, str]) -> None:
    rng = random.Random(seed)
    for number in range(PROBLEMS // 4):
        problem = random_problem(rng, layers=rng.randint(1, 4), tiers=2, pinned=False)
        prices = random_prices(rng, problem)
        front = pareto(
            problem.graph, problem.profiles, problem.topology, pair=pair, energy=prices, tariff=TARIFF, codecs=CODECS
        )
        points = [[_amount(cost, name, prices) for name in pair] for _, cost in every_plan(problem)]
        for _ in range(WEIGHTS):
            weight = 10 ** rng.uniform(-5, 8)
            best = min(first * weight + second for first, second in points)
            found = min(point.first * weight + point.second for point in front)
            assert found == pytest.approx(best, rel=1e-6, abs=1e-6), f"seed {seed}, problem {number}, {weight}"


def test_the_walk_finds_every_undominated_plan_of_throughput_and_money(seed: int) -> None:
    rng = random.Random(seed)
    longest = 0
    for number in range(PROBLEMS // 4):
        problem = random_problem(rng, layers=rng.randint(1, 4), tiers=2, pinned=False)
        front = pareto(
            problem.graph,
            problem.profiles,
            problem.topology,
            pair=("cost", "throughput"),
            tariff=TARIFF,
            codecs=CODECS,
        )
        points = {
            (_steps(_amount(c, "cost", None)), round(max(c.loads_s.values()) * 1e9)) for _, c in every_plan(problem)
        }
        undominated = [
            point
            for point in points
            if not any(other != point and other[0] <= point[0] and other[1] <= point[1] for other in points)
        ]
        found = [(_steps(point.first), round(point.second * 1e9)) for point in front]
        assert found == sorted(undominated), f"seed {seed}, problem {number}"
        longest = max(longest, len(found))
    assert longest >= 3


def _steps(money: float) -> int:
    """Money to twelve digits: what is equal but for floating point is equal."""
    return round(money * 1e12)


def _amount(cost: Cost, name: str, prices: EnergyPrices | None) -> float:
    if name == "energy" and prices is not None:
        return joules(cost, prices)
    server_s = sum(cost.compute_s[1:]) + sum(t.decode_s for t in cost.transfers)
    money = server_s * TARIFF.per_server_s + cost.traffic_bytes * 1e-9 * TARIFF.per_gb
    return {"latency": cost.latency_s, "bytes": cost.traffic_bytes, "cost": money}[name]


@pytest.mark.parametrize(
    "pair", [("latency", "speed"), ("latency", "latency"), ("cost", "latency"), ("latency", "energy")]
)
def test_pairs_that_are_none_are_refused(pair: tuple[str, str]) -> None:
    problem = random_problem(random.Random(1), layers=3, tiers=2, pinned=False)
    with pytest.raises(ValueError, match="a front"):
        pareto(problem.graph, problem.profiles, problem.topology, pair=pair)
