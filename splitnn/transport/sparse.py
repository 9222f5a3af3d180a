"""What is not zero: for tensors such as a ReLU leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitnn.errors import CodecError
from splitnn.graph.graph import DTYPE_BYTES, TensorSpec
from splitnn.transport.layout import Layout, Payload, laid_out, name_of
from splitnn.transport.raw import Words

_WORDS: dict[int, np.dtype[Any]] = {size: np.dtype(f"<u{size}") for size in (1, 2, 4, 8)}


@dataclass(frozen=True, slots=True)
class Masked:
    """A bit for each word of another codec's payload, whether it is other than zero, and these words.

    Payload: the bits, the first word in the highest one, then the words in their order. A negative zero is not zero.
    It is shorter than the other payload where more than one word in 32 (of float32) is zero, and costs little time.
    """

    name: str
    inner: Words
    size_is_exact: bool = False

    @property
    def lossless(self) -> bool:
        return self.inner.lossless

    def accepts(self, spec: TensorSpec) -> bool:
        return self.inner.accepts(spec) and self.inner.word_bytes(spec.dtype) in _WORDS

    def encoded_bytes(self, spec: TensorSpec) -> int:
        plain = self.inner.encoded_bytes(spec)
        return (plain // self.inner.word_bytes(spec.dtype) + 7) // 8 + plain

    def payload_bytes(self, layout: Layout, dtype: str) -> int:
        """The most that a payload takes."""
        plain = self.inner.payload_bytes(layout, dtype)
        return (plain // self.inner.word_bytes(dtype) + 7) // 8 + plain

    def encode(self, tensor: torch.Tensor) -> Payload:
        words: NDArray[Any] = np.frombuffer(self.inner.encode(tensor), dtype=self._words(name_of(tensor.dtype)))
        is_some = words != 0
        # compress() takes as long for any mask; an index that is a mask stumbles over those without a pattern.
        return b"".join((np.packbits(is_some).data, np.compress(is_some, words).data))

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        word = self._words(dtype)
        plain_bytes = self.inner.payload_bytes(laid_out(shape, strides), dtype)
        count = plain_bytes // word.itemsize
        mask_bytes = (count + 7) // 8
        view = memoryview(payload)
        if len(view) < mask_bytes:
            raise CodecError(f"{len(payload)} bytes are no {self.name} payload for {dtype} of shape {shape}")
        is_some = np.unpackbits(np.frombuffer(view[:mask_bytes], dtype=np.uint8), count=count).view(bool)
        if len(view) != mask_bytes + int(np.count_nonzero(is_some)) * word.itemsize:
            raise CodecError(f"{len(payload)} bytes are no {self.name} payload for {dtype} of shape {shape}")
        words: NDArray[Any] = np.zeros(count, dtype=word)
        words[is_some] = np.frombuffer(view[mask_bytes:], dtype=word)
        return self.inner.decode(words.data.cast("B") if count else b"", shape, dtype, strides)

    def _words(self, dtype: str) -> np.dtype[Any]:
        size = self.inner.word_bytes(dtype) if dtype in DTYPE_BYTES else 0
        if size not in _WORDS:
            raise CodecError(f"codec {self.name} takes elements of 1, 2, 4 or 8 bytes, not {dtype}")
        return _WORDS[size]


def masking_bytes(codec: Masked, layout: Layout, dtype: str) -> int:
    """Memory beside the tensor that decoding takes: the bits, a byte each, and the words."""
    plain = codec.inner.payload_bytes(layout, dtype)
    return 2 * plain // codec.inner.word_bytes(dtype) + 2 * plain
