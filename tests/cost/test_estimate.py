"""The one definition of cost, against a second one that is written for reading and not for planning."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from splitnn.cost.cost import Cost, nanoseconds
from splitnn.cost.estimate import estimate, price, tabulate
from splitnn.cost.network import Host, Topology
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.errors import ProfileMismatch
from splitnn.graph.graph import Graph, Layer, TensorSpec
from tests.planner.random_problems import CODECS, every_placement, random_problem

GRAPH = Graph(
    (Layer("a", "op", ("x",), ("t",)), Layer("b", "op", ("t",), ("u",)), Layer("c", "op", ("t", "u"), ("y",))),
    {name: TensorSpec((size,), "uint8") for name, size in {"x": 1000, "t": 2000, "u": 500, "y": 125}.items()},
    ("x",),
    ("y",),
)
INT8 = {"t": {"int8": CodecCost(500, 0.001, 0.002)}}
PROFILES = {
    host: Profile("digest", host, {name: Timing(t, t) for name in "abc"}, Timing(0, 0), codecs=INT8)
    for host, t in (("device", 0.5), ("edge", 0.2), ("cloud", 0.1))
}
TWO = Topology.chain(["device", "cloud"], ["1Mbps:2Mbps/30ms"])


def _cost(placement: str, topology: Topology = TWO, codecs: tuple[str, ...] = ("raw",)) -> Cost:
    """``"dcc"`` puts a on the device, b and c in the cloud."""
    hosts = {host.name[0]: host.name for host in topology.hosts}
    return estimate(
        GRAPH,
        {layer: hosts[host] for layer, host in zip("abc", placement, strict=True)},
        PROFILES,
        topology,
        codecs=codecs,
    )


def test_everything_on_the_device_costs_its_layers_only() -> None:
    assert _cost("ddd") == Cost(1_500_000_000, (1.5, 0.0), (), 0.0, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_transferred_where_all_is_local(seed: int) -> None:
    rng = random.Random(seed)
    parts = [rng.randrange(10**9) for _ in range(3)]
    assert Cost(sum(parts), tuple(each * 1e-9 for each in parts), (), 0.0, 0.0).transfer_s == 0


def test_parts_of_the_cost_add_up() -> None:
    cost = _cost("dcc")
    assert cost.compute_s == (0.5, 0.2)
    assert [(t.tensor, t.hop, t.codec, t.size_bytes) for t in cost.transfers] == [("t", 0, "raw", 2000)]
    assert cost.transfers[0].wire_s == 2000 * 8 / 1e6
    assert cost.download_s == pytest.approx(125 * 8 / 2e6)
    assert cost.round_trip_s == pytest.approx(0.03)
    assert cost.latency_s == pytest.approx(0.5 + 0.2 + 0.016 + 0.0005 + 0.03)
    assert cost.transfer_s == pytest.approx(0.016 + 0.0005 + 0.03)
    assert cost.sent_bytes == 2000


def test_raw_input_travels_when_the_cloud_does_everything() -> None:
    assert [t.tensor for t in _cost("ccc").transfers] == ["x"]


def test_tensor_read_on_both_sides_of_a_hop_crosses_it_once() -> None:
    assert [t.tensor for t in _cost("ddc").transfers] == ["t", "u"]
    three = Topology.chain(["device", "edge", "cloud"], ["1Mbps", "1Mbps"])
    assert [(t.tensor, t.hop) for t in _cost("dec", three).transfers] == [("t", 0), ("t", 1), ("u", 1)]


def test_every_hop_is_paid_by_what_passes_a_host_without_stopping() -> None:
    three = Topology.chain(["device", "edge", "cloud"], ["1Mbps/10ms", "2Mbps/20ms"])
    cost = _cost("dcc", three)
    assert [(t.tensor, t.hop) for t in cost.transfers] == [("t", 0), ("t", 1)]
    assert cost.round_trip_s == pytest.approx(0.03)
    assert cost.download_s == pytest.approx(125 * 8 / 1e6 + 125 * 8 / 2e6)
    assert cost.compute_s == (0.5, 0.0, 0.2)


def test_codec_is_used_where_it_is_quicker_and_measured_on_both_ends() -> None:
    slow = _cost("dcc", Topology.chain(["device", "cloud"], ["1Mbps"]), CODECS)
    assert [t.codec for t in slow.transfers] == ["int8"]
    assert slow.transfers[0].total_ns == nanoseconds(0.001 + 500 * 8 / 1e6 + 0.002)
    quick = _cost("dcc", Topology.chain(["device", "cloud"], ["1Gbps"]), CODECS)
    assert [t.codec for t in quick.transfers] == ["raw"]
    bare = {**PROFILES, "cloud": Profile("digest", "cloud", PROFILES["cloud"].layers, Timing(0, 0))}
    placement = {"a": "device", "b": "cloud", "c": "cloud"}
    unmeasured = estimate(GRAPH, placement, bare, TWO, codecs=["int8"])
    assert [t.codec for t in unmeasured.transfers] == ["raw"]


def test_codecs_can_be_allowed_tensor_by_tensor() -> None:
    placement = {"a": "device", "b": "cloud", "c": "cloud"}
    chosen = estimate(GRAPH, placement, PROFILES, TWO, codecs={"t": ["raw", "int8"]})
    assert [t.codec for t in chosen.transfers] == ["int8"]
    other = estimate(GRAPH, placement, PROFILES, TWO, codecs={"u": ["raw", "int8"]})
    assert [t.codec for t in other.transfers] == ["raw"]


def test_estimate_agrees_with_adding_up_by_hand(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(200):
        tiers = rng.choice((1, 2, 3))
        problem = random_problem(rng, layers=rng.randint(0, 6), tiers=tiers, pinned=False)
        table = problem.table()
        names = [layer.name for layer in problem.graph.layers]
        for placement in every_placement(problem.graph, tiers, {}):
            tier = dict(zip(names, placement, strict=True))
            total = sum(table.compute_ns[name][tier[name]] for name in names)
            messages, stages = table.message_ns or (0,) * tiers, table.stage_ns or (0,) * tiers
            total += messages[0] + (stages[0] if 0 in placement else 0)
            for hop in range(tiers - 1):
                if any(t > hop for t in placement):
                    total += table.round_trip_ns[hop] + messages[hop] + messages[hop + 1] + stages[hop + 1]
                for tensor, readers in problem.graph.consumers.items():
                    made_before = tensor in problem.graph.inputs or tier[problem.graph.producer[tensor]] <= hop
                    if made_before and any(tier[reader] > hop for reader in readers):
                        total += table.transfers[tensor][hop].total_ns
                    if tensor in problem.graph.outputs and not made_before:
                        total += table.download_ns[tensor][hop]
            assert price(problem.graph, tier, table).latency_ns == total, f"seed {seed}, problem {number}"


def test_placement_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="no host for layer 'c'"):
        estimate(GRAPH, {"a": "device", "b": "device"}, PROFILES, TWO)
    with pytest.raises(ValueError, match="moon"):
        estimate(GRAPH, {"a": "device", "b": "device", "c": "moon"}, PROFILES, TWO)
    with pytest.raises(ValueError, match="flow back"):
        _cost("cdd")
    with pytest.raises(ValueError, match="tier -1"):
        price(GRAPH, {"a": 0, "b": 0, "c": -1}, tabulate(GRAPH, PROFILES, TWO))


def test_profile_of_another_model_is_refused() -> None:
    other = Profile("digest", "cloud", {"a": Timing(1, 1)}, Timing(1, 1))
    with pytest.raises(ProfileMismatch, match="no time for 2 layers"):
        tabulate(GRAPH, {**PROFILES, "cloud": other}, TWO)
    with pytest.raises(ProfileMismatch, match="no profile of host 'cloud'"):
        tabulate(GRAPH, {"device": PROFILES["device"]}, TWO)


def test_slowdown_of_a_host_slows_its_layers_and_codecs() -> None:
    busy = Topology(tuple(type(h)(h.name, 3.0) for h in TWO.hosts), TWO.up, TWO.down)
    table, slow = (tabulate(GRAPH, PROFILES, t, codecs=["int8"]) for t in (TWO, busy))
    assert slow.compute_ns["a"] == tuple(3 * t for t in table.compute_ns["a"])
    assert slow.transfers["t"][0].encode_s == pytest.approx(3 * table.transfers["t"][0].encode_s)
    assert slow.transfers["t"][0].wire_s == table.transfers["t"][0].wire_s


def test_even_forever_is_a_number_of_nanoseconds() -> None:
    assert nanoseconds(1e300) == nanoseconds(math.inf) > 10**23


def test_stages_and_messages_cost_something_however_small_they_are() -> None:
    fixed = {name: replace(p, stage_s=0.25, message_s=0.125) for name, p in PROFILES.items()}
    on = {"d": "device", "c": "cloud"}
    costs = {
        word: estimate(GRAPH, dict(zip("abc", (on[host] for host in word), strict=True)), fixed, TWO)
        for word in ("ddd", "dcc", "ccc")
    }
    extra_s = {word: cost.latency_s - _cost(word).latency_s for word, cost in costs.items()}
    assert extra_s["ddd"] == pytest.approx(0.125 + 0.25)  # the request, and the one stage
    assert extra_s["dcc"] == pytest.approx(0.125 + 0.25 + 2 * 0.125 + 0.25)  # a message at both ends, and a stage there
    assert extra_s["ccc"] == pytest.approx(0.125 + 2 * 0.125 + 0.25)
    for word, cost in costs.items():
        assert sum(cost.handling_s) == pytest.approx(extra_s[word])
    busy = Topology((Host("device", 2.0), Host("cloud", 3.0, stage_s=0.5, message_s=0.0)), TWO.up, TWO.down)
    cost = estimate(GRAPH, dict.fromkeys("abc", "cloud"), fixed, busy)
    assert cost.handling_s == pytest.approx((2 * 0.25, 0.5))  # slower with the load, and what was observed as it is


def test_observed_coding_takes_the_place_of_the_load() -> None:
    hosts = Host("device", 5.0, coding_slowdown=2.0), Host("cloud", 3.0)
    table = tabulate(GRAPH, PROFILES, Topology(hosts, TWO.up, TWO.down), codecs=("int8",))
    assert (table.transfers["t"][0].encode_s, table.transfers["t"][0].decode_s) == pytest.approx((0.002, 0.006))
