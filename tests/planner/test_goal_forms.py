"""Forms with goals, and what binds: any objective that adds up, within budgets, under any conditions, by trying all."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest

from splitnn.cost.cost import Cost
from splitnn.cost.energy import EnergyPrices, energy_prices
from splitnn.cost.network import Link, Topology
from splitnn.cost.power import DevicePower, Radio
from splitnn.errors import InfeasiblePlan
from splitnn.planner.binding import binding_constraints
from splitnn.planner.choice import Choice, choose
from splitnn.planner.constraints import Constraints
from splitnn.planner.forms import FormProblem
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import LATENCY, THROUGHPUT, Objective, Quantity
from splitnn.planner.parametric import line_at
from splitnn.planner.sensitivity import Sensitivity, axes_of
from tests.planner.every_plan import every_plan, joules, memory_by_hand, with_weights
from tests.planner.random_problems import CODECS, Problem, random_problem

PROBLEMS = 150
TARIFF = Tariff(per_server_s=5e3, per_gb=1e4)
DEVICE = DevicePower("d", 5e3, 500.0, "made up", verified=False)
RADIO = Radio("r", 900.0, 2e-6, 300.0, 1e-6, 1000.0, 1e-6, "made up", verified=False)


def test_the_best_form_equals_brute_force_for_every_goal(seed: int) -> None:
    rng = random.Random(seed)
    bound = 0
    for number in range(PROBLEMS):
        problem, constraints, objective = _goal(rng)
        plans = _plans(problem, constraints, objective)
        if not plans:
            continue
        forms = _forms(problem, constraints, objective)
        assert float(forms.solve(forms.now).worth(forms.now)) * 1e-9 == pytest.approx(min(plans), abs=2e-7), (
            f"seed {seed}, problem {number}: {objective} under {constraints}"
        )
        assert forms.gap == 0
        bound += min(plans) > min(_plans(problem, replace(constraints, max_bytes=None, memory_bytes={}), objective))
    assert bound > PROBLEMS / 20, "the budgets never bind"


def test_the_envelope_within_budgets_equals_brute_force_at_any_bandwidth(seed: int) -> None:
    rng = random.Random(seed)
    switches = 0
    for number in range(PROBLEMS // 3):
        problem, constraints, objective = _goal(rng)
        if not _plans(problem, constraints, objective):
            continue
        forms = _forms(problem, constraints, objective)
        axis = axes_of(forms, bandwidths_bps=(1e5, 1e10))[0]
        spans = Sensitivity(forms, axis).best
        switches += len(spans) - 1
        ratio = problem.topology.down[0].bandwidth_bps / problem.topology.up[0].bandwidth_bps
        for _ in range(4):
            rate = 10 ** rng.uniform(5, 10)
            up, down = problem.topology.up, problem.topology.down
            there = Topology(
                problem.topology.hosts,
                (Link(rate, up[0].latency_s), *up[1:]),
                (Link(rate * ratio, down[0].latency_s), *down[1:]),
            )
            x = 1 / Fraction(rate)
            best = min(_plans(replace(problem, topology=there), constraints, objective))
            assert float(line_at(spans, x).at(x)) * 1e-9 == pytest.approx(best, abs=1e-6, rel=1e-6), (
                f"seed {seed}, problem {number}: {objective} under {constraints} at {rate}"
            )
    assert switches > PROBLEMS / 10


def test_energy_limits_equal_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    infeasible = binding = 0
    for number in range(PROBLEMS):
        problem = _small(rng)
        plans = [(cost.latency_ns, joules(cost, _prices(problem))) for _, cost in every_plan(problem)]
        if not plans:
            continue
        limit = rng.choice(plans)[1] * rng.choice((0.9, 1.000001, 1.000001))
        where = f"seed {seed}, problem {number}: {limit} J"
        within = [latency_ns for latency_ns, energy_j in plans if energy_j <= limit]
        if not within:
            infeasible += 1
            with pytest.raises(InfeasiblePlan, match="exceeds the energy of") as caught:
                _choose(problem, Constraints(pins=problem.pins, max_energy_j=limit))
            nearest = caught.value.nearest
            assert nearest is not None
            least = min(energy_j for _, energy_j in plans)
            assert joules(nearest.predicted, _prices(problem)) == pytest.approx(least, abs=1e-7), where  # type: ignore[attr-defined]
            continue
        found = _choose(problem, Constraints(pins=problem.pins, max_energy_j=limit))
        assert found.is_optimal and found.plan.predicted.latency_ns == min(within), where
        binding += min(within) > min(latency_ns for latency_ns, _ in plans)
    assert infeasible > PROBLEMS / 50 and binding > PROBLEMS / 20


def test_a_constraint_binds_exactly_when_a_better_plan_appears_without_it(seed: int) -> None:
    rng = random.Random(seed)
    seen = 0
    for number in range(PROBLEMS // 2):
        problem, constraints, objective = _goal(rng)
        if not (plans := _plans(problem, constraints, objective)):
            continue
        found = binding_constraints(
            problem.graph,
            problem.profiles,
            problem.topology,
            constraints=constraints,
            objective=objective,
            codecs=CODECS,
            mode="fast",
            energy=_prices(problem),
            tariff=TARIFF,
        )
        by_name = {each.name: each for each in found}
        where = f"seed {seed}, problem {number}: {objective} under {constraints}"
        for name, loose in constraints.loosened():
            gain = min(plans) - min(_plans(problem, loose, objective))
            if gain > 1e-7:
                seen += 1
                assert by_name[name].without.value == pytest.approx(min(plans) - gain, abs=2e-7), where
            elif gain == 0:
                assert name not in by_name, where
        if "the traffic" in by_name:
            enough = int(by_name["the traffic"].needed.split()[0])
            at, below = (
                min(_plans(problem, replace(constraints, max_bytes=b), objective)) for b in (enough, enough - 1)
            )
            assert at < min(plans) and below == pytest.approx(min(plans), abs=1e-9), where
    assert seen > 10


def test_constraints_that_bind_only_together_are_said_to() -> None:
    problem = random_problem(random.Random(5), layers=6, tiers=2, pinned=False)
    first, *_, last = (layer.name for layer in problem.graph.layers)
    both = Constraints(pins={first: "device", last: "device"})
    found = binding_constraints(problem.graph, problem.profiles, problem.topology, constraints=both, codecs=CODECS)
    alone = _choose(problem, Constraints()).value
    assert not found or found[-1].without.value >= alone
    assert all(each.name in {*dict(both.loosened()), "all of them together"} for each in found)


def test_throughput_has_no_lines(seed: int) -> None:
    problem = random_problem(random.Random(seed), layers=3, tiers=2, pinned=False)
    with pytest.raises(ValueError, match="not a sum"):
        FormProblem(problem.graph, problem.profiles, problem.topology, objective=THROUGHPUT)


def _small(rng: random.Random) -> Problem:
    tiers = rng.choice((2, 2, 3))
    problem = random_problem(rng, layers=rng.randint(1, {2: 5, 3: 4}[tiers]), tiers=tiers, pinned=rng.random() < 0.3)
    profiles = {
        host: replace(found, stage_s=rng.choice((0.0, 2e-6)), message_s=rng.choice((0.0, 1e-6)))
        for host, found in problem.profiles.items()
    }
    return replace(problem, graph=with_weights(rng, problem.graph), profiles=profiles)


def _goal(rng: random.Random) -> tuple[Problem, Constraints, Objective]:
    """A problem, budgets that some random plan keeps, and an objective that adds up."""
    problem = _small(rng)
    weights: list[dict[Quantity, float]] = [
        {"latency": 1.0},
        {"energy": 1.0},
        {"cost": 1.0},
        {"latency": 1.0, "energy": 0.002},
        {"latency": 5.0, "bytes": 1e-6},
    ]
    objective = Objective(rng.choice(weights))
    plans = list(every_plan(problem))
    constraints = Constraints(pins=problem.pins)
    if plans and rng.random() < 0.7:
        constraints = replace(constraints, max_bytes=rng.choice(plans)[1].traffic_bytes)
    if plans and rng.random() < 0.5:
        host = rng.randrange(len(problem.topology.hosts))
        size = memory_by_hand(problem.graph, rng.choice(plans)[0], host)
        constraints = replace(constraints, memory_bytes={problem.topology.hosts[host].name: size})
    return problem, constraints, objective


def _plans(problem: Problem, constraints: Constraints, objective: Objective) -> list[float]:
    """What every plan that obeys is worth."""
    hosts = [host.name for host in problem.topology.hosts]
    prices = _prices(problem)
    obeyed = replace(problem, pins=dict(constraints.pins))
    return [
        _worth(cost, objective, prices)
        for tiers, cost in every_plan(obeyed)
        if (constraints.max_bytes is None or cost.traffic_bytes <= constraints.max_bytes)
        and all(memory_by_hand(problem.graph, tiers, hosts.index(h)) <= b for h, b in constraints.memory_bytes.items())
    ]


def _worth(cost: Cost, objective: Objective, prices: EnergyPrices) -> float:
    server_s = sum(cost.compute_s[1:])
    server_s += sum(t.decode_s + (t.encode_s if t.hop else 0.0) for t in cost.transfers)
    amounts: dict[Quantity, Callable[[], float]] = {
        "latency": lambda: cost.latency_s,
        "energy": lambda: joules(cost, prices),
        "bytes": lambda: cost.traffic_bytes,
        "cost": lambda: server_s * TARIFF.per_server_s + cost.traffic_bytes * 1e-9 * TARIFF.per_gb,
    }
    return sum(weight * amounts[quantity]() for quantity, weight in objective.weights.items())


def _prices(problem: Problem) -> EnergyPrices:
    return energy_prices(DEVICE, RADIO, up=problem.topology.up[0], down=problem.topology.down[0])


def _forms(problem: Problem, constraints: Constraints, objective: Objective) -> FormProblem:
    return FormProblem(
        problem.graph,
        problem.profiles,
        problem.topology,
        codecs=CODECS,
        constraints=constraints,
        objective=objective,
        energy=_prices(problem),
        tariff=TARIFF,
    )


def _choose(problem: Problem, constraints: Constraints) -> Choice:
    return choose(
        problem.graph,
        problem.profiles,
        problem.topology,
        objective=LATENCY,
        constraints=constraints,
        codecs=CODECS,
        mode="fast",
        energy=_prices(problem),
    )
