"""Tensors that are the raw input in another form, so that keeping the input private keeps them, too."""

from __future__ import annotations

from splitnn.graph.graph import Graph

# fmt: off
_REARRANGING = frozenset((
    "permute", "transpose", "t", "numpy_T", "view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze",
    "unsqueeze", "clone", "alias", "contiguous", "detach", "lift_fresh_copy", "_to_copy", "to", "expand", "pad",
    "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "roll", "flip", "channel_shuffle", "pixel_shuffle",
    "pixel_unshuffle", "view_copy", "permute_copy", "cat", "stack",
))
_RESCALING = frozenset(("add", "sub", "rsub", "mul", "div", "neg", "true_divide"))
# fmt: on


def copies_of_inputs(graph: Graph) -> tuple[str, ...]:
    """The model's inputs and all that merely moves, pads, converts or rescales their elements, in graph order.

    Anybody can take those back. That a tensor is absent says nothing: what a convolution makes of a photo may show it
    just as well, which only a measurement tells (``splitnn.cost.leakage``). Plain integers, which say sizes, are left
    out, and so are the indices that a gather reads.
    """
    found = dict.fromkeys(tensor for tensor in graph.inputs if graph.tensors[tensor].dtype != "int")
    for layer in graph.layers:
        op = layer.op.split(".")[1] if layer.op.count(".") >= 2 else layer.op
        read = [tensor for tensor in layer.inputs if graph.tensors[tensor].dtype != "int"]
        copies = [tensor for tensor in read if tensor in found]
        if copies and (op in _REARRANGING or (op in _RESCALING and len(read) == 1)):
            found |= dict.fromkeys(layer.outputs)
    return tuple(found)
