"""Graphs of any size in the shapes of real networks, with times and tensor sizes to plan with. Seeded."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, get_args

from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.graph.graph import Graph, Layer, TensorSpec

Family = Literal["chain", "residual", "inception", "attention", "random"]
FAMILIES: tuple[Family, ...] = get_args(Family)

_Add = Callable[..., str]


def synthetic_graph(rng: random.Random, family: Family, layers: int) -> Graph:
    """About that many layers (the last block is completed); tensors shrink with depth, as in image networks."""
    tensors = {"input": TensorSpec((1, 3, 224, 224), "uint8")}
    made: list[Layer] = []

    def add(*reads: str) -> str:
        name = f"t{len(made)}"
        elements = int(40_000 * max(0.05, 1 - len(made) / layers) * rng.uniform(0.5, 2))
        tensors[name] = TensorSpec((1, elements), "float32")
        made.append(Layer(f"layer{len(made)}", "op", tuple(dict.fromkeys(reads)), (name,)))
        return name

    block = _BLOCKS[family]
    end = "input"
    while len(made) < layers:
        end = block(rng, add, end)
    return Graph(tuple(made), tensors, ("input",), (end,))


def synthetic_profiles(rng: random.Random, graph: Graph, slowness: dict[str, float]) -> dict[str, Profile]:
    """Hosts by name that are so many times slower than one that takes about 40 ms in all; int8 measured everywhere."""
    fast = {layer.name: rng.expovariate(1) * 0.04 / len(graph) for layer in graph.layers}
    profiles = {}
    for host, factor in slowness.items():
        seconds = {name: t * factor * rng.uniform(0.7, 1.3) for name, t in fast.items()}
        codecs = {
            tensor: {"int8": CodecCost(spec.size_bytes // 4, 5e-5 * factor, 5e-5 * factor)}
            for tensor, spec in graph.tensors.items()
        }
        layers = {name: Timing(t, t) for name, t in seconds.items()}
        profiles[host] = Profile("synthetic", host, layers, Timing(0, 0), codecs=codecs)
    return profiles


def _chain(rng: random.Random, add: _Add, start: str) -> str:
    return add(start)


def _residual(rng: random.Random, add: _Add, start: str) -> str:
    end = start
    for _ in range(6):
        end = add(end)
    return add(end, add(start) if rng.random() < 0.25 else start)  # now and then a projection on the skip


def _inception(rng: random.Random, add: _Add, start: str) -> str:
    ends = []
    for _ in range(4):
        end = start
        for _ in range(rng.randint(1, 5)):
            end = add(end)
        ends.append(end)
    return add(*ends)


def _attention(rng: random.Random, add: _Add, start: str) -> str:
    normed = add(start)
    query, key, value = (add(add(add(normed))) for _ in range(3))
    attended = add(add(add(add(query, key)), value), start)
    return add(add(add(add(add(attended)))), attended)


def _random(rng: random.Random, add: _Add, start: str) -> str:
    """Reads the last layer and perhaps one of the last ten: no block structure to make use of."""
    position = int(start[1:]) if start != "input" else -1
    side = max(-1, position - rng.randint(1, 10))
    reads = [start] if rng.random() < 0.6 else []
    return add(*reads, f"t{side}" if side >= 0 else "input")


_BLOCKS: dict[Family, Callable[[random.Random, _Add, str], str]] = {
    "chain": _chain,
    "residual": _residual,
    "inception": _inception,
    "attention": _attention,
    "random": _random,
}
