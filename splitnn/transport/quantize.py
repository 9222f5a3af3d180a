"""Lossy codecs for floating-point tensors: half precision, and eight bits with an affine range."""

from __future__ import annotations

import functools
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.dtypes import FLOATS, as_dtype, check_dtype
from splitnn.transport.layout import Layout, Payload, bytes_of, dtype_named, laid_out, name_of, tensor_over

_COUNT = struct.Struct("<I")
_WIDE = ("float32", "float64")
_RANGE_BYTES = 8  # a range: float32 minimum, float32 step
_VALUES_A_CHANNEL = 16  # with fewer, the ranges cost more than they gain
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True)
class Half:
    """Two bytes an element, in another floating-point dtype."""

    name: str
    dtype: torch.dtype
    most: str  # the largest finite value, in words
    lossless: bool = False
    size_is_exact: bool = True

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype in _WIDE

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return 2 * math.prod(spec.shape)

    def payload_bytes(self, layout: Layout, dtype: str) -> int:
        return 2 * math.prod(layout.compact_shape)

    def word_bytes(self, dtype: str) -> int:
        return 2

    def encode(self, tensor: torch.Tensor) -> Payload:
        check_dtype(self.name, name_of(tensor.dtype), _WIDE)
        half = Layout.of(tensor).compact(tensor).to(self.dtype)
        if half.numel() and not all(math.isfinite(float(end)) for end in torch.aminmax(half)):
            raise CodecError(f"{self.name} holds finite values up to {self.most} only; use raw or zstd")
        return bytes_of(half)

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        check_dtype(self.name, dtype, _WIDE)
        layout = laid_out(shape, strides)
        half = tensor_over(payload, layout.compact_shape, self.dtype)
        return layout.rebuild(half.to(dtype_named(dtype)))


FP16 = Half("fp16", torch.float16, "65504")
"""IEEE half precision: relative error at most 2**-11 in its normal range (6e-5 to 65504), else 2**-25 absolute."""

BF16 = Half("bf16", torch.bfloat16, "3.3e38")
"""The upper half of a float32: relative error at most 2**-8, and float32's range."""


@dataclass(frozen=True, slots=True)
class Int8:
    """Eight bits: 255 equal steps from minimum to maximum of each channel of each sample (dimensions 1 and 0), or of
    each sample where channels are short. A batch decodes to what its samples decode to one by one.

    The error is at most half a step, (maximum - minimum) / 510, and float32 rounding; a channel whose values differ
    by less than 3e-36, as denormals do, comes back as its minimum, so off by less than that. Payload,
    little-endian: ranges (uint32), minima (float32), steps (float32), symbols (uint8) in the order of memory.
    """

    name: str = "int8"
    lossless: bool = False
    size_is_exact: bool = True

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype in FLOATS

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return self.payload_bytes(Layout(spec.shape), spec.dtype)

    def payload_bytes(self, layout: Layout, dtype: str) -> int:
        return _COUNT.size + math.prod(_range_shape(layout)) * _RANGE_BYTES + math.prod(layout.compact_shape)

    def word_bytes(self, dtype: str) -> int:
        return 1

    def encode(self, tensor: torch.Tensor) -> Payload:
        dtype = name_of(tensor.dtype)
        check_dtype(self.name, dtype)
        layout = Layout.of(tensor)
        range_shape = _range_shape(layout)
        ranges = math.prod(range_shape)
        payload = bytearray(self.payload_bytes(layout, dtype))
        _COUNT.pack_into(payload, 0, ranges)
        if ranges == 0:
            return bytes(payload)
        values: NDArray[np.float32] = layout.compact(tensor).float().numpy()  # in numpy a small tensor costs a third
        if not values.ndim:
            values, range_shape = values.reshape(1), (1,)
        over = tuple(d for d, size in enumerate(range_shape) if size == 1)
        low = values.min(over, keepdims=True) if over else values  # range_shape
        high = values.max(over, keepdims=True) if over else values
        with np.errstate(over="ignore", invalid="ignore"):
            step = (high - low) / np.float32(255)
        if not _is_range(low, step):
            raise CodecError("int8 needs finite values whose range is a float32; use raw or zstd")
        step[step < _TINY] = 0  # the inverse of a smaller one is infinite
        side = np.frombuffer(payload, dtype="<f4", offset=_COUNT.size, count=2 * ranges)
        side[:ranges] = low.reshape(-1)
        side[ranges:] = step.reshape(-1)
        inverse = np.zeros_like(step)
        np.divide(np.float32(1), step, out=inverse, where=step > 0)
        scaled = values - low
        scaled *= inverse
        np.rint(scaled, out=scaled)
        np.minimum(scaled, 255, out=scaled)  # never below 0: nothing is smaller than ``low``
        symbols = np.frombuffer(payload, dtype=np.uint8, offset=_COUNT.size + ranges * _RANGE_BYTES)
        np.copyto(symbols.reshape(scaled.shape), scaled, casting="unsafe")
        return memoryview(payload)

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        check_dtype(self.name, dtype)
        layout = laid_out(shape, strides)
        range_shape = _range_shape(layout)
        ranges = math.prod(range_shape)
        expected = self.payload_bytes(layout, dtype)
        if len(payload) != expected or _COUNT.unpack_from(payload)[0] != ranges:
            raise CodecError(f"{len(payload)} bytes are no int8 payload for shape {shape}, which needs {expected}")
        side = np.frombuffer(payload, dtype="<f4", offset=_COUNT.size, count=2 * ranges)
        low, step = side.reshape(2, *range_shape)
        if not _is_range(low, step):
            raise CodecError("an int8 payload has a range that is negative or not finite")
        symbols = np.frombuffer(payload, dtype=np.uint8, offset=_COUNT.size + ranges * _RANGE_BYTES)
        values = symbols.reshape(layout.compact_shape).astype(np.float32)
        values *= step
        values += low
        return layout.rebuild(as_dtype(torch.from_numpy(values), dtype))


def range_count(shape: tuple[int, ...]) -> int:
    """Ranges of a contiguous tensor of this shape in ``int8``: each is of as many elements, one after the other."""
    return math.prod(_range_shape(Layout(shape)))


def _is_range(low: NDArray[Any], step: NDArray[Any]) -> bool:
    """Whether every value of these ranges is a finite float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool((step >= 0).all() and np.isfinite(low + 256 * step).all())


@functools.lru_cache(1024)
def _range_shape(layout: Layout) -> tuple[int, ...]:
    """Ranges along each dimension of the compact form: one for each sample (dimension 0) and channel (dimension 1).

    One for each sample only where a range for each channel would not pay, and one for all where there are no samples:
    in a tensor of one dimension, and where windows overlap.
    """
    compact = layout.compact_shape
    if math.prod(compact) == 0:
        return (0,)
    alone = [1] * len(compact)
    if layout.overlaps or len(layout.shape) < 2:
        return tuple(alone)
    samples, values = 1, math.prod(compact)
    if 0 in layout.order:
        samples = alone[layout.order.index(0)] = layout.shape[0]
    if 1 in layout.order and values >= _VALUES_A_CHANNEL * samples * layout.shape[1]:
        alone[layout.order.index(1)] = layout.shape[1]
    return tuple(alone)
