"""Which dimension of a tensor holds its channels, and so how it is seen as planes."""

from __future__ import annotations

from splitnn.graph.graph import Graph
from splitnn.zoo.planes import Planes

_FIRST = ("conv", "pool", "batch_norm", "instance_norm", "group_norm")
_LAST = ("linear", "layer_norm", "rms_norm", "embedding", "addmm", "matmul", "bmm", "lstm", "gru", "rnn", "attention")


def planes_of(graph: Graph, tensor: str) -> Planes:
    """How the tensor is seen as planes of channels.

    Raises:
        ValueError: it is no float32 of two to four dimensions, or its samples are not along the first one.
    """
    spec = graph.tensors[tensor]
    along = spec.batch_growth[:1] == (1,) or not any(spec.batch_growth)
    if spec.dtype != "float32" or len(spec.shape) not in (2, 3, 4) or not along:
        raise ValueError(
            "a bottleneck takes a float32 tensor (N, C, H, W), of tokens (N, T, C), of a series (N, C, T) or of "
            f"features (N, C), samples first; {tensor!r} is {spec.dtype} {list(spec.shape)}"
            + ("" if along else ", samples elsewhere")
        )
    if len(spec.shape) == 3:
        return Planes("series" if channel_axis(graph, tensor) == 1 else "tokens")
    return Planes("features" if len(spec.shape) == 2 else "image")


def channel_axis(graph: Graph, tensor: str) -> int:
    """Of a tensor with three dimensions the one that holds channels: 1 behind convolutions, else 2.

    The next operator before it that tells decides; exchanges of the two on the way are followed.
    """
    flips, at = 0, tensor
    while at in graph.producer:
        layer = graph.layer(graph.producer[at])
        if any(word in layer.op for word in _FIRST):
            return 1 if flips % 2 == 0 else 2
        if any(word in layer.op for word in _LAST) or not layer.inputs:
            return 2 if flips % 2 == 0 else 1
        before = layer.inputs[0]
        if ("transpose" in layer.op or "permute" in layer.op) and _exchanged(graph, before, at):
            flips += 1
        at = before
    return 2


def _exchanged(graph: Graph, before: str, after: str) -> bool:
    """Whether the last two dimensions of three changed places."""
    one, other = graph.tensors[before].shape, graph.tensors[after].shape
    return len(one) == len(other) == 3 and one[1:] == other[:0:-1]
