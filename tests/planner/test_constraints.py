"""Budgets and places where layers may run, against trying all plans; and what is said when no plan obeys."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from splitnn.cost.cost import Cost
from splitnn.cost.memory import peak_bytes
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile, Timing
from splitnn.errors import InfeasiblePlan
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.planner.choice import Choice, choose
from splitnn.planner.constraints import Constraints
from splitnn.planner.objective import BYTES, LATENCY, THROUGHPUT, Objective
from splitnn.planner.plan import Plan
from tests.planner.every_plan import every_plan, memory_by_hand, with_weights
from tests.planner.random_problems import CODECS, Problem, random_problem

PROBLEMS = 500

_Point = tuple[tuple[int, ...], Cost]


def test_budgets_equal_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    infeasible = binding = 0
    for number in range(PROBLEMS):
        problem = _problem(rng)
        plans = list(every_plan(problem))
        if not plans:
            continue
        constraints = _random_budgets(rng, problem, plans)
        objective = rng.choice((LATENCY, BYTES, THROUGHPUT))
        within = [each for each in plans if _excess(problem, constraints, each) <= 0]
        where = f"seed {seed}, problem {number}: {objective.name} under {constraints}"
        if not within:
            infeasible += 1
            with pytest.raises(InfeasiblePlan, match="no plan keeps the budgets") as caught:
                _choose(problem, objective, constraints)
            nearest = caught.value.nearest
            assert isinstance(nearest, Plan)
            least = min(_excess(problem, constraints, each) for each in plans)
            assert _excess(problem, constraints, (nearest.tiers, nearest.predicted)) == pytest.approx(least), where
            continue
        found = _choose(problem, objective, constraints)
        best = min(_worth(objective, cost) for _, cost in within)
        assert found.is_optimal and found.gap == 0, f"{where}: not proven after {found.cuts} cuts"
        assert found.value == pytest.approx(best, abs=1e-12), where
        assert _excess(problem, constraints, (found.plan.tiers, found.plan.predicted)) <= 0, where
        binding += best > min(_worth(objective, cost) for _, cost in plans)
    assert infeasible > PROBLEMS / 20 and binding > PROBLEMS / 20, "the random budgets are too loose or too tight"


def test_a_short_search_states_a_gap_that_holds(seed: int) -> None:
    rng = random.Random(seed)
    open_ends = 0
    for _ in range(300):
        problem = _problem(rng)
        plans = list(every_plan(problem))
        if not plans:
            continue
        constraints = _random_budgets(rng, problem, plans)
        within = [cost.latency_ns for tiers, cost in plans if _excess(problem, constraints, (tiers, cost)) <= 0]
        try:
            found = _choose(problem, LATENCY, constraints, effort=4)
        except InfeasiblePlan as error:
            given_up = "ruled none out" in str(error)
        else:
            given_up = False
        if given_up or not within:
            continue
        assert round(found.bound * 1e9) <= min(within) <= round(found.value * 1e9)
        assert (found.gap == 0) == found.is_optimal
        open_ends += not found.is_optimal
    print(f"{open_ends} searches ended with a gap")


def test_forbidden_operators_equal_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    infeasible = 0
    for number in range(PROBLEMS):
        tiers = rng.choice((2, 3, 4))
        problem = random_problem(rng, layers=rng.randint(1, 5), tiers=tiers, pinned=rng.random() < 0.3)
        hosts = [host.name for host in problem.topology.hosts]
        layers = tuple(
            replace(layer, op=rng.choice(("a.conv.x", "a.relu.x", "a.add.x"))) for layer in problem.graph.layers
        )
        problem = replace(problem, graph=replace(problem.graph, layers=layers))
        ops = {layer.op for layer in layers}
        forbidden = {rng.choice(sorted(ops)): rng.sample(hosts, rng.choice((1, 1, 2)))}
        constraints = Constraints(pins=problem.pins, forbidden=forbidden)
        allowed = [
            cost.latency_ns
            for placement, cost in every_plan(problem)
            if all(hosts[t] not in forbidden.get(y.op, ()) for t, y in zip(placement, layers, strict=True))
        ]
        where = f"seed {seed}, problem {number}: {constraints}"
        if not allowed:
            infeasible += 1
            with pytest.raises(InfeasiblePlan, match=r"forbidden|host is left|data never flows back"):
                _choose(problem, LATENCY, constraints)
            continue
        found = _choose(problem, LATENCY, constraints)
        assert found.plan.predicted.latency_ns == min(allowed), where
        assert not any(found.plan.placement[y.name] in forbidden.get(y.op, ()) for y in layers), where
    assert infeasible > 0


def test_private_tensors_and_kept_layers_equal_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(PROBLEMS):
        problem = random_problem(rng, layers=rng.randint(1, 6), tiers=2, pinned=False)
        graph = problem.graph
        private = rng.sample(list(graph.tensors), rng.choice((0, 1, 2)))
        kept = rng.sample([layer.name for layer in graph.layers], rng.choice((0, 1)))
        found = _choose(problem, LATENCY, Constraints(keep_on_device=kept, private=private))
        allowed = []
        for tiers, cost in every_plan(problem):
            beyond = {layer.name for layer, tier in zip(graph.layers, tiers, strict=True) if tier}
            known = {t for name in beyond for t in (*graph.layer(name).inputs, *graph.layer(name).outputs)}
            if not known & set(private) and not beyond & set(kept):
                allowed.append(cost.latency_ns)
        assert found.plan.predicted.latency_ns == min(allowed), f"seed {seed}, problem {number}"


def test_memory_is_weights_once_and_what_is_alive(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        graph = with_weights(rng, random_problem(rng, layers=rng.randint(0, 12), tiers=2, pinned=False).graph)
        tiers = tuple(rng.choice((0, 1)) for _ in graph.layers)
        for host in (0, 1):
            names = [layer.name for layer, tier in zip(graph.layers, tiers, strict=True) if tier == host]
            assert peak_bytes(graph, names) == memory_by_hand(graph, tiers, host)


CHAIN = Graph(
    tuple(Layer(f"l{i}", "aten.relu.default", (f"t{i}",), (f"t{i + 1}",), weights=(f"w{i}",)) for i in range(4)),
    {f"t{i}": TensorSpec((1000,), "uint8") for i in range(5)},
    ("t0",),
    ("t4",),
    {f"w{i}": 100 for i in range(4)},
)
PROFILES = {
    host: Profile("digest", host, {f"l{i}": Timing(seconds, seconds) for i in range(4)}, Timing(0, 0))
    for host, seconds in (("device", 0.1), ("cloud", 0.01))
}
LINK = Topology.chain(["device", "cloud"], ["1Mbps/20ms"])


def test_a_deadline_that_no_plan_meets_says_by_how_much() -> None:
    with pytest.raises(
        InfeasiblePlan, match=r"deadline of 50 ms by 26 ms \(52.0% over\).*less than 76 ms; the deadline is 50 ms"
    ) as caught:
        choose(CHAIN, PROFILES, LINK, constraints=Constraints(deadline_s=0.05))
    assert isinstance(caught.value.nearest, Plan)
    assert caught.value.nearest.tiers == (1, 1, 1, 1)


def test_budgets_that_exclude_each_other_say_so() -> None:
    constraints = Constraints(deadline_s=0.2, max_bytes=1000)
    with pytest.raises(InfeasiblePlan, match="each budget alone can be kept"):
        choose(CHAIN, PROFILES, LINK, constraints=constraints)


def test_a_budget_of_exactly_what_is_needed_is_kept() -> None:
    assert choose(CHAIN, PROFILES, LINK, constraints=Constraints(deadline_s=0.076)).plan.tiers == (1, 1, 1, 1)
    tight = Constraints(memory_bytes={"device": 2400}, max_bytes=2000)
    assert choose(CHAIN, PROFILES, LINK, objective=BYTES, constraints=tight).peak_bytes == (2400, 0)
    with pytest.raises(InfeasiblePlan, match="memory of device"):
        choose(CHAIN, PROFILES, LINK, constraints=Constraints(memory_bytes={"device": 2399}, max_bytes=0))


@pytest.mark.parametrize(
    ("constraints", "complaint"),
    [
        (
            Constraints(private=["t0"], pins={"l0": "cloud"}),
            "'l0' is pinned to 'cloud' and reads the private tensor 't0'",
        ),
        (Constraints(private=["t3"], pins={"l0": "cloud"}), "makes the private tensor 't3', but it needs 'l0'"),
        (Constraints(keep_on_device=["l2"], forbidden={"relu": ["device"]}), "kept on 'device' and must not run on"),
        (Constraints(forbidden={"relu": ["device", "cloud"]}), "no host is left"),
    ],
)
def test_contradictions_name_both_sides(constraints: Constraints, complaint: str) -> None:
    with pytest.raises(InfeasiblePlan, match=complaint):
        choose(CHAIN, PROFILES, LINK, constraints=constraints)


@pytest.mark.parametrize(
    ("constraints", "complaint"),
    [
        (Constraints(pins={"l9": "cloud"}), "'l9'"),
        (Constraints(keep_on_device=["l9"]), "'l9'"),
        (Constraints(private=["t9"]), r"'t9'.*inputs are \['t0'\]"),
        (Constraints(forbidden={"conv": ["cloud"]}), "operators are aten.relu.default"),
        (Constraints(forbidden={"relu": ["clowd"]}), "'clowd'"),
        (Constraints(memory_bytes={"clowd": 1}), "'clowd'"),
    ],
)
def test_constraints_on_what_does_not_exist_are_misuse(constraints: Constraints, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        choose(CHAIN, PROFILES, LINK, constraints=constraints)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_budgets_are_finite_numbers(value: float) -> None:
    with pytest.raises(ValueError, match="limited to a finite number"):
        Constraints(deadline_s=value)


def _problem(rng: random.Random) -> Problem:
    tiers = rng.choice((2, 2, 3))
    problem = random_problem(rng, layers=rng.randint(1, {2: 5, 3: 4}[tiers]), tiers=tiers, pinned=rng.random() < 0.2)
    return replace(problem, graph=with_weights(rng, problem.graph))


def _random_budgets(rng: random.Random, problem: Problem, plans: list[_Point]) -> Constraints:
    """One to three budgets, each what some random plan needs, or a little less."""
    kinds = rng.sample(["deadline", "bytes", "memory", "memory"], rng.choice((1, 2, 2, 3)))
    constraints = Constraints(pins=problem.pins)
    for kind in kinds:
        tiers, cost = rng.choice(plans)
        less = rng.choice((0, 0, 1))
        if kind == "deadline":
            constraints = replace(constraints, deadline_s=max(0, cost.latency_ns - less) / 1e9)
        elif kind == "bytes":
            constraints = replace(
                constraints, max_bytes=max(0, min(cost.traffic_bytes, rng.choice((10**9, 10**9, 3))) - less)
            )
        else:
            host = rng.randrange(len(problem.topology.hosts))
            budget = max(0, memory_by_hand(problem.graph, tiers, host) - less)
            budget = rng.choice((budget, budget, budget, rng.randrange(4)))  # a step is much of a tiny limit
            budgets = {**constraints.memory_bytes, problem.topology.hosts[host].name: budget}
            constraints = replace(constraints, memory_bytes=budgets)
    return constraints


def _excess(problem: Problem, constraints: Constraints, each: _Point) -> float:
    """What a plan needs of the budget that it exceeds most, as a share of it (of 0: of half a step); 0: none."""
    tiers, cost = each
    uses: list[tuple[float, float]] = []
    if constraints.deadline_s is not None:
        uses.append((cost.latency_ns, round(constraints.deadline_s * 1e9)))
    if constraints.max_bytes is not None:
        uses.append((cost.traffic_bytes, constraints.max_bytes))
    hosts = [host.name for host in problem.topology.hosts]
    for host, budget in constraints.memory_bytes.items():
        uses.append((memory_by_hand(problem.graph, tiers, hosts.index(host)), budget))
    return max(use / (budget or 0.5) if use > budget else 0.0 for use, budget in uses)


def _worth(objective: Objective, cost: Cost) -> float:
    if objective is THROUGHPUT:
        return max(cost.loads_s.values())
    return cost.latency_s if objective is LATENCY else cost.traffic_bytes


def _choose(problem: Problem, objective: Objective, constraints: Constraints, effort: int = 2000) -> Choice:
    return choose(
        problem.graph,
        problem.profiles,
        problem.topology,
        objective=objective,
        constraints=constraints,
        codecs=CODECS,
        effort=effort,
    )


def test_a_search_without_any_effort_is_misuse(seed: int) -> None:
    problem = random_problem(random.Random(seed), layers=3, tiers=2, pinned=False)
    with pytest.raises(ValueError, match="at least 1 minimum cut, not 0"):
        _choose(problem, LATENCY, Constraints(), effort=0)


def test_one_name_is_no_collection_of_codecs(seed: int) -> None:
    problem = random_problem(random.Random(seed), layers=3, tiers=2, pinned=False)
    with pytest.raises(ValueError, match="not the text 'raw'"):
        choose(problem.graph, problem.profiles, problem.topology, codecs="raw")
