"""Random planning problems with every difficulty at once, and the plainest possible oracle: try every placement."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from splitnn.cost.estimate import CostTable, price, tabulate
from splitnn.cost.network import Host, Link, Topology
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.graph.graph import Graph, Layer, TensorSpec

CODECS = ("raw", "int8", "fp16")


@dataclass(frozen=True)
class Problem:
    graph: Graph
    profiles: dict[str, Profile]
    topology: Topology
    pins: dict[str, str]

    def table(self) -> CostTable:
        return tabulate(self.graph, self.profiles, self.topology, codecs=CODECS)


def random_graph(rng: random.Random, layers: int, *, width: float = 3.0) -> Graph:
    """Several inputs and outputs, layers with none to two outputs, tensors used often, never, or returned midway."""
    inputs = tuple(f"x{i}" for i in range(rng.randint(1, 2)))
    tensors = {name: TensorSpec((rng.choice((1, 5, 40)),), rng.choice(("float32", "uint8"))) for name in inputs}
    made: list[Layer] = []
    names = list(inputs)
    for i in range(layers):
        recent = names[-max(1, round(rng.expovariate(1 / width)) + 1) :]
        pool = recent if rng.random() < 0.8 else names
        reads = tuple(dict.fromkeys(rng.choice(pool) for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))))
        writes = tuple(f"t{i}.{j}" for j in range(rng.choice((1, 1, 1, 1, 2))))
        for name in writes:
            tensors[name] = TensorSpec((rng.choice((0, 1, 3, 10, 50)),), "float32")
        made.append(Layer(f"layer{i}", "op", reads, writes))
        names.extend(writes)
    outputs = tuple(rng.choice(names) for _ in range(rng.randint(1, 2)))
    if rng.random() < 0.8 and made:
        outputs = (*outputs, made[-1].outputs[0])
    return Graph(tuple(made), tensors, inputs, outputs)


def random_blocks(rng: random.Random, layers: int) -> Graph:
    """What real networks look like: blocks of parallel branches, some skipped over, one after the other."""
    made: list[Layer] = []

    def add(*reads: str) -> str:
        made.append(Layer(f"layer{len(made)}", "op", tuple(dict.fromkeys(reads)), (f"t{len(made)}",)))
        return made[-1].outputs[0]

    end = "x"
    while len(made) < layers:
        start = end
        ends = []
        for _ in range(rng.choice((1, 2, 2, 3))):
            branch = start
            for _ in range(rng.randint(1, 2)):
                branch = add(branch)
            ends.append(branch)
        end = add(*ends, *([start] if rng.random() < 0.3 else [])) if len(ends) > 1 else ends[0]
    kept = made[:layers]
    tensors = {name: TensorSpec((rng.choice((0, 1, 3, 10, 50)),), "float32") for y in kept for name in y.outputs}
    tensors["x"] = TensorSpec((40,), "float32")
    return Graph(tuple(kept), tensors, ("x",), (kept[-1].outputs[0] if kept else "x",))


def random_profile(rng: random.Random, graph: Graph, host: str, speed: float) -> Profile:
    """Times on a coarse grid, so that ties and zero-cost layers are common."""

    def timing() -> Timing:
        seconds = rng.choice((0, 0, 1, 2, 5, 10)) * 1e-6 * speed
        return Timing(seconds, seconds)

    layers = {layer.name: timing() for layer in graph.layers}
    codecs: dict[str, dict[str, CodecCost]] = {}
    for name, spec in graph.tensors.items():
        if rng.random() < 0.7:
            quarter = max(1, spec.size_bytes // 4)
            codecs[name] = {"int8": CodecCost(quarter, rng.choice((0.0, 1e-6)), 1e-6)}
        if rng.random() < 0.3:
            codecs.setdefault(name, {})["fp16"] = CodecCost(spec.size_bytes // 2, 0.0, 0.0)
    fixed = rng.random() < 0.5
    return Profile(
        "digest" * 8, host, layers, Timing(1, 1), codecs=codecs,
        stage_s=fixed * rng.choice((0, 1e-6, 4e-6, 9e-6)), message_s=fixed * rng.choice((0, 1e-6, 3e-6)),
    )  # fmt: skip


def random_problem(rng: random.Random, *, layers: int, tiers: int, pinned: bool) -> Problem:
    """A problem whose costs are all of one order, so that every kind of plan wins now and then."""
    graph = random_blocks(rng, layers) if rng.random() < 0.4 else random_graph(rng, layers)
    hosts = ("device", "gateway", "edge", "cloud")[:tiers]
    profiles = {
        name: random_profile(rng, graph, name, speed)
        for name, speed in zip(hosts, rng.sample((4.0, 2.0, 1.0, 0.5), tiers), strict=True)
    }

    def link() -> Link:
        return Link(rng.choice((5e6, 2e7, 1e8, 1e9)), rng.choice((0.0, 0.5e-6, 3e-6)))

    topology = Topology(
        tuple(Host(name, rng.choice((1.0, 1.0, 1.5))) for name in hosts),
        tuple(link() for _ in hosts[1:]),
        tuple(link() for _ in hosts[1:]),
    )
    pins = {}
    if pinned and layers:
        names = rng.sample([layer.name for layer in graph.layers], rng.randint(1, min(2, layers)))
        pins = {name: rng.choice(hosts) for name in names}
    return Problem(graph, profiles, topology, pins)


def every_placement(graph: Graph, tiers: int, pins: Mapping[str, int]) -> Iterator[tuple[int, ...]]:
    """All placements in which no data flows back and every pin is obeyed, by trying all and dropping the wrong."""
    index = graph.index
    backwards = [
        (index[graph.producer[tensor]], index[reader])
        for tensor, readers in graph.consumers.items()
        if tensor in graph.producer
        for reader in readers
    ]
    choices = [[pins[layer.name]] if layer.name in pins else range(tiers) for layer in graph.layers]
    for placement in itertools.product(*choices):
        if all(placement[producer] <= placement[reader] for producer, reader in backwards):
            yield placement


def cheapest_by_trial(problem: Problem) -> tuple[int, tuple[int, ...]] | None:
    """Nanoseconds of the best placement, and of equals the one nearest to the device; None when there is none."""
    tiers = {host.name: i for i, host in enumerate(problem.topology.hosts)}
    pins = {layer: tiers[host] for layer, host in problem.pins.items()}
    table = problem.table()
    names = [layer.name for layer in problem.graph.layers]
    priced = [
        (price(problem.graph, dict(zip(names, placement, strict=True)), table).latency_ns, sum(placement), placement)
        for placement in every_placement(problem.graph, len(tiers), pins)
    ]
    if not priced:
        return None
    latency_ns, _, placement = min(priced)
    return latency_ns, placement
