"""Tensor to bytes and back. ``CODECS`` holds every codec by name; the name is what travels.

A payload never says how large it will become: shape, dtype and strides come from outside, already bounded by the
caller, and a payload that does not fit them exactly is refused before memory is allocated for it.

Names are a form, and behind ``+`` what its bytes go through:

raw               the tensor's memory, lossless
mask              which elements are not zero, and these, lossless
entropy           int8 and uint8 under a range coder, lossless
fp16, bf16        halves
int8              256 steps from minimum to maximum of each channel of each sample
int6 4 3 2        so many bits, a clipping range (least squared error) for each channel of each sample; then:
  t                 one range for the sample
  r, p              the range from minimum to maximum, or all but the outermost 0.1 % each way
even8 6 5 4 ...   one step for all channels of a sample, so many to a root mean square, under a range coder: of lossy
                  forms the one with the fewest bytes for the same error
png, webp         an image (N, H, W, 3), lossless; ``jpeg90`` (``jpeg98f``: with full colours), ``webp90`` lossy

+zstd, +fast      zstd, level 1 or -5
+lz4              LZ4, for fast links and slow processors; ``lz4`` alone is over the tensor's memory
+shuffle, +mask   first the bytes by their place in an element, or those of elements other than zero
+entropy          of ``int`` forms up to 6 bits: symbols under a range coder in place of packed ones
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Protocol

import torch

from splitnn.cost.codec_names import no_codec
from splitnn.graph.graph import TensorSpec
from splitnn.transport.entropy import Entropy
from splitnn.transport.evenstep import EvenStep
from splitnn.transport.image import ImageCodec, decoding_bytes
from splitnn.transport.layout import Layout, Payload
from splitnn.transport.lowbit import UNPACKING_BYTES, Clip, LowBit, Rows
from splitnn.transport.lz4 import Lz4, unpacking_bytes
from splitnn.transport.quantize import BF16, FP16, Int8
from splitnn.transport.raw import Raw
from splitnn.transport.sparse import Masked, masking_bytes
from splitnn.transport.symbols import decoding_bytes as symbol_bytes
from splitnn.transport.zstd import ShuffledZstd, Zstd, shuffling_bytes


class Codec(Protocol):
    """One way to write a tensor. Stateless; safe to call from any thread."""

    @property
    def name(self) -> str: ...

    @property
    def lossless(self) -> bool:
        """Whether ``decode(encode(t))`` has the bits of ``t``, NaN included."""
        ...

    @property
    def size_is_exact(self) -> bool:
        """Whether ``encoded_bytes`` is the size; else it is an upper bound."""
        ...

    def accepts(self, spec: TensorSpec) -> bool:
        """Whether tensors of this shape and dtype can be encoded."""
        ...

    def encoded_bytes(self, spec: TensorSpec) -> int:
        """Bytes of the payload for a dense tensor of this spec, before anything is encoded."""
        ...

    def encode(self, tensor: torch.Tensor) -> Payload:
        """The payload; it may be a view of the tensor, which must not change until the payload is gone.

        Raises:
            CodecError: the dtype, the shape or the values (NaN or infinity in a lossy codec) cannot be encoded.
        """
        ...

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        """The tensor, with exactly these strides (in elements; ``()`` is contiguous). It may be a view of ``payload``.

        Raises:
            CodecError: the payload is truncated, too long, or is no such tensor.
        """
        ...


def _forms() -> Iterator[Codec]:
    raw, int8 = Raw(), Int8()
    yield from (raw, Zstd("zstd", raw), Zstd("raw+fast", raw, level=-5), ShuffledZstd("shuffle+zstd", raw))
    yield from (Lz4("lz4", raw), Lz4("fp16+lz4", FP16), Lz4("int8+lz4", int8))
    yield from (masked := Masked("mask", raw), Zstd("mask+zstd", masked), Entropy())
    for half in (FP16, BF16):
        yield from (half, Zstd(f"{half.name}+zstd", half))
    masked = Masked("fp16+mask", FP16)
    yield from (Zstd("fp16+fast", FP16, level=-5), ShuffledZstd("fp16+shuffle+zstd", FP16))
    yield from (masked, Zstd("fp16+mask+zstd", masked))
    yield from (int8, Zstd("int8+zstd", int8), Zstd("int8+fast", int8, level=-5))
    yield Zstd("int8+mask+zstd", Masked("int8+mask", int8))
    for bits in (6, 4, 3, 2):
        yield from _low_bits(bits)
    for fineness in (8, 6, 5, 4, 3, 2.5, 2, 1.5, 1.2, 1, 0.8):
        yield EvenStep(f"even{fineness}", fineness)
    yield from (ImageCodec("png", "PNG"), ImageCodec("webp", "WEBP"))
    for quality in (95, 90, 75, 50):
        yield ImageCodec(f"jpeg{quality}", "JPEG", quality=quality)
    for quality in (100, 98, 95, 90):
        yield ImageCodec(f"jpeg{quality}f", "JPEG", quality=quality, chroma="full")
    for quality in (100, 98, 95, 90, 75, 50):
        yield ImageCodec(f"webp{quality}", "WEBP", quality=quality)


def _low_bits(bits: int) -> Iterator[Codec]:
    clips: tuple[tuple[str, Clip], ...] = (("", "mse"), ("r", "range"), ("p", "percentile"))
    for (per, rows), (letter, clip) in itertools.product(_ROWS, clips):
        name = f"int{bits}{per}{letter}"
        packed = LowBit(name, bits, clip, rows)
        yield from (packed, Zstd(f"{name}+zstd", packed))
        yield LowBit(f"{name}+entropy", bits, clip, rows, "coded")


_ROWS: tuple[tuple[str, Rows], ...] = (("", "channel"), ("t", "sample"))

CODECS: Mapping[str, Codec] = MappingProxyType({each.name: each for each in _forms()})
"""Every codec by its name on the wire."""

USUAL: Mapping[str, Codec] = MappingProxyType(
    {
        name: CODECS[name]
        for name in (
            "raw", "zstd", "entropy", "fp16", "fp16+zstd", "int8", "int8+zstd", "png", "jpeg95", "jpeg90", "jpeg75"
        )
    }
)  # fmt: skip
"""Those that a profile measures unless others are named: each takes its time on every tensor of a model."""


def working_bytes(name: str, layout: Layout, dtype: str) -> int:
    """Memory that decoding such a tensor takes beside its bytes, while it lasts; 0 for codecs that need little."""
    found = CODECS.get(name)
    form = found.inner if isinstance(found, Zstd) else found
    match form:
        case LowBit() if form.symbols == "packed":
            return UNPACKING_BYTES * math.prod(layout.plane_shape)
        case Entropy() | EvenStep() | LowBit():
            return symbol_bytes(layout.plane_shape)
        case ImageCodec():
            return decoding_bytes(layout)
        case ShuffledZstd():
            return shuffling_bytes(form, layout, dtype)
        case Masked():
            return masking_bytes(form, layout, dtype)
        case Lz4():
            return unpacking_bytes(form, layout, dtype)
    return 0


def codec(name: str) -> Codec:
    """The codec of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in CODECS:
        raise ValueError(no_codec(name))
    return CODECS[name]
