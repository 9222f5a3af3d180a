"""What the agent learns from its requests, against made-up hosts whose costs are known."""

from __future__ import annotations

import random

import pytest

from device_agent.navigator import CLOUD, DEVICE, Navigator, parse_pin
from splitnn.cost.bandwidth import LinkEstimator
from splitnn.cost.estimate import estimate, tabulate
from splitnn.cost.network import Topology, parse_link
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.planner.plan import Plan
from splitnn.runtime.replan import reprice
from splitnn.transport.base import Answer, Timings
from tests.models import captured

GRAPH = Graph(
    (Layer("a", "op", ("x",), ("t",)), Layer("b", "op", ("t",), ("y",))),
    {"x": TensorSpec((1000,), "uint8"), "t": TensorSpec((500,), "uint8"), "y": TensorSpec((1,), "uint8")},
    ("x",),
    ("y",),
)
CODECS = {"x": {"jpeg90": CodecCost(100, 0.004, 0.002)}}
PROFILE = Profile(
    "d" * 64, DEVICE, dict.fromkeys("ab", Timing(0.05, 0.05)), Timing(0.1, 0.1), codecs=CODECS,
    stage_s=0.002, message_s=0.003,
)  # fmt: skip


def navigator() -> Navigator:
    link = LinkEstimator(parse_link("8Mbps/20ms"), clock=lambda: 0.0)
    cloud = PROFILE.scaled(0.1, host=CLOUD)
    return Navigator(GRAPH, PROFILE, link, stand_in=cloud, codecs=("raw", "jpeg90"), clock=lambda: 0.0)


def plan_of(known: Navigator, placement: str) -> Plan:
    """``"dc"`` puts a on the device and b in the cloud."""
    at = known.conditions()
    tiers = tuple("dc".index(host) for host in placement)
    hops = ({"dc": {"t": "raw"}, "cc": {"x": "jpeg90"}}.get(placement, {}),)
    priced = known.priced("device", at)
    made = Plan(PROFILE.model, (DEVICE, CLOUD), ("a", "b"), tiers, hops, priced.predicted, "fast")
    return reprice(made, GRAPH, at)


def fixed_s(known: Navigator, placement: str) -> float:
    return sum(plan_of(known, placement).predicted.handling_s)


def test_before_any_request_the_profiles_fixed_times_are_believed() -> None:
    known = navigator()
    assert fixed_s(known, "dd") == pytest.approx(0.003 + 0.002)
    assert fixed_s(known, "cc") == pytest.approx(2 * 0.003 + 0.1 * (0.003 + 0.002))
    assert fixed_s(known, "dc") == pytest.approx(2 * 0.003 + 0.002 + 0.1 * (0.003 + 0.002))


def test_requests_that_stay_leave_and_do_both_are_each_predicted_as_observed(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(30):
        known = navigator()
        request_s, stage_s, hop_s, far_s = (chance.uniform(0.0, 0.02) for _ in range(4))
        hop_s += request_s
        for n in range(9):
            noise_s = 0.5 if n % 4 == 3 else 0.0
            known.observe_local(beside_s=request_s + stage_s + noise_s)
            timings = Timings(queue_s=0.01, compute_s=0.1, total_s=0.11 + far_s + 0.1 * 0.002)
            asked = Answer({}, timings=timings, elapsed_s=0.3, encode_s=0.004)
            known.observe_remote(plan_of(known, "cc"), asked, beside_s=request_s + hop_s + 0.3 + 0.004 + noise_s)
            timings = Timings(queue_s=0.01, compute_s=0.1, total_s=0.11 + far_s)
            asked = Answer({}, timings=timings, elapsed_s=0.3)
            known.observe_remote(plan_of(known, "dc"), asked, beside_s=request_s + stage_s + hop_s + 0.3 + noise_s)
        assert fixed_s(known, "dd") == pytest.approx(request_s + stage_s, abs=1e-6)
        assert fixed_s(known, "cc") == pytest.approx(request_s + hop_s + far_s, abs=1e-3)
        assert fixed_s(known, "dc") == pytest.approx(request_s + stage_s + hop_s + far_s, abs=1e-3)


def test_an_encoder_that_is_slower_in_service_is_predicted_slower_and_layers_are_not() -> None:
    known = navigator()
    plan = plan_of(known, "cc")
    for _ in range(5):
        known.observe_remote(plan, Answer({}, elapsed_s=0.1, encode_s=0.012), beside_s=0.112)
    at = known.conditions()
    priced = estimate(GRAPH, plan_of(known, "dd").placement, at.profiles, at.topology)
    assert priced.compute_s[0] == pytest.approx(0.1)
    assert plan_of(known, "cc").predicted.transfers[0].encode_s == pytest.approx(0.012)


def test_a_plan_whose_cut_sends_a_plain_integer_can_be_asked_for() -> None:
    model = captured("recurrent")
    graph = model.graph
    costs = {layer.name: Timing(0.01, 0.01) for layer in graph.layers}
    profiles = {host: Profile(model.digest, host, costs, Timing(0.1, 0.1)) for host in (DEVICE, CLOUD)}
    table = tabulate(graph, profiles, Topology.chain([DEVICE, CLOUD], ["10Mbps/10ms"]))
    plans = [
        Plan.priced(graph, [int(i >= cut) for i in range(len(graph))], table=table, model=model.digest, hosts=profiles)
        for cut in range(len(graph))
    ]
    assert any(graph.tensors[tensor].dtype == "int" for plan in plans for tensor in plan.hops[0])
    for plan in plans:
        found = parse_pin(str(plan), graph, model.digest)
        assert isinstance(found, Plan)
        assert found.id == plan.id
