"""One step for all channels of a sample, and an entropy coder for the symbols.

Equal steps put the same error into every channel, which is what costs the fewest bits for a given squared error
("reverse water-filling"): a channel that varies less than a step costs next to nothing, and no ranges travel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.dtypes import FLOATS, as_dtype, check_dtype
from splitnn.transport.layout import Layout, Payload, dtype_named, laid_out, name_of
from splitnn.transport.lowbit import float_planes
from splitnn.transport.symbols import pack, packed_bytes, unpack

_MOST = 127  # steps from 0
_LEAST_STEP = 1e-30
_STEP_BYTES = 2  # a bfloat16


@dataclass(frozen=True, slots=True)
class EvenStep:
    """Multiples of a step, which is the sample's deviation from its channels' means (root mean square) by ``fineness``.

    No element is more than half a step off, where the step is at least 1/127 of the largest absolute value of the
    sample (and up to 1/128 more than said). Steps below 1e-30
    are 0. Payload: a step for each sample (bfloat16), then ``symbols.pack``.
    """

    name: str
    fineness: float  # steps in a root mean square
    lossless: bool = False
    size_is_exact: bool = False

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype in FLOATS

    def encoded_bytes(self, spec: TensorSpec) -> int:
        layout = Layout(spec.shape)
        elements = math.prod(layout.plane_shape)
        return _STEP_BYTES * layout.plane_shape[0] * (elements > 0) + packed_bytes(elements)

    def encode(self, tensor: torch.Tensor) -> Payload:
        planes = float_planes(self.name, tensor)
        if planes.numel() == 0:
            return b""
        symbols, step = self._quantised(planes)
        return step.tobytes() + pack(symbols.numpy())

    def rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        """What ``decode`` would make of ``encode``'s payload, without one: ten times as fast, to measure answers with.

        Raises:
            CodecError: as ``encode``.
        """
        planes = float_planes(self.name, tensor)
        if planes.numel() == 0:
            return tensor
        symbols, step = self._quantised(planes)
        values = symbols.float() * _from_bfloat16(step)[:, None, None, None]
        return Layout.of(tensor).from_planes(as_dtype(values, name_of(tensor.dtype)))

    def _quantised(self, planes: torch.Tensor) -> tuple[torch.Tensor, NDArray[np.uint16]]:
        """Symbols (int8) and the step of each sample (the bits of a bfloat16)."""
        over = (2, 3) if planes.shape[2] * planes.shape[3] > 1 else (1, 2, 3)
        deviation = planes.var(over, correction=0, keepdim=True).mean((1, 2, 3)).sqrt()  # (samples,)
        step = torch.maximum(deviation / self.fineness, planes.abs().amax((1, 2, 3)) / _MOST)
        step = torch.where(step < _LEAST_STEP, 0.0, step)  # the inverse of a smaller one is infinite
        short = _bfloat16_above(step)
        step = _from_bfloat16(short)
        inverse = torch.where(step > 0, 1 / step, 0.0)
        return (planes * inverse[:, None, None, None]).round_().clamp_(-_MOST, _MOST).to(torch.int8), short

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        check_dtype(self.name, dtype)
        layout = laid_out(shape, strides)
        plane_shape = layout.plane_shape
        side_bytes = _STEP_BYTES * plane_shape[0] * (math.prod(plane_shape) > 0)
        if len(payload) < side_bytes:
            raise CodecError(f"{len(payload)} bytes are no {self.name} payload for shape {shape}")
        view = memoryview(payload)
        symbols = unpack(view[side_bytes:], plane_shape)
        if not symbols.size:
            return layout.from_planes(torch.empty(plane_shape, dtype=dtype_named(dtype)))
        step = _from_bfloat16(np.frombuffer(view[:side_bytes], dtype="<u2"))
        if not bool(((step >= 0) & (step < 1e35)).all()):
            raise CodecError(f"a {self.name} payload has a step that is negative or not finite")
        values = torch.from_numpy(symbols).float() * step[:, None, None, None]
        return layout.from_planes(as_dtype(values, dtype))


def _bfloat16_above(values: torch.Tensor) -> NDArray[np.uint16]:
    """The bits of the least bfloat16 that is not below each of these non-negative numbers."""
    bits = values.numpy().astype("<f4").view("<u4")
    return ((bits + np.uint32(0xFFFF)) >> np.uint32(16)).astype("<u2")


def _from_bfloat16(bits: NDArray[np.uint16]) -> torch.Tensor:
    return torch.from_numpy((bits.astype(np.uint32) << np.uint32(16)).view(np.float32))
