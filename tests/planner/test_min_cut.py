"""The minimum cut against the plainest oracle, against another solver, and the laws of what a cut costs."""

from __future__ import annotations

import random

import networkx as nx
import pytest

from splitnn.cost.estimate import CostTable, estimate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile, Timing
from splitnn.errors import InfeasiblePlan, ProfileMismatch
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.planner.min_cut import plan
from splitnn.planner.plan import Plan
from tests.planner.random_problems import CODECS, Problem, cheapest_by_trial, random_problem

PROBLEMS = 3000
LARGER_PROBLEMS = 200


def test_minimum_cut_equals_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    split = infeasible = 0
    for number in range(PROBLEMS):
        tiers = rng.choice((2, 2, 2, 3, 3, 4))
        problem = random_problem(
            rng, layers=rng.randint(0, {2: 8, 3: 6, 4: 5}[tiers]), tiers=tiers, pinned=rng.random() < 0.3
        )
        expected = cheapest_by_trial(problem)
        if expected is None:
            infeasible += 1
            with pytest.raises(InfeasiblePlan):
                _plan(problem)
            continue
        found = _plan(problem)
        assert (found.predicted.latency_ns, found.tiers) == expected, f"seed {seed}, problem {number}"
        split += len(set(found.tiers)) > 1
    assert split > PROBLEMS / 10, "the random problems are too easy: hardly any plan splits"
    assert infeasible > 0


def test_minimum_cut_equals_another_solver_on_larger_graphs(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(LARGER_PROBLEMS):
        problem = random_problem(rng, layers=rng.randint(10, 60), tiers=rng.choice((2, 3, 4)), pinned=False)
        table = problem.table()
        value = nx.minimum_cut_value(_textbook_network(problem.graph, table), "source", "sink") + table.request_ns
        assert _plan(problem).predicted.latency_ns == value, f"seed {seed}, problem {number}"


def _plan(problem: Problem) -> Plan:
    return plan(problem.graph, problem.profiles, problem.topology, codecs=CODECS, pins=problem.pins)


def _textbook_network(graph: Graph, table: CostTable) -> nx.DiGraph:
    """The network as the papers draw it, one row of vertices a hop, not a difference in it; sink's side: beyond.

    An arc without a capacity is infinite.
    """
    network = nx.DiGraph()
    network.add_nodes_from(("source", "sink"))

    def add(tail: object, head: object, capacity: int) -> None:
        known = network.get_edge_data(tail, head, {"capacity": 0})["capacity"]
        network.add_edge(tail, head, capacity=known + capacity)

    hops = range(len(table.round_trip_ns))
    for name, costs in table.compute_ns.items():
        rows = ["sink", *((name, hop) for hop in hops), "source"]
        for tier, cost in enumerate(costs):  # cut exactly when the layer runs on this tier
            add(rows[tier + 1], rows[tier], cost)
    for hop in hops:
        for name in table.compute_ns:
            network.add_edge(("round trip", hop), (name, hop))
            if hop:
                network.add_edge((name, hop - 1), (name, hop))
        add("source", ("round trip", hop), table.hop_ns[hop])
        for tensor, transfers in table.transfers.items():
            producer = (graph.producer[tensor], hop) if tensor in graph.producer else "source"
            add(producer, ("tensor", tensor, hop), transfers[hop].total_ns)
            for reader in graph.consumers[tensor]:
                network.add_edge(("tensor", tensor, hop), (reader, hop))
                if producer != "source":
                    network.add_edge((reader, hop), producer)
        for tensor, costs in table.download_ns.items():
            add("source", (graph.producer[tensor], hop), costs[hop])
    for name in table.compute_ns:
        network.add_edge((name, 0), "first stage")
    add("first stage", "sink", table.first_stage_ns)
    return network


def _model(
    layers: dict[str, tuple[list[str], list[str]]], sizes: dict[str, int], *, outputs: list[str], inputs: list[str]
) -> Graph:
    """Layers as name -> (reads, writes); sizes in bytes."""
    return Graph(
        tuple(Layer(name, "op", tuple(reads), tuple(writes)) for name, (reads, writes) in layers.items()),
        {name: TensorSpec((size,), "uint8") for name, size in sizes.items()},
        tuple(inputs),
        tuple(outputs),
    )


def _profile(host: str, seconds: dict[str, float]) -> Profile:
    return Profile("digest", host, {name: Timing(t, t) for name, t in seconds.items()}, Timing(0, 0))


FORK = _model(
    {"stem": (["x"], ["s"]), "left": (["s"], ["a"]), "right": (["s"], ["b"]), "join": (["a", "b"], ["y"])},
    {"x": 8000, "s": 1000, "a": 1000, "b": 1000, "y": 0},
    inputs=["x"],
    outputs=["y"],
)
SLOW_FORK = {
    "device": _profile("device", {"stem": 0.001, "left": 1.0, "right": 1.0, "join": 1.0}),
    "cloud": _profile("cloud", {"stem": 0.001, "left": 0.1, "right": 0.1, "join": 0.1}),
}


def test_tensor_used_twice_is_sent_once() -> None:
    found = plan(FORK, SLOW_FORK, Topology.chain(["device", "cloud"], ["1Mbps"]))
    assert found.hops == ({"s": "raw"},)
    assert found.predicted.latency_ns == 1_000_000 + 8_000_000 + 300_000_000


def test_round_trip_is_charged_once_however_many_tensors_cross() -> None:
    free = plan(FORK, SLOW_FORK, Topology.chain(["device", "cloud"], ["1Mbps"]), pins={"left": "device"})
    slow = plan(FORK, SLOW_FORK, Topology.chain(["device", "cloud"], ["1Mbps/60ms"]), pins={"left": "device"})
    assert len(slow.hops[0]) > 1
    assert slow.predicted.latency_ns - free.predicted.latency_ns == 60_000_000


def test_device_alone_pays_no_round_trip_and_no_download() -> None:
    found = plan(FORK, SLOW_FORK, Topology.chain(["device", "cloud"], ["1bps/9s"]))
    assert found.is_local
    assert found.predicted.latency_ns == 3_001_000_000


def test_data_never_flows_back() -> None:
    """The middle layer is far quicker on the device, the last in the cloud; a way back would be the best of all."""
    chain = _model(
        {"a": (["x"], ["t"]), "b": (["t"], ["u"]), "c": (["u"], ["y"])},
        {"x": 0, "t": 0, "u": 0, "y": 0},
        inputs=["x"],
        outputs=["y"],
    )
    profiles = {
        "device": _profile("device", {"a": 5, "b": 1, "c": 5}),
        "cloud": _profile("cloud", {"a": 1, "b": 5, "c": 1}),
    }
    found = plan(chain, profiles, Topology.chain(["device", "cloud"], ["1Gbps"]))
    assert found.predicted.latency_s == 7
    assert found.tiers in {(0, 0, 1), (1, 1, 1)}


def test_result_that_the_device_needs_is_downloaded_over_every_hop() -> None:
    one = _model({"a": (["x"], ["y"])}, {"x": 0, "y": 1000}, inputs=["x"], outputs=["y"])
    profiles = {host: _profile(host, {"a": seconds}) for host, seconds in (("device", 9), ("edge", 9), ("cloud", 1))}
    found = plan(one, profiles, Topology.chain(["device", "edge", "cloud"], ["1Mbps", "2Mbps"]))
    assert found.predicted.latency_ns == 1_000_000_000 + 8_000_000 + 4_000_000


def test_output_that_is_an_input_costs_nothing() -> None:
    echo = _model({"a": (["x"], ["y"])}, {"x": 1000, "y": 0}, inputs=["x"], outputs=["x"])
    found = plan(
        echo, {h: _profile(h, {"a": 1}) for h in ("device", "cloud")}, Topology.chain(["device", "cloud"], ["1Mbps"])
    )
    assert found.predicted.latency_s == 1


def test_of_equal_plans_the_one_that_keeps_most_on_the_device_is_chosen() -> None:
    same = {host: _profile(host, dict.fromkeys(FORK.index, 1.0)) for host in ("device", "cloud")}
    free = _model(
        {layer.name: (list(layer.inputs), list(layer.outputs)) for layer in FORK.layers},
        dict.fromkeys(FORK.tensors, 0),
        inputs=["x"],
        outputs=["y"],
    )
    assert plan(free, same, Topology.chain(["device", "cloud"], ["1Mbps"])).is_local


def test_one_host_needs_no_link() -> None:
    found = plan(FORK, SLOW_FORK, Topology.chain(["device"], []))
    assert found.is_local
    assert found.hops == ()


def test_estimate_of_the_plan_is_its_prediction() -> None:
    topology = Topology.chain(["device", "cloud"], ["1Mbps:3Mbps/7ms"])
    found = plan(FORK, SLOW_FORK, topology)
    assert estimate(FORK, found.placement, SLOW_FORK, topology) == found.predicted


def test_pinned_layers_run_where_they_are_pinned() -> None:
    found = plan(FORK, SLOW_FORK, Topology.chain(["device", "cloud"], ["1Mbps"]), pins={"right": "device"})
    assert found.placement["right"] == "device"
    assert found.placement["left"] == "cloud"


def test_contradictory_pins_are_named() -> None:
    with pytest.raises(InfeasiblePlan, match=r"'join' is pinned to 'device'.*'stem'.*'cloud'"):
        plan(
            FORK,
            SLOW_FORK,
            Topology.chain(["device", "cloud"], ["1Mbps"]),
            pins={"stem": "cloud", "join": "device"},
        )


@pytest.mark.parametrize("pins", [{"stam": "cloud"}, {"stem": "clowd"}])
def test_pin_of_something_unknown_is_refused(pins: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"stam|clowd"):
        plan(FORK, SLOW_FORK, Topology.chain(["device", "cloud"], ["1Mbps"]), pins=pins)


def test_profile_that_does_not_fit_is_refused() -> None:
    topology = Topology.chain(["device", "cloud"], ["1Mbps"])
    with pytest.raises(ProfileMismatch, match="no profile of host 'cloud'"):
        plan(FORK, {"device": SLOW_FORK["device"]}, topology)
    with pytest.raises(ProfileMismatch, match="another model"):
        plan(FORK, {**SLOW_FORK, "cloud": _profile("cloud", {"stem": 1.0})}, topology)
    other = Profile("other digest", "cloud", SLOW_FORK["cloud"].layers, Timing(0, 0))
    with pytest.raises(ProfileMismatch, match="different models"):
        plan(FORK, {**SLOW_FORK, "cloud": other}, topology)
