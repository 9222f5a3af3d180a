"""What of a layer decides how long it takes: its kind, its FLOPs and the bytes that it moves. Knows no torch."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from splitnn.graph.graph import Graph, Layer

Kind = Literal["dense", "pointwise", "grouped", "linear", "attention", "memory", "view"]

_VIEWS = frozenset(
    f"aten.{name}"
    for name in ("view", "reshape", "permute", "transpose", "t", "expand", "unsqueeze", "squeeze", "select", "slice",
                 "split", "split_with_sizes", "chunk", "unbind", "alias", "detach", "sym_size", "_unsafe_view")
)  # fmt: skip


class Features(NamedTuple):
    """Of one layer what latency models regress on; bytes at the example's batch size."""

    kind: Kind
    flops: int
    moved_bytes: int  # tensors read and written
    weight_bytes: int


def features(graph: Graph, layer: Layer) -> Features:
    """The features of one layer of ``graph``."""
    moved = sum(graph.tensors[name].size_bytes for name in (*layer.inputs, *layer.outputs))
    weights = sum(graph.weight_bytes[name] for name in layer.weights)
    return Features(kind_of(graph, layer), layer.flops, moved, weights)


def kind_of(graph: Graph, layer: Layer) -> Kind:
    """The group of layers that use a machine alike: by operator, and convolutions by their shape.

    ``grouped`` convolutions, depthwise ones above all, do little with each byte; ``memory`` is whatever does no
    multiplications that torch counts; a ``view`` moves nothing.
    """
    if "conv" in layer.op:
        return _convolution(graph, layer)
    if layer.flops:
        return "linear" if layer.weights else "attention"
    return "view" if layer.op.rpartition(".")[0] in _VIEWS else "memory"


def _convolution(graph: Graph, layer: Layer) -> Kind:
    """A graph holds no kernel sizes: products for one output element = kernel area x input channels / groups."""
    if not layer.inputs or not layer.outputs:
        return "dense"
    source, result = graph.tensors[layer.inputs[0]], graph.tensors[layer.outputs[0]]
    terms = layer.flops / (2 * max(1, math.prod(result.shape)))
    channels = source.shape[1] if len(source.shape) > 1 else 1
    if terms == channels:
        return "pointwise"
    area = terms / channels
    return "dense" if area.is_integer() and math.isqrt(int(area)) ** 2 == area else "grouped"
