"""Programs with tensors on grids as ONNX models that compute in int8 (QDQ: operators between quantise and dequantise).

Weights are quantised where that loses nothing: symmetric int8, one scale an output channel, when they lie on such a
grid already. Weights of a version that was not compressed stay in floats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from splitnn.graph.grid import STEPS, Grid, grids_in

_SAME_VALUES = frozenset({"MaxPool", "Pad", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div"})
_LARGEST = 127
_OFF_GRID = 1e-3  # of a step: how far a weight may be off it, by the rounding of floats
_BIAS_STEPS = 2**29  # a bias in int32 has fewer

_Array = npt.NDArray[Any]


def with_quantisers(module: fx.GraphModule) -> bool:
    """Put one call in the place of the four that round a tensor to a grid; whether there were any."""

    def quantiser(source: fx.Node, grid: Grid) -> fx.Node:
        target = torch.ops.aten.fake_quantize_per_tensor_affine.default
        return module.graph.call_function(target, (source, grid.step, -grid.low, 0, STEPS))

    return _replaced(module, quantiser)


def without_quantisers(module: fx.GraphModule) -> bool:
    """Take out the calls that round tensors to grids; whether there were any."""
    return _replaced(module, lambda source, grid: source)


def _replaced(module: fx.GraphModule, replacement: Callable[[fx.Node, Grid], fx.Node]) -> bool:
    found = list(grids_in(module.graph))
    for node, source, grid in found:
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(replacement(source, grid))
    if found:
        module.graph.eliminate_dead_code()
        module.recompile()
    return bool(found)


def quantise_weights(proto: Any) -> None:
    """Weights and biases of convolutions and matrix products that read a dequantised tensor, in int8 and int32."""
    graph = proto.graph
    producer = {name: node for node in graph.node for name in node.output}
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    nodes: list[Any] = []
    for node in graph.node:
        before = producer.get(node.input[0]) if node.input else None
        while before is not None and before.op_type in _SAME_VALUES:
            before = producer.get(before.input[0])
        alone = all(name in arrays and readers[name] == 1 for name in node.input[1:])
        if before is not None and before.op_type == "DequantizeLinear" and alone:
            nodes += _dequantisers(graph, node, arrays, arrays[before.input[1]])
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def spread_constants(proto: Any) -> None:
    """Constants of one number a channel, (1, C, 1, 1), along the last dimension of what they are combined with.

    ONNX Runtime computes in int8 with channels last, and takes float operators before it into that layout, too: there a
    constant that is constant over rows of C = 3 numbers costs 30 times what one over whole rows of the image does.
    """
    from onnx import numpy_helper

    graph = proto.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    widths = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info)
    }
    for node in graph.node:
        if node.op_type not in _ELEMENTWISE:
            continue
        for at, other in ((0, 1), (1, 0)):
            constant, sizes = arrays.get(node.input[at]), widths.get(node.input[other], [])
            if constant is None or len(constant.dims) != len(sizes) or len(sizes) < 3 or not sizes[-1]:
                continue
            array = numpy_helper.to_array(constant)
            if array.shape[-1] == 1 and array.size > 1:
                node.input[at] = f"{node.output[0]}:{at}:spread"
                wide = np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:-1], sizes[-1])))
                graph.initializer.append(numpy_helper.from_array(wide, node.input[at]))


def _dequantisers(graph: Any, node: Any, arrays: Mapping[str, Any], input_scale: Any) -> list[Any]:
    """Calls that make the node's weight, and its bias, of whole numbers; none where it goes on in floats."""
    from onnx import numpy_helper

    weight, *rest = [numpy_helper.to_array(arrays[name]) for name in node.input[1:]] or [np.zeros(0)]
    axis = _channels_at(node)
    if axis is None or weight.dtype != np.float32 or weight.ndim < 2:
        return []
    step = numpy_helper.to_array(input_scale)
    (offsets,) = [bias / step for bias in rest] or [np.zeros(weight.shape[axis], np.float32)]
    taken = _in_steps(weight, axis, offsets)
    if taken is None or offsets.shape != (weight.shape[axis],):
        return []
    steps, scale = taken
    made = [_dequantised(graph, node, 1, steps, scale, axis)]
    if rest:
        made.append(_dequantised(graph, node, 2, np.rint(offsets / scale).astype(np.int32), scale * step, 0))
    return made


def _channels_at(node: Any) -> int | None:
    """The dimension of the node's weight that its output channels lie along."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Conv":
        return 0
    if node.op_type == "MatMul":
        return 1
    if node.op_type == "Gemm" and all(attributes[name].f == 1.0 for name in ("alpha", "beta") if name in attributes):
        return 0 if "transB" in attributes and attributes["transB"].i else 1
    return None


def _in_steps(weight: _Array, axis: int, offsets: _Array) -> tuple[_Array, _Array] | None:
    """The weight in int8 and its scales (channels,), None where it does not lie on such a grid.

    A scale is larger where the channel's bias, ``offsets`` in units of the input's step, would not fit into int32:
    beside such a bias the channel's weights do not count.
    """
    channels = weight.shape[axis]
    flat = np.moveaxis(weight, axis, 0).reshape(channels, -1)
    scale = np.maximum(np.abs(flat).max(1) / np.float32(_LARGEST), np.finfo(np.float32).tiny)
    steps = flat / scale[:, None]
    if np.abs(steps - np.rint(steps)).max(initial=0.0) > _OFF_GRID:
        return None
    scale = np.maximum(scale, np.abs(offsets) / np.float32(_BIAS_STEPS)).astype(np.float32)
    shape = (channels, *(size for at, size in enumerate(weight.shape) if at != axis))
    whole = np.rint(flat / scale[:, None]).astype(np.int8).reshape(shape)
    return np.ascontiguousarray(np.moveaxis(whole, 0, axis)), scale


def _dequantised(graph: Any, node: Any, at: int, steps: _Array, scale: _Array, axis: int) -> Any:
    """The node's input ``at`` as whole numbers, with the call that turns them into floats, which it returns."""
    from onnx import helper, numpy_helper

    name = f"{node.output[0]}:{at}"
    zeros = np.zeros(scale.shape, steps.dtype)
    for suffix, array in (("steps", steps), ("scale", scale), ("zero", zeros)):
        graph.initializer.append(numpy_helper.from_array(array, f"{name}:{suffix}"))
    inputs = [f"{name}:{suffix}" for suffix in ("steps", "scale", "zero")]
    node.input[at] = f"{name}:float"
    return helper.make_node("DequantizeLinear", inputs, [f"{name}:float"], axis=axis)
