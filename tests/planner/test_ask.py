"""Models with exits under any objective and any budget, against every plan with its samples run one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from splitnn.cost.cost import Cost
from splitnn.cost.energy import EnergyPrices
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits, part_used
from splitnn.planner.constraints import Constraints
from splitnn.planner.deadlines import every_policy
from splitnn.planner.exits import Weighed, ask, plan_exits, weigh
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import BYTES, COST, ENERGY, LATENCY, THROUGHPUT, Objective
from tests.planner.every_plan import every_table, joules, memory_by_hand, random_prices, with_weights
from tests.planner.random_exits import random_exit_problem, simulated
from tests.planner.random_problems import CODECS, Problem

PROBLEMS = 250
TARIFF = Tariff(per_server_s=30.0, per_gb=2000.0)
OBJECTIVES = (LATENCY, ENERGY, BYTES, COST, THROUGHPUT, Objective({"latency": 1e6, "energy": 2e3, "bytes": 0.02}))

_Samples = Sequence[tuple[int, Cost]]  # how many leave at each exit, and what each of them costs
_Point = tuple[tuple[int, ...], _Samples]


def test_every_objective_equals_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    other = 0
    for number in range(PROBLEMS):
        problem, exits = _problem(rng)
        prices = random_prices(rng, problem)
        objective = OBJECTIVES[number % len(OBJECTIVES)]
        where = f"seed {seed}, problem {number}: {objective.name}"
        points = list(_every_point(problem, exits))
        if not points:
            with pytest.raises(InfeasiblePlan):
                _ask(problem, exits, objective, prices)
            continue
        values = [_value(samples, objective, prices) for _, samples in points]
        found = _ask(problem, exits, objective, prices)
        assert found.choice.is_optimal and found.is_within, where
        assert found.choice.value == pytest.approx(min(values), abs=_rounding(objective, points)), where
        quickest = plan_exits(
            problem.graph,
            problem.profiles,
            problem.topology,
            exits=exits,
            codecs=CODECS,
            mode="fast",
            pins=problem.pins,
        )
        if objective is LATENCY:
            assert found.mean.latency_ns == quickest.predicted.latency_ns, where
        other += found.plan.tiers != quickest.tiers
    assert other > PROBLEMS / 20, "the quickest plan is nearly always the best one of every objective: too easy"


def test_budgets_hold_for_every_sample_and_the_best_plan_within_is_found(seed: int) -> None:
    rng = random.Random(seed)
    infeasible = binding = 0
    for number in range(PROBLEMS):
        problem, exits = _problem(rng)
        problem = replace(problem, graph=with_weights(rng, problem.graph))
        prices = random_prices(rng, problem)
        points = list(_every_point(problem, exits))
        if not points:
            continue
        constraints = _random_budgets(rng, problem, exits, points, prices)
        objective = rng.choice((LATENCY, BYTES, THROUGHPUT, ENERGY))
        where = f"seed {seed}, problem {number}: {objective.name} under {constraints}"
        within = [each for each in points if _obeys(problem, exits, constraints, prices, each)]
        found = _ask(problem, exits, objective, prices, constraints)
        assert found.is_within == bool(within), where
        if not within:
            infeasible += 1
            continue
        best = min(_value(samples, objective, prices) for _, samples in within)
        assert found.choice.value == pytest.approx(best, abs=_rounding(objective, points)), where
        assert found.choice.is_optimal, where
        binding += best > min(_value(samples, objective, prices) for _, samples in points)
        if constraints.deadline_s is not None:
            assert found.worst.latency_s <= constraints.deadline_s + 1e-15, where
        if constraints.max_bytes is not None:
            assert found.worst.traffic_bytes <= constraints.max_bytes, where
    assert infeasible > PROBLEMS / 25 and binding > PROBLEMS / 50, f"too loose or too tight: {infeasible}, {binding}"


def test_policies_come_by_accuracy_and_those_over_a_budget_last() -> None:
    late = 0
    for seed in range(40):
        print(f"seed {seed}")
        rng = random.Random(seed)
        problem, exits = random_exit_problem(rng, layers=5, tiers=2)
        policies = every_policy(exits)
        budget = rng.choice((0, 12, 150))
        pins = {problem.graph.producer[exits.exits[-1].output]: problem.topology.hosts[1].name}
        found = weigh(
            problem.graph,
            problem.profiles,
            problem.topology,
            policies=policies,
            objective=THROUGHPUT,
            constraints=Constraints(pins=pins, max_bytes=budget),
            codecs=CODECS,
            mode="fast",
        )
        assert len(found) == len(policies)
        for each in found:
            assert each.is_within == (each.worst.traffic_bytes <= budget)
        accuracies = [each.exits.accuracy for each in found if each.is_within]
        assert accuracies == sorted(accuracies, reverse=True)
        assert [each.is_within for each in found] == sorted((each.is_within for each in found), reverse=True)
        late += any(not each.is_within for each in found)
    assert late > 3


def test_what_no_order_of_the_exits_obeys_is_refused() -> None:
    problem, exits = random_exit_problem(random.Random(3), layers=6, tiers=2)
    assert len(exits.exits) > 1
    hosts = [host.name for host in problem.topology.hosts]
    first, last = (problem.graph.producer[each.output] for each in (exits.exits[0], exits.exits[-1]))
    with pytest.raises(InfeasiblePlan, match="no host on which each exit could be decided"):
        _ask(problem, exits, LATENCY, None, Constraints(pins={first: hosts[1], last: hosts[0]}))


def _problem(rng: random.Random) -> tuple[Problem, Exits]:
    tiers = rng.choice((2, 2, 2, 3))
    return random_exit_problem(rng, layers=rng.randint(1, {2: 5, 3: 4}[tiers]), tiers=tiers, pinned=rng.random() < 0.3)


def _ask(
    problem: Problem,
    exits: Exits,
    objective: Objective,
    prices: EnergyPrices | None,
    constraints: Constraints | None = None,
) -> Weighed:
    return ask(
        problem.graph,
        problem.profiles,
        problem.topology,
        exits=exits,
        objective=objective,
        constraints=constraints or Constraints(pins=problem.pins),
        codecs=CODECS,
        energy=prices,
        tariff=TARIFF,
    )


def _every_point(problem: Problem, exits: Exits) -> list[_Point]:
    """Every placement and choice of codecs that decides the exits in order, with what its samples cost."""
    graph = problem.graph
    found: list[_Point] = []
    for tiers, table in every_table(problem):
        decided_on = [tiers[graph.index[graph.producer[each.output]]] for each in exits.exits]
        if decided_on == sorted(decided_on):
            last = len(exits.exits) - 1
            samples = [
                (left, simulated(graph, tiers, table, exits, at))
                for at, left in enumerate(exits.left)
                if left or at == last
            ]
            found.append((tiers, samples))
    return found


def _mean(samples: _Samples, of: Sequence[float]) -> float:
    return sum(left * each for (left, _), each in zip(samples, of, strict=True)) / sum(left for left, _ in samples)


def _value(samples: _Samples, objective: Objective, prices: EnergyPrices) -> float:
    costs = [cost for _, cost in samples]
    if objective.is_throughput:
        busy = {resource for cost in costs for resource in cost.loads_s}
        return max(_mean(samples, [cost.loads_s.get(resource, 0.0) for cost in costs]) for resource in busy)
    amounts = {
        "latency": [cost.latency_s for cost in costs],
        "energy": [joules(cost, prices) for cost in costs],
        "bytes": [float(cost.traffic_bytes) for cost in costs],
        "cost": [_money(cost) for cost in costs],
    }
    return sum(weight * _mean(samples, amounts[quantity]) for quantity, weight in objective.weights.items())


def _money(cost: Cost) -> float:
    server_s = sum(cost.compute_s[1:])
    server_s += sum(each.decode_s + (each.encode_s if each.hop else 0.0) for each in cost.transfers)
    return server_s * TARIFF.per_server_s + cost.traffic_bytes * 1e-9 * TARIFF.per_gb


def _rounding(objective: Objective, points: Sequence[_Point]) -> float:
    """Every term of a mean is a whole number of nanoseconds and nanojoules, or of bytes, half of one away at most."""
    terms = max(
        2 * len(cost.compute_s) + 9 + len(cost.transfers) + len(cost.downloads)
        for _, samples in points
        for _, cost in samples
    )
    steps = {"latency": 1e-9, "energy": 1e-5, "bytes": 1.0, "cost": 1e-5, "throughput": 1e-9}
    weights = {"throughput": 1.0} if objective.is_throughput else dict(objective.weights)
    return sum(weight * steps[quantity] * terms for quantity, weight in weights.items())


def _random_budgets(
    rng: random.Random, problem: Problem, exits: Exits, points: Sequence[_Point], prices: EnergyPrices
) -> Constraints:
    """One or two budgets, each midway between what two plans need: rounding cannot matter."""
    found = Constraints(pins=problem.pins)
    for kind in rng.sample(["deadline", "bytes", "energy", "memory"], rng.choice((1, 1, 2))):
        if kind == "memory":
            host = rng.randrange(len(problem.topology.hosts))
            tiers, _ = rng.choice(points)
            budget = max(0, _memory(problem, exits, tiers, host) - rng.choice((0, 0, 1)))
            name = problem.topology.hosts[host].name
            found = replace(found, memory_bytes={**found.memory_bytes, name: budget})
            continue
        uses = sorted({round(_use(samples, kind, prices), 9) for _, samples in points})
        at = rng.randrange(len(uses))
        limit = uses[0] / 2 if at == 0 else (uses[at - 1] + uses[at]) / 2
        limit = uses[-1] * 2 + 1 if rng.random() < 0.1 else limit
        if kind == "deadline":
            found = replace(found, deadline_s=limit)
        elif kind == "bytes":
            found = replace(found, max_bytes=int(limit))
        else:
            found = replace(found, max_energy_j=limit)
    return found


def _use(samples: _Samples, kind: str, prices: EnergyPrices) -> float:
    """What the sample that leaves last needs."""
    _, cost = samples[-1]
    if kind == "deadline":
        return cost.latency_s
    return float(cost.traffic_bytes) if kind == "bytes" else joules(cost, prices)


def _memory(problem: Problem, exits: Exits, tiers: tuple[int, ...], host: int) -> int:
    part = part_used(problem.graph, exits)
    return memory_by_hand(part, tuple(tiers[problem.graph.index[layer.name]] for layer in part.layers), host)


def _obeys(problem: Problem, exits: Exits, constraints: Constraints, prices: EnergyPrices, point: _Point) -> bool:
    tiers, samples = point
    hosts = [host.name for host in problem.topology.hosts]
    limits = (
        ("deadline", constraints.deadline_s),
        ("bytes", constraints.max_bytes),
        ("energy", constraints.max_energy_j),
    )
    return all(limit is None or _use(samples, kind, prices) <= limit for kind, limit in limits) and all(
        _memory(problem, exits, tiers, hosts.index(host)) <= budget for host, budget in constraints.memory_bytes.items()
    )
