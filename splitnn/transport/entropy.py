"""Lossless coding of tensors of small whole numbers, such as the code of a learned bottleneck."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitnn.graph.graph import TensorSpec
from splitnn.transport.dtypes import check_dtype
from splitnn.transport.layout import Layout, Payload, laid_out, name_of
from splitnn.transport.symbols import pack, packed_bytes, unpack

_DTYPES = ("int8", "uint8")


@dataclass(frozen=True, slots=True)
class Entropy:
    """Range coded int8 and uint8: at most one byte more than the elements, and far less where most are alike.

    Dimension 1 is taken for channels, the last two for planes; other tensors work too, and gain less. The payload is
    what ``symbols.pack`` gives for the elements in the order of the shape, of uint8 128 less.
    """

    name: str = "entropy"
    lossless: bool = True
    size_is_exact: bool = False

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype in _DTYPES

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return packed_bytes(math.prod(spec.shape))

    def encode(self, tensor: torch.Tensor) -> Payload:
        dtype = name_of(tensor.dtype)
        check_dtype(self.name, dtype, _DTYPES)
        planes = Layout.of(tensor).planes(tensor).numpy()
        return pack(planes if dtype == "int8" else _moved(planes))

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        check_dtype(self.name, dtype, _DTYPES)
        layout = laid_out(shape, strides)
        symbols = unpack(payload, layout.plane_shape)
        return layout.from_planes(torch.from_numpy(symbols if dtype == "int8" else _moved(symbols)))


def _moved(symbols: NDArray[Any]) -> NDArray[Any]:
    """From uint8 to int8 and back: 128 is 0."""
    return (symbols.view(np.uint8) ^ np.uint8(0x80)).view(np.int8 if symbols.dtype == np.uint8 else np.uint8)
