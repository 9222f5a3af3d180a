"""Plans with exits: the minimum cut equals brute force, and the mean cost is what samples pay, one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from splitnn.cost.expected import expected_cost
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits, levels
from splitnn.planner.exits import plan_exits
from splitnn.planner.min_cut import plan
from splitnn.planner.plan import Plan
from tests.planner.random_exits import random_exit_problem, simulated_ns
from tests.planner.random_problems import CODECS, Problem, every_placement


def _hosts_of(problem: Problem, placement: Sequence[int]) -> dict[str, str]:
    hosts = [host.name for host in problem.topology.hosts]
    return {layer.name: hosts[tier] for layer, tier in zip(problem.graph.layers, placement, strict=True)}


def _best(problem: Problem, exits: Exits) -> Plan:
    return plan_exits(
        problem.graph,
        problem.profiles,
        problem.topology,
        exits=exits,
        codecs=CODECS,
        mode="fast",
        pins=problem.pins,
    )


@pytest.mark.parametrize("tiers", [2, 3])
def test_plan_with_exits_equals_brute_force(tiers: int) -> None:
    for seed in range(120 if tiers == 2 else 40):
        print(f"seed {seed}")
        rng = random.Random(seed)
        layers = rng.randint(1, 7 if tiers == 2 else 5)
        problem, exits = random_exit_problem(rng, layers=layers, tiers=tiers, pinned=seed % 3 == 0)
        index = {host.name: i for i, host in enumerate(problem.topology.hosts)}
        pins = {layer: index[host] for layer, host in problem.pins.items()}
        costs = []
        for placement in every_placement(problem.graph, tiers, pins):
            try:
                cost = expected_cost(
                    problem.graph,
                    _hosts_of(problem, placement),
                    problem.profiles,
                    problem.topology,
                    exits=exits,
                    codecs=CODECS,
                )
            except ValueError:  # an exit would be decided before the one before it
                continue
            costs.append(cost.latency_ns)
        if not costs:
            with pytest.raises(InfeasiblePlan):
                _best(problem, exits)
            continue
        best = _best(problem, exits)
        assert best.predicted.latency_ns == min(costs)
        again = expected_cost(
            problem.graph, best.placement, problem.profiles, problem.topology, exits=exits, codecs=CODECS
        )
        assert again == best.predicted


@pytest.mark.parametrize("tiers", [1, 2, 3])
def test_mean_cost_is_what_the_samples_pay(tiers: int) -> None:
    for seed in range(60):
        print(f"seed {seed}")
        rng = random.Random(1000 + seed)
        problem, exits = random_exit_problem(rng, layers=rng.randint(1, 7), tiers=tiers)
        table = problem.table()
        placements = list(every_placement(problem.graph, tiers, {}))
        for placement in rng.sample(placements, min(20, len(placements))):
            try:
                cost = expected_cost(
                    problem.graph,
                    _hosts_of(problem, placement),
                    problem.profiles,
                    problem.topology,
                    exits=exits,
                    codecs=CODECS,
                )
            except ValueError:
                continue
            terms = len(problem.graph) + len(cost.transfers) + len(cost.downloads) + tiers  # each rounded to 1 ns
            assert abs(cost.latency_ns - simulated_ns(problem.graph, placement, table, exits)) <= terms


def test_with_a_single_exit_that_needs_every_layer_the_plan_is_the_ordinary_one() -> None:
    found = 0
    for seed in range(200):
        print(f"seed {seed}")
        problem, exits = random_exit_problem(random.Random(seed), layers=6, tiers=2)
        alone = exits.only(exits.exits[-1].name)
        graph = replace(problem.graph, outputs=(alone.exits[0].output,))
        if len(levels(graph, alone)) < len(graph):
            continue
        found += 1
        with_exit = _best(replace(problem, graph=graph, pins={}), alone)
        ordinary = plan(graph, problem.profiles, problem.topology, codecs=CODECS, mode="fast")
        assert with_exit.predicted == ordinary.predicted
    assert found > 3
