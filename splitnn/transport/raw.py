"""The codec that every other one starts from, and what those need that work on another one's payload."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.layout import Layout, Payload, bytes_of, dtype_named, laid_out, name_of, tensor_over


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

    def word_bytes(self, dtype: str) -> int:
        return dtype_named(dtype).itemsize

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
        layout = laid_out(shape, strides)
        compact = tensor_over(payload, layout.compact_shape, dtype_named(dtype))
        if compact.dtype == torch.bool and bool((compact.view(torch.uint8) > 1).any()):
            raise CodecError("a bool tensor came with bytes other than 0 and 1")
        return layout.rebuild(compact)


class Inner(Protocol):
    """A codec that another one works on: ``payload_bytes`` is the size of its payload, or the most that it can be."""

    @property
    def name(self) -> str: ...

    @property
    def lossless(self) -> bool: ...

    @property
    def size_is_exact(self) -> bool: ...

    def accepts(self, spec: TensorSpec) -> bool: ...

    def encoded_bytes(self, spec: TensorSpec) -> int: ...

    def payload_bytes(self, layout: Layout, dtype: str) -> int: ...

    def encode(self, tensor: torch.Tensor) -> Payload: ...

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor: ...


class Words(Inner, Protocol):
    """A codec whose payload consists of words that are alike, such as numbers of one dtype."""

    def word_bytes(self, dtype: str) -> int:
        """Bytes of a word where tensors of this dtype are encoded."""
        ...
