"""Tensors that are the raw input in another form, so that keeping the input private keeps them, too."""

from __future__ import annotations

import math
from collections.abc import Sequence

from splitnn.graph.graph import Graph, Layer

# fmt: off
_MOVING = frozenset((  # each element of the result is an element of what is read, or a constant
    "permute", "transpose", "t", "numpy_T", "movedim", "swapaxes", "swapdims", "view", "_unsafe_view", "view_as_real",
    "view_as_complex", "view_as", "reshape", "reshape_as", "_reshape_alias", "flatten", "unflatten", "squeeze",
    "unsqueeze", "clone", "alias", "contiguous", "detach", "lift_fresh_copy", "_to_copy", "to", "type_as", "copy",
    "expand", "expand_as", "repeat", "repeat_interleave", "tile", "pad", "constant_pad_nd", "reflection_pad1d",
    "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "roll",
    "flip", "fliplr", "flipud", "rot90", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "view_copy",
    "permute_copy", "cat", "concat", "stack", "hstack", "vstack", "meshgrid", "slice", "select", "narrow", "split",
    "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk", "chunk", "unbind", "index", "index_select",
    "gather", "take", "take_along_dim", "masked_select", "embedding", "unfold", "im2col", "as_strided", "diagonal",
    "tril", "triu", "sort", "slice_scatter", "select_scatter", "index_put", "index_copy", "scatter", "masked_fill",
    "where", "dropout", "feature_dropout", "native_dropout",
))
_ONE_TO_ONE = frozenset((  # of each element by itself, and different for different elements
    "add", "sub", "subtract", "rsub", "mul", "multiply", "div", "divide", "true_divide", "neg", "negative",
    "reciprocal", "lerp", "addcmul", "addcdiv", "sigmoid", "tanh", "exp", "exp2", "expm1", "log", "log2", "log10",
    "log1p", "logit", "sqrt", "rsqrt", "sinh", "asinh", "atan", "arctan", "erf", "leaky_relu", "prelu", "_prelu_kernel",
    "rrelu", "elu", "selu", "celu", "softplus", "softsign", "log_sigmoid", "logsigmoid", "log_sigmoid_forward",
    "bitwise_not", "bitwise_xor", "logical_not", "batch_norm", "native_batch_norm", "cudnn_batch_norm",
    "_native_batch_norm_legit_no_training", "_batch_norm_no_update",
))
_ONE_TO_ONE_BUT_FOR_A_FEW_NUMBERS = frozenset((  # a mean and a scale a group
    "layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "instance_norm", "rms_norm",
    "_fused_rms_norm", "softmax", "_softmax", "log_softmax", "_log_softmax",
))
_RECOLOURING = frozenset((  # of each element by itself, not always one to one
    "relu", "relu6", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max", "threshold", "silu", "gelu", "mish",
    "hardswish", "hardsigmoid", "abs", "absolute", "square", "pow", "float_power", "sin", "cos", "tan", "round",
    "floor", "ceil", "trunc", "fix", "minimum", "maximum", "fmin", "fmax", "fake_quantize_per_tensor_affine",
    "fake_quantize_per_channel_affine", "quantize_per_tensor", "dequantize", "hardshrink", "softshrink",
))
_LINEAR = frozenset((
    "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear",
    "mm", "addmm", "bmm", "baddbmm", "matmul", "mv", "dot", "einsum", "cumsum", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "col2im", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d",
    "upsample_trilinear3d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "fft_fft", "fft_fft2", "fft_fftn", "_fft_r2c", "_fft_c2c", "fft_rfft", "fft_rfft2",
))
# fmt: on


def copies_of_inputs(graph: Graph) -> tuple[str, ...]:
    """The model's inputs and what they, or parts of them, can be had from given the weights, in graph order.

    These make a copy of a copy; what else a layer reads are constants unless it says otherwise:

    - moving, cutting out, repeating, padding, converting or joining elements, whatever they are joined with;
    - a one-to-one function of each element (scaling, batch normalisation, sigmoid, exp), where all operands are copies,
      or one that loses no more than a mean and a scale a group (layer normalisation, softmax);
    - a linear map with at least as many results as elements read: weights are seldom so that this loses anything;
    - any function of each element (ReLU, rounding) as long as no linear map has mixed the elements: it recolours the
      picture, which still shows.

    Rather too many are counted than too few. Yet that a tensor is absent says nothing: the rectified results of a
    convolution may show the input just as well, and so may two tensors together of which neither does, which only a
    measurement tells (``splitnn.cost.leakage``). Plain integers, which say sizes, are left out.
    """
    unmixed = dict.fromkeys((tensor for tensor in graph.inputs if graph.tensors[tensor].dtype != "int"), True)
    for layer in graph.layers:
        read = [tensor for tensor in layer.inputs if graph.tensors[tensor].dtype != "int"]
        copies = [tensor for tensor in read if tensor in unmixed]
        shows = any(unmixed[tensor] for tensor in copies)
        if copies and _copies(graph, layer, read=read, are_all=len(copies) == len(read), shows=shows):
            shows = shows and _operator(layer) not in _LINEAR
            unmixed |= {name: shows for name in layer.outputs if graph.tensors[name].dtype != "int"}
    return tuple(unmixed)


def _copies(graph: Graph, layer: Layer, *, read: list[str], are_all: bool, shows: bool) -> bool:
    """Whether the layer makes a copy of what it reads, of which all is a copy or some, mixed or not (``shows``)."""
    op = _operator(layer)
    if op in _MOVING:
        return True
    if not are_all:
        return False
    if op in _LINEAR:
        return len(read) == 1 and _elements(graph, layer.outputs) >= _elements(graph, read)
    return op in _ONE_TO_ONE or op in _ONE_TO_ONE_BUT_FOR_A_FEW_NUMBERS or (op in _RECOLOURING and shows)


def _operator(layer: Layer) -> str:
    """``aten.add_.Tensor`` as ``add``."""
    name = layer.op.split(".")[1] if layer.op.count(".") >= 2 else layer.op
    return name if name.startswith("__") or not name.endswith("_") else name.removesuffix("_")


def _elements(graph: Graph, tensors: Sequence[str]) -> int:
    return sum(math.prod(graph.tensors[name].shape) for name in tensors)
