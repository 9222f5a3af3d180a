"""Plans and envelopes of every model of the zoo: against planning at single bandwidths, and against all closed sets."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from splitnn import zoo
from splitnn.cost.cost import nanoseconds
from splitnn.cost.estimate import codec_options, tabulate
from splitnn.cost.features import features
from splitnn.cost.network import Link, Topology
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.graph.graph import Graph
from splitnn.planner.envelope import compute_envelope
from splitnn.planner.min_cut import plan
from splitnn.planner.rates import RateProblem
from tests.models import captured_real
from tests.planner.zoo_graphs import zoo_graphs

CODECS = ("raw", "int8")
BANDWIDTHS = 1000
MOST_SETS = 6000  # closed sets that are enumerated; most models have fewer
LINK = "10Mbps/20ms"
NAMES = list(zoo_graphs())


def profiles_of(rng: random.Random, graph: Graph) -> dict[str, Profile]:
    """Times by the layers' work, off by up to a third; a device eight times slower; int8 for every float tensor."""
    profiles = {}
    work = {layer.name: features(graph, layer) for layer in graph.layers}
    for host, slowness in (("device", 8.0), ("cloud", 1.0)):
        seconds = {}
        for name, each in work.items():
            seconds[name] = slowness * rng.uniform(0.7, 1.3) * (each.flops * 2e-11 + each.moved_bytes * 1e-10 + 2e-6)
        codecs = {
            name: {"int8": CodecCost(spec.size_bytes // 4, spec.size_bytes * 2e-10 * slowness, 1e-5)}
            for name, spec in graph.tensors.items()
            if spec.dtype == "float32"
        }
        layers = {name: Timing(t, t) for name, t in seconds.items()}
        profiles[host] = Profile("model", host, layers, Timing(1, 1), codecs=codecs)
    return profiles


def topology_at(bandwidth_bps: float) -> Topology:
    usual = Topology.chain(["device", "cloud"], [LINK])
    return replace(usual, up=(Link(bandwidth_bps, usual.up[0].latency_s),))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_envelope_is_pointwise_solving_at_a_thousand_bandwidths(name: str, seed: int) -> None:
    rng = random.Random(seed)
    graph = zoo_graphs()[name]
    profiles = profiles_of(rng, graph)
    topology = Topology.chain(["device", "cloud"], [LINK])
    envelope = compute_envelope(graph, profiles, topology, codecs=CODECS, mode="fast")
    points = RateProblem(graph, profiles, topology, codecs=CODECS, mode="fast", pins={}, down_per_up=None)
    trip_ns = nanoseconds(topology.up[0].latency_s + topology.down[0].latency_s)
    local_ns = points.local().fixed_ns
    for _ in range(BANDWIDTHS):
        bandwidth_bps = 10 ** rng.uniform(4, 10)
        x = 1 / Fraction(bandwidth_bps)
        line = points.solve(x)
        best_ns = min(float(line.at(x)) + trip_ns * line.uses_hop, local_ns)
        assert envelope.latency_s(bandwidth_bps) == pytest.approx(best_ns * 1e-9, rel=1e-12), bandwidth_bps


@pytest.mark.parametrize("name", NAMES)
def test_no_closed_set_beats_the_plan_or_the_envelope(name: str, seed: int) -> None:
    rng = random.Random(seed)
    graph = zoo_graphs()[name]
    sets = closed_sets_of(name)
    if len(sets) > MOST_SETS:
        pytest.skip(f"more than {MOST_SETS} closed sets")
    profiles = profiles_of(rng, graph)
    envelope = compute_envelope(graph, profiles, topology_at(1e7), codecs=CODECS, mode="fast")
    for _ in range(10):
        bandwidth_bps = 10 ** rng.uniform(4, 10)
        least_ns = latencies_ns(graph, profiles, topology_at(bandwidth_bps), sets).min()
        found = plan(graph, profiles, topology_at(bandwidth_bps), codecs=CODECS, mode="fast").predicted.latency_ns
        assert found == least_ns
        rounded = 2 * len(graph.tensors) * 1e-9
        assert envelope.latency_s(bandwidth_bps) == pytest.approx(least_ns * 1e-9, abs=rounded)


def test_most_models_are_small_enough_to_enumerate() -> None:
    small = [name for name in NAMES if len(closed_sets_of(name)) <= MOST_SETS]
    assert len(small) >= 0.8 * len(NAMES), small


def test_every_graph_of_the_file_is_of_a_model_of_the_zoo() -> None:
    assert set(NAMES) <= {entry.name for entry in zoo.models()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_lite0"])
def test_the_file_holds_what_capture_makes(name: str) -> None:
    assert captured_real(name).graph == zoo_graphs()[name]


@cache
def closed_sets_of(name: str) -> np.ndarray:
    """(sets, layers): True on the device; one row more than ``MOST_SETS`` where there are more."""
    return np.array(list(closed_sets(zoo_graphs()[name], most=MOST_SETS + 1)))


def closed_sets(graph: Graph, *, most: int) -> Iterator[list[bool]]:
    """Every set of layers that may stay on the device: with a layer, all that it reads from. At most so many.

    By going through the layers in order: one can stay when all its sources do, and can always go.
    """
    sources = [[graph.index[graph.producer[t]] for t in y.inputs if t in graph.producer] for y in graph.layers]
    stays: list[bool] = []
    found = 0
    while found < most:
        while len(stays) < len(sources):
            stays.append(all(stays[source] for source in sources[len(stays)]))
        yield list(stays)
        found += 1
        while stays and not stays[-1]:
            stays.pop()
        if not stays:
            return
        stays[-1] = False


def latencies_ns(graph: Graph, profiles: dict[str, Profile], topology: Topology, sets: np.ndarray) -> np.ndarray:
    """Nanoseconds of every set, by the sums that define them."""
    table = tabulate(graph, profiles, topology, codecs=CODECS)
    ways = codec_options(graph, 0, profiles=profiles, topology=topology, codecs=CODECS)
    times = np.array([table.compute_ns[layer.name] for layer in graph.layers], dtype=np.int64)  # (layers, hosts)
    total = sets @ times[:, 0] + ~sets @ times[:, 1]
    for tensor, options in ways.items():
        here = sets[:, graph.index[graph.producer[tensor]]] if tensor in graph.producer else np.ones(len(sets), bool)
        away = ~sets[:, [graph.index[reader] for reader in graph.consumers[tensor]]]
        total = total + (here & away.any(axis=1)) * min(way.total_ns for way in options)
    for tensor, costs in table.download_ns.items():
        total = total + ~sets[:, graph.index[graph.producer[tensor]]] * costs[0]
    total = total + (~sets).any(axis=1) * table.round_trip_ns[0]
    return np.asarray(total)
