"""How much memory a host needs for its layers. Knows no torch.

The weights of all its layers, each once, and the largest working set of one of them. A layer's working set is what is
alive while it runs when the whole model runs in the graph's order: an upper bound for a part of the model, which may
hold less, and blind to what an engine allocates for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from splitnn.graph.graph import Graph


def working_bytes(graph: Graph) -> dict[str, int]:
    """Of each layer the bytes of all tensors that were made by then and are read by it or later, and of its results."""
    index, last = graph.index, len(graph) - 1
    change = [0] * (len(graph) + 1)
    kept = set(graph.outputs)
    for tensor, readers in graph.consumers.items():
        made = index[graph.producer[tensor]] if tensor in graph.producer else 0
        until = last if tensor in kept else max((index[reader] for reader in readers), default=made)
        if tensor in graph.producer or readers or tensor in kept:
            size = graph.tensors[tensor].size_bytes
            change[made] += size
            change[until + 1] -= size
    found, alive = {}, 0
    for layer, step in zip(graph.layers, change, strict=False):
        alive += step
        found[layer.name] = alive
    return found


def peak_bytes(graph: Graph, layers: Iterable[str], *, working: Mapping[str, int] | None = None) -> int:
    """Bytes that a host needs which runs these layers; ``working`` saves computing ``working_bytes`` again."""
    working = working_bytes(graph) if working is None else working
    names = list(layers)
    weights = {weight for name in names for weight in graph.layer(name).weights}
    return sum(graph.weight_bytes[weight] for weight in weights) + max((working[name] for name in names), default=0)
