"""Lossless codecs: the memory of a tensor as it is, and zstd on top of any codec whose size is fixed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import zstandard

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.layout import Layout, Payload, bytes_of, dtype_named, name_of, tensor_over


@dataclass(frozen=True, slots=True)
class Raw:
    """The tensor's elements in the order of its memory. Decoding copies nothing unless the strides leave gaps."""

    name: str = "raw"
    lossless: bool = True
    size_is_exact: bool = True

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype != "int"

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return spec.size_bytes

    def payload_bytes(self, layout: Layout, dtype: str) -> int:
        return math.prod(layout.compact_shape) * dtype_named(dtype).itemsize

    def encode(self, tensor: torch.Tensor) -> Payload:
        name_of(tensor.dtype)
        if tensor.is_contiguous() and tensor.is_cpu and not tensor.requires_grad:
            return bytes_of(tensor)  # the usual case, quickly
        return bytes_of(Layout.of(tensor).compact(tensor))

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        if len(payload) and not strides and dtype != "bool" and min(shape, default=0) >= 0:
            return tensor_over(payload, shape, dtype_named(dtype))  # the usual case, quickly
        layout = Layout(shape, strides)
        compact = tensor_over(payload, layout.compact_shape, dtype_named(dtype))
        if compact.dtype == torch.bool and bool((compact.view(torch.uint8) > 1).any()):
            raise CodecError("a bool tensor came with bytes other than 0 and 1")
        return layout.rebuild(compact)


class FixedSize(Protocol):
    """A codec whose payload's size follows from the layout, so that a compressed one can be bounded."""

    @property
    def lossless(self) -> bool: ...

    def accepts(self, spec: TensorSpec) -> bool: ...

    def encoded_bytes(self, spec: TensorSpec) -> int: ...

    def payload_bytes(self, layout: Layout, dtype: str) -> int: ...

    def encode(self, tensor: torch.Tensor) -> Payload: ...

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Zstd:
    """One zstd frame around another codec's payload. The frame must state its size, and state it truly."""

    name: str
    inner: FixedSize
    level: int = 1  # -5 is as fast as LZ4, and as good
    size_is_exact: bool = False

    @property
    def lossless(self) -> bool:
        return self.inner.lossless

    def accepts(self, spec: TensorSpec) -> bool:
        return self.inner.accepts(spec)

    def encoded_bytes(self, spec: TensorSpec) -> int:
        plain = self.inner.encoded_bytes(spec)
        return plain + plain // 256 + 128  # ZSTD_compressBound, rounded up

    def encode(self, tensor: torch.Tensor) -> Payload:
        return zstandard.ZstdCompressor(level=self.level).compress(self.inner.encode(tensor))

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        expected = self.inner.payload_bytes(Layout(shape, strides), dtype)
        try:
            stated = zstandard.get_frame_parameters(payload).content_size  # decompress() would allocate it unasked
            if stated != expected:
                raise CodecError(f"a zstd frame states {stated} bytes where {dtype} of shape {shape} needs {expected}")
            plain = zstandard.ZstdDecompressor().decompress(payload, max_output_size=expected, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise CodecError(f"not a whole zstd frame: {error}") from error
        return self.inner.decode(plain, shape, dtype, strides)
