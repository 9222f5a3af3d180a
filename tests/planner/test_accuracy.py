"""Cut and codecs within what accuracy may be lost, against every plan there is."""

from __future__ import annotations

import random

import pytest

from splitnn.cost.accuracy import Calibrated, Calibration
from splitnn.cost.cost import Cost
from splitnn.cost.network import Topology
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.errors import InfeasiblePlan
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.graph.recipe import Drop
from splitnn.planner.accuracy import AllowedCodecs, Option, drop_of_plan, drops_of, within_accuracy
from splitnn.planner.min_cut import plan
from splitnn.planner.plan import LOSSLESS, Plan
from tests.planner.every_plan import every_plan
from tests.planner.random_problems import CODECS, Problem, random_problem

LIMITS = (0.0, 0.006, 0.01, 0.015)


@pytest.mark.parametrize("tiers", [2, 3])
def test_best_plan_within_the_limit_is_the_best_of_all_plans_within_it(tiers: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range({2: 100, 3: 60}[tiers]):
        problem = random_problem(rng, layers=rng.randint(2, {2: 6, 3: 4}[tiers]), tiers=tiers, pinned=False)
        drops = _random_drops(rng, problem)
        plans = [(cost, _drop(cost, drops)) for _, cost in every_plan(problem)]
        for limit in LIMITS:
            found = _within(problem, drops, limit)
            lost = drop_of_plan(found, drops)
            assert lost <= limit + 1e-9
            expected = min(cost.latency_ns for cost, drop in plans if drop <= limit + 1e-12)
            if tiers == 2:
                assert found.predicted.latency_ns == expected
            else:  # a tensor that is coded twice may be given up
                lossless = min(cost.latency_ns for cost, drop in plans if drop == 0)
                assert expected <= found.predicted.latency_ns <= lossless


def test_limit_is_divided_among_the_tensors_that_cross() -> None:
    tensors = {name: TensorSpec((size,), "float32") for name, size in (("x", 1), ("s", 1000), ("t", 2000), ("y", 1))}
    layers = (Layer("a", "op", ("x",), ("s",)), Layer("b", "op", ("x",), ("t",)), Layer("c", "op", ("s", "t"), ("y",)))
    graph = Graph(layers, tensors, ("x",), ("y",))
    codecs = {name: {"int8": CodecCost(tensors[name].size_bytes // 4, 0.0, 0.0)} for name in "st"}
    times = {layer.name: Timing(0.0, 0.0) for layer in layers}
    profiles = {host: Profile("d", host, times, Timing(1, 1), codecs=codecs) for host in ("device", "cloud")}
    problem = Problem(graph, profiles, Topology.chain(["device", "cloud"], ["1Mbps/1ms"]), {})
    pins = {"a": "device", "b": "device", "c": "cloud"}
    drops = {("s", "int8"): 0.004, ("t", "int8"): 0.005}

    def lossy(limit: float) -> set[str]:
        found = _within(problem, drops, limit, pins=pins)
        return {tensor for tensor, codec in found.hops[0].items() if codec == "int8"}

    assert lossy(0.003) == set()
    assert lossy(0.0045) == {"s"}
    assert lossy(0.006) == {"t"}, "the larger tensor gains more"
    assert lossy(0.009) == {"s", "t"}


def test_nothing_lossy_is_used_that_was_not_calibrated(seed: int) -> None:
    problem = random_problem(random.Random(seed), layers=8, tiers=2, pinned=False)
    found = _within(problem, {}, 1.0)
    assert found.mode == "exact" and drop_of_plan(found, {}) == 0


def test_upper_end_of_the_interval_is_what_a_codec_is_charged() -> None:
    measured = Calibrated(Drop(-0.001, -0.004, 0.006), 10, 12)
    calibration = Calibration({"t": {"int8": measured, "zstd": measured}}, against="labels", data="d", samples=900)
    assert drops_of(calibration, ("raw", "zstd", "int8")) == {("t", "int8"): 0.006}
    assert Calibration.from_json(calibration.to_json()) == calibration


@pytest.mark.parametrize("limit", [-0.1, 1.1, float("nan")])
def test_limit_that_is_no_share_is_refused(limit: float) -> None:
    problem = random_problem(random.Random(1), layers=3, tiers=2, pinned=False)
    with pytest.raises(ValueError, match="share from 0 to 1"):
        _within(problem, {}, limit)


def test_what_cannot_be_planned_without_lossy_codecs_either_says_why() -> None:
    problem = random_problem(random.Random(1), layers=3, tiers=2, pinned=False)

    def never(codecs: AllowedCodecs) -> Plan:
        raise InfeasiblePlan("no")

    with pytest.raises(InfeasiblePlan, match="no"):
        within_accuracy(
            never, tensors=problem.graph.tensors, codecs=CODECS, drops={}, limit=0.1, plan_of=_itself, worth=_latency
        )


def _within(problem: Problem, drops: dict[Option, float], limit: float, *, pins: dict[str, str] | None = None) -> Plan:
    return within_accuracy(
        lambda codecs: plan(problem.graph, problem.profiles, problem.topology, codecs=codecs, pins=pins),
        tensors=problem.graph.tensors,
        codecs=CODECS,
        drops=drops,
        limit=limit,
        plan_of=_itself,
        worth=_latency,
    )


def _itself(found: Plan) -> Plan:
    return found


def _latency(found: Plan) -> float:
    return found.predicted.latency_ns


def _random_drops(rng: random.Random, problem: Problem) -> dict[Option, float]:
    lossy = [codec for codec in CODECS if codec not in LOSSLESS]
    return {
        (tensor, codec): rng.choice((0.004, 0.006, 0.01))
        for tensor in problem.graph.tensors
        for codec in lossy
        if rng.random() < 0.9
    }


def _drop(cost: Cost, drops: dict[Option, float]) -> float:
    return sum(
        drops.get((transfer.tensor, transfer.codec), 9.0)
        for transfer in cost.transfers
        if transfer.codec not in LOSSLESS
    )
