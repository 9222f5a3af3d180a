"""Lossy codecs for floating-point tensors: half precision, and eight bits with an affine range."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.layout import Layout, Payload, bytes_of, dtype_named, name_of, tensor_over

_COUNT = struct.Struct("<I")
_RANGE_BYTES = 8  # a channel: float32 minimum, float32 step
_VALUES_A_CHANNEL = 16  # with fewer, the ranges cost more than they gain
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Fp16:
    """IEEE half precision: relative error at most 2**-11 in its normal range (6e-5 to 65504), else 2**-25 absolute."""

    name: str = "fp16"
    lossless: bool = False
    size_is_exact: bool = True

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype in ("float32", "float64")

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return 2 * math.prod(spec.shape)

    def payload_bytes(self, layout: Layout, dtype: str) -> int:
        return 2 * math.prod(layout.compact_shape)

    def encode(self, tensor: torch.Tensor) -> Payload:
        _check_dtype(self.name, name_of(tensor.dtype), ("float32", "float64"))
        half = Layout.of(tensor).compact(tensor).half()
        if half.numel() and not bool(torch.stack(torch.aminmax(half)).isfinite().all()):
            raise CodecError("fp16 holds finite values up to 65504 only; use raw or zstd")
        return bytes_of(half)

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        _check_dtype(self.name, dtype, ("float32", "float64"))
        layout = Layout(shape, strides)
        half = tensor_over(payload, layout.compact_shape, torch.float16)
        return layout.rebuild(half.to(dtype_named(dtype)))


@dataclass(frozen=True, slots=True)
class Bf16:
    """The upper half of a float32: relative error at most 2**-8, and float32's range."""

    name: str = "bf16"
    lossless: bool = False
    size_is_exact: bool = True

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype in ("float32", "float64")

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return 2 * math.prod(spec.shape)

    def payload_bytes(self, layout: Layout, dtype: str) -> int:
        return 2 * math.prod(layout.compact_shape)

    def encode(self, tensor: torch.Tensor) -> Payload:
        _check_dtype(self.name, name_of(tensor.dtype), ("float32", "float64"))
        half = Layout.of(tensor).compact(tensor).bfloat16()
        if half.numel() and not bool(torch.stack(torch.aminmax(half)).isfinite().all()):
            raise CodecError("bf16 holds finite values up to 3.3e38 only; use raw or zstd")
        return bytes_of(half)

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        _check_dtype(self.name, dtype, ("float32", "float64"))
        layout = Layout(shape, strides)
        half = tensor_over(payload, layout.compact_shape, torch.bfloat16)
        return layout.rebuild(half.to(dtype_named(dtype)))


@dataclass(frozen=True, slots=True)
class Int8:
    """Eight bits: 255 equal steps from minimum to maximum of each channel (dimension 1), or of all where short.

    The error is at most half a step, (maximum - minimum) / 510, and float32 rounding. Payload, little-endian: channels
    (uint32), minima (float32), steps (float32), symbols (uint8) in the order of memory.
    """

    name: str = "int8"
    lossless: bool = False
    size_is_exact: bool = True

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype in ("float32", "float64", "float16", "bfloat16")

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return self.payload_bytes(Layout(spec.shape), spec.dtype)

    def payload_bytes(self, layout: Layout, dtype: str) -> int:
        _, channels, _ = _grouped(layout)
        return _COUNT.size + channels * _RANGE_BYTES + math.prod(layout.compact_shape)

    def encode(self, tensor: torch.Tensor) -> Payload:
        _check_dtype(self.name, name_of(tensor.dtype), ("float32", "float64", "float16", "bfloat16"))
        layout = Layout.of(tensor)
        groups = _grouped(layout)  # (before, channels, after)
        values = layout.compact(tensor).view(groups).float()
        channels = groups[1]
        payload = torch.empty(self.payload_bytes(layout, name_of(tensor.dtype)), dtype=torch.uint8)
        payload[: _COUNT.size] = torch.frombuffer(bytearray(_COUNT.pack(channels)), dtype=torch.uint8)
        if channels == 0:
            return bytes_of(payload)
        low, high = values.amin((0, 2)), values.amax((0, 2))  # (channels,)
        step = (high - low) / 255
        if not bool(step.isfinite().all()):
            raise CodecError("int8 needs finite values whose range is a float32; use raw or zstd")
        step = torch.where(step < _TINY, 0.0, step)  # the inverse of a smaller one is infinite
        ranges = payload[_COUNT.size : _COUNT.size + channels * _RANGE_BYTES]
        ranges.copy_(torch.cat((low, step)).view(torch.uint8))
        inverse = torch.where(step > 0, 1 / step, 0.0)
        scaled = values.sub(low[:, None]).mul_(inverse[:, None]).round_().clamp_(0, 255)
        payload[_COUNT.size + channels * _RANGE_BYTES :].view(groups).copy_(scaled)
        return bytes_of(payload)

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        _check_dtype(self.name, dtype, ("float32", "float64", "float16", "bfloat16"))
        layout = Layout(shape, strides)
        groups = _grouped(layout)
        channels = groups[1]
        expected = self.payload_bytes(layout, dtype)
        if len(payload) != expected or _COUNT.unpack_from(payload)[0] != channels:
            raise CodecError(f"{len(payload)} bytes are no int8 payload for shape {shape}, which needs {expected}")
        view = memoryview(payload)
        ranges = tensor_over(view[_COUNT.size : expected - math.prod(groups)], (2, channels), torch.float32)
        low, step = ranges[0, :, None], ranges[1, :, None]
        if not bool((step >= 0).all() and (low + 256 * step).isfinite().all()):
            raise CodecError("an int8 payload has a range that is negative or not finite")
        symbols = tensor_over(view[expected - math.prod(groups) :], groups, torch.uint8)
        values = symbols.float().mul_(step).add_(low).to(dtype_named(dtype))
        return layout.rebuild(values.view(layout.compact_shape))


def _grouped(layout: Layout) -> tuple[int, int, int]:
    """The compact form seen as (before, channels, after); one channel where a range each would not pay."""
    compact = layout.compact_shape
    count = math.prod(compact)
    if count == 0:
        return 0, 0, 0
    if layout.overlaps or 1 not in layout.order or count < _VALUES_A_CHANNEL * layout.shape[1]:
        return 1, 1, count
    axis = layout.order.index(1)
    return math.prod(compact[:axis]), compact[axis], math.prod(compact[axis + 1 :])


def _check_dtype(codec: str, dtype: str, allowed: tuple[str, ...]) -> None:
    if dtype not in allowed:
        raise CodecError(f"codec {codec} takes {' or '.join(allowed)}, not {dtype}")
