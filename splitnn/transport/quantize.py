"""Lossy codecs for floating-point tensors: half precision, and eight bits with an affine range."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.dtypes import FLOATS, as_dtype, check_dtype
from splitnn.transport.layout import Layout, Payload, bytes_of, dtype_named, name_of, tensor_over

_COUNT = struct.Struct("<I")
_WIDE = ("float32", "float64")
_RANGE_BYTES = 8  # a range: float32 minimum, float32 step
_VALUES_A_CHANNEL = 16  # with fewer, the ranges cost more than they gain
_TINY = torch.finfo(torch.float32).tiny


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

    def encode(self, tensor: torch.Tensor) -> Payload:
        check_dtype(self.name, name_of(tensor.dtype), _WIDE)
        half = Layout.of(tensor).compact(tensor).to(self.dtype)
        if half.numel() and not bool(torch.stack(torch.aminmax(half)).isfinite().all()):
            raise CodecError(f"{self.name} holds finite values up to {self.most} only; use raw or zstd")
        return bytes_of(half)

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        check_dtype(self.name, dtype, _WIDE)
        layout = Layout(shape, strides)
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

    The error is at most half a step, (maximum - minimum) / 510, and float32 rounding. Payload, little-endian: ranges
    (uint32), minima (float32), steps (float32), symbols (uint8) in the order of memory.
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

    def encode(self, tensor: torch.Tensor) -> Payload:
        check_dtype(self.name, name_of(tensor.dtype))
        layout = Layout.of(tensor)
        range_shape = _range_shape(layout)
        values = layout.compact(tensor).float()
        ranges = math.prod(range_shape)
        payload = torch.empty(self.payload_bytes(layout, name_of(tensor.dtype)), dtype=torch.uint8)
        payload[: _COUNT.size] = torch.frombuffer(bytearray(_COUNT.pack(ranges)), dtype=torch.uint8)
        if ranges == 0:
            return bytes_of(payload)
        over = tuple(d for d, size in enumerate(range_shape) if size == 1)
        low = values.amin(over, keepdim=True) if over else values  # range_shape
        high = values.amax(over, keepdim=True) if over else values
        step = (high - low) / 255
        if not _is_range(low, step):
            raise CodecError("int8 needs finite values whose range is a float32; use raw or zstd")
        step = torch.where(step < _TINY, 0.0, step)  # the inverse of a smaller one is infinite
        side = payload[_COUNT.size : _COUNT.size + ranges * _RANGE_BYTES]
        side.copy_(torch.cat((low.reshape(-1), step.reshape(-1))).view(torch.uint8))
        inverse = torch.where(step > 0, 1 / step, 0.0)
        scaled = values.sub(low).mul_(inverse).round_().clamp_(0, 255)
        payload[_COUNT.size + ranges * _RANGE_BYTES :].view(layout.compact_shape).copy_(scaled)
        return bytes_of(payload)

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        check_dtype(self.name, dtype)
        layout = Layout(shape, strides)
        range_shape = _range_shape(layout)
        ranges = math.prod(range_shape)
        expected = self.payload_bytes(layout, dtype)
        if len(payload) != expected or _COUNT.unpack_from(payload)[0] != ranges:
            raise CodecError(f"{len(payload)} bytes are no int8 payload for shape {shape}, which needs {expected}")
        view = memoryview(payload)
        symbols_at = _COUNT.size + ranges * _RANGE_BYTES
        low, step = tensor_over(view[_COUNT.size : symbols_at], (2, *range_shape), torch.float32)
        if not _is_range(low, step):
            raise CodecError("an int8 payload has a range that is negative or not finite")
        symbols = tensor_over(view[symbols_at:], layout.compact_shape, torch.uint8)
        values = symbols.float().mul_(step).add_(low)
        return layout.rebuild(as_dtype(values, dtype))


def _is_range(low: torch.Tensor, step: torch.Tensor) -> bool:
    """Whether every value of these ranges is a finite float32."""
    return bool((step >= 0).all() and (low + 256 * step).isfinite().all())


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
