"""Cuts of one order, against pricing each of them; on a real chain they hold the minimum cut."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from splitnn.cost.estimate import price
from splitnn.errors import InfeasiblePlan
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.planner.chain import alternatives, every_cut, plan_chain
from splitnn.planner.min_cut import plan
from splitnn.planner.pins import tier_ranges
from splitnn.planner.terms import terms_of
from tests.planner.random_problems import CODECS, Problem, random_problem, random_profile

PROBLEMS = 300


def test_every_cut_is_the_best_priced_one_that_ends_the_device_there(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(PROBLEMS):
        tiers = rng.choice((1, 2, 2, 3, 4))
        problem = random_problem(rng, layers=rng.randint(0, 9), tiers=tiers, pinned=rng.random() < 0.3)
        hosts = [host.name for host in problem.topology.hosts]
        try:
            ranges = tier_ranges(problem.graph, problem.pins, hosts)
        except InfeasiblePlan:
            continue
        names = list(problem.graph.index)
        table = problem.table()
        best: dict[int, int] = {}
        for ends in itertools.combinations_with_replacement(range(len(names) + 1), tiers - 1):
            placement = [sum(position >= end for end in ends) for position in range(len(names))]
            if all(hosts[placement[problem.graph.index[name]]] == host for name, host in problem.pins.items()):
                latency_ns = price(problem.graph, dict(zip(names, placement, strict=True)), table).latency_ns
                first = ends[0] if ends else 0
                best[first] = min(best.get(first, latency_ns), latency_ns)
        cuts = every_cut(terms_of(problem.graph, table, ranges))
        found = {cut.ends[0] if cut.ends else 0: cut.latency_ns for cut in cuts}
        assert found == best, f"seed {seed}, problem {number}"


def test_on_a_chain_no_cut_of_the_order_is_missed(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(PROBLEMS):
        problem = _straight(random_problem(rng, layers=rng.randint(1, 30), tiers=rng.choice((2, 3)), pinned=False), rng)
        arguments = (problem.graph, problem.profiles, problem.topology)
        assert plan_chain(*arguments, codecs=CODECS) == plan(*arguments, codecs=CODECS), f"seed {seed}, {number}"


def test_alternatives_are_other_plans_and_none_is_better(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(PROBLEMS):
        problem = random_problem(rng, layers=rng.randint(1, 20), tiers=rng.choice((2, 3)), pinned=False)
        arguments = (problem.graph, problem.profiles, problem.topology)
        best = plan(*arguments, codecs=CODECS)
        others = alternatives(*arguments, best=best, codecs=CODECS)
        latencies = [other.predicted.latency_ns for other in (best, *others)]
        assert latencies == sorted(latencies), f"seed {seed}, problem {number}"
        decisions = {other.tiers for other in (best, *others)}
        assert len(decisions) == len(others) + 1, f"seed {seed}, problem {number}"
        for tier in range(len(best.hosts)):
            assert (tier,) * len(problem.graph) in decisions, "each host alone is always shown"


def test_pins_that_no_cut_of_the_order_obeys_are_refused() -> None:
    """The first of two parallel layers is pinned to the cloud, the second to the device."""
    graph = Graph(
        (Layer("a", "op", ("x",), ("t",)), Layer("b", "op", ("x",), ("u",))),
        dict.fromkeys(("x", "t", "u"), TensorSpec((1,), "float32")),
        ("x",),
        ("t", "u"),
    )
    topology = random_problem(random.Random(1), layers=2, tiers=2, pinned=False).topology
    profiles = {host.name: random_profile(random.Random(1), graph, host.name, 1.0) for host in topology.hosts}
    pins = {"a": "cloud", "b": "device"}
    pins = {layer: topology.hosts[host == "cloud"].name for layer, host in pins.items()}
    assert plan(graph, profiles, topology, pins=pins).tiers == (1, 0)
    with pytest.raises(InfeasiblePlan, match="own order"):
        plan_chain(graph, profiles, topology, pins=pins)


def _straight(problem: Problem, rng: random.Random) -> Problem:
    """The same hosts and links with a chain of as many layers."""
    count = len(problem.graph)
    tensors = {f"t{i}": TensorSpec((rng.choice((1, 10, 100)),), "float32") for i in range(count + 1)}
    layers = tuple(Layer(f"layer{i}", "op", (f"t{i}",), (f"t{i + 1}",)) for i in range(count))
    graph = Graph(layers, tensors, ("t0",), (f"t{count}",))
    profiles = {name: random_profile(rng, graph, name, rng.choice((1.0, 3.0))) for name in problem.profiles}
    return replace(problem, graph=graph, profiles=profiles)
