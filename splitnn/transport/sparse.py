"""Lossless forms: for tensors with many zeros, such as what a ReLU leaves, and for the bytes of real numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.dtypes import FLOATS, check_dtype
from splitnn.transport.layout import Layout, Payload, dtype_named, name_of, tensor_over
from splitnn.transport.raw import FixedSize, Raw

_NUMBERS = (*FLOATS, "int8", "uint8", "int16", "int32", "int64")
_WORDS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, slots=True)
class Mask:
    """A bit an element, whether it is other than zero, and these elements; a negative zero is one of them.

    Payload: the bits, the first element in the highest bit, then the elements in the order of memory. It is shorter
    than the tensor where more than one element in 32 (of float32) is zero, and costs little time.
    """

    name: str = "mask"
    lossless: bool = True
    size_is_exact: bool = False

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype in _NUMBERS

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return (math.prod(spec.shape) + 7) // 8 + spec.size_bytes

    def encode(self, tensor: torch.Tensor) -> Payload:
        check_dtype(self.name, name_of(tensor.dtype), _NUMBERS)
        words = _words(Raw().encode(tensor), tensor.dtype.itemsize)
        is_some = words != 0
        return b"".join((np.packbits(is_some).tobytes(), words[is_some].tobytes()))

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        check_dtype(self.name, dtype, _NUMBERS)
        layout = Layout(shape, strides)
        count, itemsize = math.prod(layout.compact_shape), dtype_named(dtype).itemsize
        mask_bytes = (count + 7) // 8
        view = memoryview(payload)
        is_some = np.unpackbits(np.frombuffer(view[:mask_bytes], dtype=np.uint8))[:count].astype(bool)
        if len(is_some) != count or len(payload) != mask_bytes + int(is_some.sum()) * itemsize:
            raise CodecError(f"{len(payload)} bytes are no {self.name} payload for {dtype} of shape {shape}")
        words = np.zeros(count, dtype=_WORDS[itemsize])
        words[is_some] = _words(view[mask_bytes:], itemsize)
        return Raw().decode(words.tobytes(), shape, dtype, strides)


@dataclass(frozen=True, slots=True)
class Shuffled:
    """The raw bytes with the first byte of every element first, then every second byte: exponents lie together.

    A form to be compressed; alone it saves nothing.
    """

    name: str = "shuffle"
    lossless: bool = True
    inner: Raw = field(default_factory=Raw)

    def accepts(self, spec: TensorSpec) -> bool:
        return self.inner.accepts(spec)

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return self.inner.encoded_bytes(spec)

    def payload_bytes(self, layout: Layout, dtype: str) -> int:
        return self.inner.payload_bytes(layout, dtype)

    def encode(self, tensor: torch.Tensor) -> Payload:
        plain = np.frombuffer(self.inner.encode(tensor), dtype=np.uint8)
        return plain.reshape(-1, tensor.dtype.itemsize).T.tobytes()

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        itemsize = dtype_named(dtype).itemsize
        if len(payload) % itemsize:
            raise CodecError(f"{len(payload)} bytes are no {dtype} elements")
        plain = np.frombuffer(payload, dtype=np.uint8).reshape(itemsize, -1).T.tobytes()
        return self.inner.decode(plain, shape, dtype, strides)


@dataclass(frozen=True, slots=True)
class Masked16:
    """Half precision, and of that only what is not zero: ``Mask`` over the halves that ``Half`` sends."""

    half: FixedSize
    name: str = "fp16+mask"
    lossless: bool = False
    size_is_exact: bool = False

    def accepts(self, spec: TensorSpec) -> bool:
        return self.half.accepts(spec)

    def encoded_bytes(self, spec: TensorSpec) -> int:
        halves = math.prod(spec.shape)
        return (halves + 7) // 8 + 2 * halves

    def encode(self, tensor: torch.Tensor) -> Payload:
        plain = self.half.encode(tensor)
        return Mask().encode(tensor_over(plain, (len(plain) // 2,), torch.float16))

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        count = self.half.payload_bytes(Layout(shape, strides), dtype) // 2
        halves = Mask().decode(payload, (count,), "float16")
        return self.half.decode(Raw().encode(halves), shape, dtype, strides)


def _words(payload: Payload, itemsize: int) -> NDArray[Any]:
    return np.frombuffer(payload, dtype=_WORDS[itemsize])
