"""Every objective against trying all plans, and what an objective may not be."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from splitnn.cost.cost import Cost
from splitnn.cost.energy import EnergyPrices
from splitnn.errors import InfeasiblePlan
from splitnn.planner.choice import Choice, choose
from splitnn.planner.constraints import Constraints
from splitnn.planner.meters import Tariff
from splitnn.planner.min_cut import plan
from splitnn.planner.objective import (
    BYTES,
    COST,
    ENERGY,
    LATENCY,
    OBJECTIVES,
    THROUGHPUT,
    Objective,
    Quantity,
    parse_objective,
)
from tests.planner.every_plan import every_plan, joules, random_prices
from tests.planner.random_problems import CODECS, Problem, random_problem

PROBLEMS = 300
TARIFF = Tariff(per_server_s=30.0, per_gb=2000.0)
ROUNDING = 1e-7  # joules: a hundred terms, each rounded to nanojoules


def test_every_mix_equals_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(PROBLEMS):
        problem = _small_problem(rng)
        prices = random_prices(rng, problem)
        quantities: list[Quantity] = rng.sample(["latency", "energy", "bytes", "cost"], rng.choice((1, 1, 2, 3, 4)))
        usual = {"latency": 1e6, "energy": 1e3, "bytes": 1e-2, "cost": 1e4}  # brings all to one order
        objective = Objective({quantity: usual[quantity] * rng.choice((0.1, 1.0, 2.5)) for quantity in quantities})
        expected = min((_value(*each, objective, prices) for each in every_plan(problem)), default=None)
        if expected is None:
            with pytest.raises(InfeasiblePlan):
                _choose(problem, objective, prices)
            continue
        found = _choose(problem, objective, prices)
        rounding = ROUNDING * objective.weights.get("energy", 0.0) + 1e-9 * max(1.0, expected)
        assert found.value == pytest.approx(expected, abs=rounding), f"seed {seed}, problem {number}: {objective}"
        assert found.is_optimal and found.bound == found.value and found.cuts == 1
        worth = _value(found.plan.tiers, found.plan.predicted, objective, prices)
        assert worth == pytest.approx(found.value, abs=rounding)


def test_throughput_equals_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    slower = 0
    for number in range(PROBLEMS):
        problem = _small_problem(rng)
        plans = list(every_plan(problem))
        if not plans:
            continue
        longest = [max(cost.loads_s.values()) for _, cost in plans]
        found = _choose(problem, THROUGHPUT)
        assert found.is_optimal, f"seed {seed}, problem {number}: not proven after {found.cuts} cuts"
        assert found.value == pytest.approx(min(longest), abs=1e-12), f"seed {seed}, problem {number}"
        assert max(found.plan.predicted.loads_s.values()) == pytest.approx(found.value, abs=1e-12)
        slower += found.plan.predicted.latency_ns > min(cost.latency_ns for _, cost in plans)
    assert slower > PROBLEMS / 20, "the random problems are too easy: the quickest plan is nearly always the widest"


def test_latency_is_what_the_minimum_cut_finds(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        problem = random_problem(rng, layers=rng.randint(5, 40), tiers=rng.choice((2, 3, 4)), pinned=False)
        found = _choose(problem, LATENCY)
        known = plan(problem.graph, problem.profiles, problem.topology, codecs=CODECS)
        assert (found.plan.tiers, found.plan.predicted.latency_ns) == (known.tiers, known.predicted.latency_ns)


def test_plan_passes_other_wishes_on(seed: int) -> None:
    problem = random_problem(random.Random(seed), layers=8, tiers=2, pinned=False)
    name = problem.graph.layers[-1].name
    pinned = plan(
        problem.graph,
        problem.profiles,
        problem.topology,
        codecs=CODECS,
        pins={name: "device"},
        constraints=Constraints(keep_on_device=[problem.graph.layers[0].name]),
        objective=THROUGHPUT,
    )
    assert pinned.placement[name] == pinned.placement[problem.graph.layers[0].name] == "device"


def test_of_plans_with_equal_traffic_the_quickest_is_taken(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(200):
        problem = _small_problem(rng, pinned=True)
        plans = [(cost.traffic_bytes, cost.latency_ns) for _, cost in every_plan(problem)]
        if plans:
            cost = _choose(problem, BYTES).plan.predicted
            assert (cost.traffic_bytes, cost.latency_ns) == min(plans), f"seed {seed}, problem {number}"


def test_throughput_stops_with_a_bound_that_holds(seed: int) -> None:
    rng = random.Random(seed)
    open_ends = 0
    for _ in range(10):
        problem = random_problem(rng, layers=rng.randint(10, 25), tiers=3, pinned=False)
        short, best = _choose(problem, THROUGHPUT, effort=3), _choose(problem, THROUGHPUT, effort=3000)
        assert short.bound <= best.value <= short.value and 0 <= short.gap <= 1
        assert short.value * (1 - short.gap) <= best.value + 1e-15
        open_ends += not short.is_optimal
    assert open_ends > 0, "three cuts always sufficed: the gap was never tested"


def test_mixes_are_read_from_text() -> None:
    assert parse_objective("latency=1,energy=0.5").weights == {"latency": 1.0, "energy": 0.5}
    assert all(parse_objective(name) is objective for name, objective in OBJECTIVES.items())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("speed", "there are latency, energy, throughput"),
        ("latency=1,throughput=2", "adds up"),
        ("latency=1,latency=2", "twice"),
        ("latency=fast", "must be a number"),
        ("latency=0", "above 0"),
        ("energy=-1", "above 0"),
        ("energy=inf", "above 0"),
        ("energy=nan", "above 0"),
    ],
)
def test_wrong_objectives_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_objective(text)


def test_objectives_without_their_prices_are_refused(seed: int) -> None:
    problem = random_problem(random.Random(seed), layers=3, tiers=2, pinned=False)
    with pytest.raises(ValueError, match="EnergyPrices"):
        choose(problem.graph, problem.profiles, problem.topology, objective=ENERGY)
    with pytest.raises(ValueError, match="Tariff"):
        choose(problem.graph, problem.profiles, problem.topology, objective=COST)
    with pytest.raises(ValueError, match="EnergyPrices"):
        choose(problem.graph, problem.profiles, problem.topology, constraints=Constraints(max_energy_j=1.0))


def _small_problem(rng: random.Random, *, pinned: bool | None = None) -> Problem:
    tiers = rng.choice((2, 2, 3))
    chance = rng.random() < 0.3 if pinned is None else pinned
    return random_problem(rng, layers=rng.randint(0, {2: 5, 3: 4}[tiers]), tiers=tiers, pinned=chance)


def _choose(problem: Problem, objective: Objective, prices: EnergyPrices | None = None, effort: int = 1000) -> Choice:
    return choose(
        problem.graph,
        problem.profiles,
        problem.topology,
        objective=objective,
        constraints=Constraints(pins=problem.pins),
        codecs=CODECS,
        energy=prices,
        tariff=TARIFF,
        effort=effort,
    )


def _value(tiers: Sequence[int], cost: Cost, objective: Objective, prices: EnergyPrices) -> float:
    server_s = sum(cost.compute_s[1:])
    server_s += sum(t.decode_s + (t.encode_s if t.hop else 0.0) for t in cost.transfers)
    amounts: dict[Quantity, float] = {
        "latency": cost.latency_s,
        "energy": joules(cost, prices),
        "bytes": cost.traffic_bytes,
        "cost": server_s * TARIFF.per_server_s + cost.traffic_bytes * 1e-9 * TARIFF.per_gb,
    }
    return sum(weight * amounts[quantity] for quantity, weight in objective.weights.items())
