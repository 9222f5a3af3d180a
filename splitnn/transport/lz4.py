"""LZ4 on top of any codec whose payload has a bound: less time than zstd at its quickest, and hardly more bytes."""

from __future__ import annotations

from dataclasses import dataclass

import lz4.block
import torch

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.layout import Layout, Payload, laid_out
from splitnn.transport.raw import Inner

_SIZE_BYTES = 4  # of the plain payload's size, in front, the lowest byte first
_MOST_A_BYTE = 255  # that one byte of a block can unpack to


@dataclass(frozen=True, slots=True)
class Lz4:
    """One LZ4 block around another codec's payload, behind its size."""

    name: str
    inner: Inner
    size_is_exact: bool = False

    @property
    def lossless(self) -> bool:
        return self.inner.lossless

    def accepts(self, spec: TensorSpec) -> bool:
        return self.inner.accepts(spec)

    def encoded_bytes(self, spec: TensorSpec) -> int:
        plain_bytes = self.inner.encoded_bytes(spec)
        return _SIZE_BYTES + plain_bytes + plain_bytes // 255 + 16  # LZ4_compressBound

    def encode(self, tensor: torch.Tensor) -> Payload:
        plain = self.inner.encode(tensor)
        try:
            packed: bytes = lz4.block.compress(plain, store_size=True)
        except (OverflowError, lz4.block.LZ4BlockError) as error:
            raise CodecError(f"codec {self.name} packs at most 2 GB, not {len(plain)} bytes") from error
        return packed

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        most = self.inner.payload_bytes(laid_out(shape, strides), dtype)
        plain = _unpacked(payload, least=most if self.inner.size_is_exact else 0, most=most)
        return self.inner.decode(plain, shape, dtype, strides)


def _unpacked(payload: Payload, *, least: int, most: int) -> bytes:
    """Raises CodecError: no whole block, or one that states another size; that is looked at first."""
    block = memoryview(payload)[_SIZE_BYTES:]
    stated = int.from_bytes(memoryview(payload)[:_SIZE_BYTES], "little")
    if not least <= stated <= most or stated > _MOST_A_BYTE * len(block):
        raise CodecError(f"an lz4 block of {len(block)} bytes states {stated} where {most} belong")
    try:
        plain: bytes = lz4.block.decompress(block, uncompressed_size=stated)
    except lz4.block.LZ4BlockError as error:
        raise CodecError(f"not a whole lz4 block: {error}") from error
    if len(plain) != stated:
        raise CodecError(f"an lz4 block holds {len(plain)} bytes and states {stated}")
    return plain


def unpacking_bytes(codec: Lz4, layout: Layout, dtype: str) -> int:
    """Memory beside the tensor that decoding takes: the library unpacks to memory of its own, and copies that."""
    return 2 * codec.inner.payload_bytes(layout, dtype)
