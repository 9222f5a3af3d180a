"""Tensor to bytes and back. ``CODECS`` holds every codec by name; the name is what travels.

A payload never says how large it will become: shape, dtype and strides come from outside, already bounded by the
caller, and a payload that does not fit them exactly is refused before memory is allocated for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch

from splitnn.graph.graph import TensorSpec
from splitnn.transport.entropy import Entropy
from splitnn.transport.image import ImageCodec
from splitnn.transport.layout import Payload
from splitnn.transport.quantize import Fp16, Int8
from splitnn.transport.raw import Raw, Zstd


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


CODECS: Mapping[str, Codec] = MappingProxyType(
    {
        each.name: each
        for each in (
            Raw(),
            Zstd("zstd", Raw()),
            Entropy(),
            Fp16(),
            Zstd("fp16+zstd", Fp16()),
            Int8(),
            Zstd("int8+zstd", Int8()),
            ImageCodec("png", "PNG"),
            ImageCodec("jpeg95", "JPEG", quality=95),
            ImageCodec("jpeg90", "JPEG", quality=90),
            ImageCodec("jpeg75", "JPEG", quality=75),
        )
    }
)
"""Every codec by its name on the wire."""


def codec(name: str) -> Codec:
    """The codec of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in CODECS:
        raise ValueError(f"no codec is called {name!r}; there are {', '.join(CODECS)}")
    return CODECS[name]
