"""zstd on top of any codec whose payload has a bound, and on bytes that were sorted by their place in an element."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.layout import Layout, Payload, laid_out, name_of
from splitnn.transport.raw import Inner, Words

_LEVEL_OF_TEXT = 9  # 20 ms of a megabyte, which no other level is worth
_MOST_A_BYTE = 2**15  # that one byte of a frame can unpack to: a block of 2**17 takes four at least
_EMPTY = b"\1\0\0"  # the only block of a frame that states 0 bytes
_CHECKSUM_OF_NOTHING = bytes.fromhex("99e9d851")  # XXH64
_WORDS: dict[int, Any] = {2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}


@dataclass(frozen=True, slots=True)
class Zstd:
    """One zstd frame around another codec's payload. The frame must state its size, and state it truly."""

    name: str
    inner: Inner
    level: int = 1  # -5 is nearly as fast as LZ4, and as good
    size_is_exact: bool = False

    @property
    def lossless(self) -> bool:
        return self.inner.lossless

    def accepts(self, spec: TensorSpec) -> bool:
        return self.inner.accepts(spec)

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return _bound(self.inner.encoded_bytes(spec))

    def encode(self, tensor: torch.Tensor) -> Payload:
        return _compressor(self.level).compress(self.inner.encode(tensor))

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        most = self.inner.payload_bytes(laid_out(shape, strides), dtype)
        plain = decompressed(payload, least=most if self.inner.size_is_exact else 0, most=most)
        return self.inner.decode(plain, shape, dtype, strides)


@dataclass(frozen=True, slots=True)
class ShuffledZstd:
    """One zstd frame around the first bytes of all elements, then their second bytes, and so on: exponents lie
    together, and what cannot be compressed (the ends of mantissas) is left as it is, in blocks of its own.
    """

    name: str
    inner: Words
    size_is_exact: bool = False

    @property
    def lossless(self) -> bool:
        return self.inner.lossless

    def accepts(self, spec: TensorSpec) -> bool:
        return self.inner.accepts(spec)

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return _bound(self.inner.encoded_bytes(spec))

    def encode(self, tensor: torch.Tensor) -> Payload:
        plain = self.inner.encode(tensor)
        places = _by_place(plain, self.inner.word_bytes(name_of(tensor.dtype)))
        stream = _compressor(1).compressobj(size=len(plain))
        parts: list[bytes] = []
        for row in places if len(plain) else ():
            parts += (stream.compress(row), stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
        return b"".join((*parts, stream.flush()))

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        expected = self.inner.payload_bytes(laid_out(shape, strides), dtype)
        plain = decompressed(payload, least=expected, most=expected)
        return self.inner.decode(_by_element(plain, self.inner.word_bytes(dtype)), shape, dtype, strides)


def shuffling_bytes(codec: ShuffledZstd, layout: Layout, dtype: str) -> int:
    """Memory beside the tensor that decoding takes: the bytes by place, and those of a codec that is no view."""
    return 2 * codec.inner.payload_bytes(layout, dtype)


def _by_place(plain: Payload, word_bytes: int) -> NDArray[np.uint8]:
    """(places, elements)."""
    if word_bytes not in _WORDS:
        return np.ascontiguousarray(np.frombuffer(plain, dtype=np.uint8).reshape(-1, word_bytes).T)
    words = np.frombuffer(plain, dtype=_WORDS[word_bytes])
    found = np.empty((word_bytes, len(words)), dtype=np.uint8)
    for place, row in enumerate(found):  # arithmetic on whole words is several times as fast as moving single bytes
        np.right_shift(words, words.dtype.type(8 * place), out=row, casting="unsafe")
    return found


def _by_element(plain: bytes, word_bytes: int) -> Payload:
    places = np.frombuffer(plain, dtype=np.uint8).reshape(word_bytes, -1)
    if word_bytes not in _WORDS:
        return places.T.tobytes()
    words = places[-1].astype(_WORDS[word_bytes])
    for row in places[-2::-1]:
        words <<= words.dtype.type(8)
        words |= row
    return words.data.cast("B") if len(words) else b""


def _bound(plain_bytes: int) -> int:
    """ZSTD_compressBound, rounded up."""
    return plain_bytes + plain_bytes // 256 + 128


class _Contexts(threading.local):
    """zstd's working memory, of one thread at a time: to set it up takes as long as to compress 10 kB."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()


_CONTEXTS = _Contexts()


def _compressor(level: int) -> zstandard.ZstdCompressor:
    known = _CONTEXTS.compressors
    if level not in known:
        known[level] = zstandard.ZstdCompressor(level=level)
    return known[level]


def compressed(plain: bytes) -> bytes:
    """One zstd frame that states its size."""
    return _compressor(_LEVEL_OF_TEXT).compress(plain)


def decompressed(payload: Payload, *, least: int, most: int) -> bytes:
    """Raises CodecError: no whole zstd frame, or one that states another size; that is looked at first."""
    try:
        frame = zstandard.get_frame_parameters(payload)
        stated = frame.content_size  # decompress() would allocate it unasked
        if not least <= stated <= most or stated > _MOST_A_BYTE * len(payload):
            raise CodecError(f"a zstd frame of {len(payload)} bytes states {stated} where {most} belong")
        if stated == 0:  # decompress() would look no further
            rest = bytes(payload[zstandard.frame_header_size(payload) :])
            if rest != _EMPTY + (_CHECKSUM_OF_NOTHING if frame.has_checksum else b""):
                raise CodecError(f"a zstd frame of {len(payload)} bytes states 0, and something follows or is missing")
            return b""
        return _CONTEXTS.decompressor.decompress(payload, max_output_size=stated, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CodecError(f"not a whole zstd frame: {error}") from error
