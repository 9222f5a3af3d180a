"""The standard protocol's datatypes, and its typed contents: what plain clients send instead of raw bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from splitnn.errors import CodecError

_DATATYPES = {
    "float64": "FP64", "float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "int64": "INT64", "int32": "INT32",
    "int16": "INT16", "int8": "INT8", "uint64": "UINT64", "uint32": "UINT32", "uint16": "UINT16", "uint8": "UINT8",
    "bool": "BOOL", "int": "INT64",
    # not in the protocol: tensors between layers only, raw only
    "complex64": "COMPLEX64", "complex128": "COMPLEX128", "float8_e4m3fn": "FP8E4M3", "float8_e5m2": "FP8E5M2",
}  # fmt: skip
_DTYPES = {datatype: dtype for dtype, datatype in _DATATYPES.items() if dtype != "int"}
_FIELDS = {
    "bool": "bool_contents", "int8": "int_contents", "int16": "int_contents", "int32": "int_contents",
    "int64": "int64_contents", "uint8": "uint_contents", "float32": "fp32_contents", "float64": "fp64_contents",
}  # fmt: skip


def wire_datatype(dtype: str) -> str:
    """The protocol's name of a dtype of ``TensorSpec``."""
    return _DATATYPES[dtype]


def dtype_of(datatype: str) -> str:
    """The dtype of a datatype. Raises CodecError: no model here has such tensors."""
    if datatype not in _DTYPES:
        raise CodecError(f"datatype {datatype!r} is not served; these are: {', '.join(_DTYPES)}")
    return _DTYPES[datatype]


def typed_contents(tensor: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor of an InferInputTensor or InferOutputTensor without raw contents.

    Raises:
        CodecError: the count or a value does not fit, or the datatype travels raw only.
    """
    dtype = dtype_of(tensor.datatype)
    if dtype not in _FIELDS:
        raise CodecError(f"{tensor.datatype} travels in raw contents only")
    values = np.array(getattr(tensor.contents, _FIELDS[dtype]))
    if values.size != math.prod(shape):
        raise CodecError(f"{values.size} values came in {_FIELDS[dtype]}; shape {shape} needs {math.prod(shape)}")
    target = np.dtype(dtype)
    if target.kind in "iu" and values.size:
        limits = np.iinfo(target)
        if values.min() < limits.min or values.max() > limits.max:
            raise CodecError(f"a value is outside of {tensor.datatype}")
    return torch.from_numpy(values.astype(target).reshape(shape))
