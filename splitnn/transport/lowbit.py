"""Two to six bits an element: equal steps over a clipping range of each channel of each sample, found in encoding.

Samples are independent: a batch decodes to what its samples decode to one by one.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.dtypes import FLOATS, as_dtype, check_dtype
from splitnn.transport.layout import Layout, Payload, dtype_named, laid_out, name_of
from splitnn.transport.symbols import pack, packed_bytes, unpack

Clip = Literal["mse", "range", "percentile"]
"""mse: the least squared error; range: from minimum to maximum; percentile: all but the outermost 0.1 % each way."""

Rows = Literal["channel", "sample"]

_LARGEST = struct.Struct("<f")  # the sample's largest step
_A_ROW_BYTES = 2  # a step as so many eighths of an octave below the largest, and where the range starts
_OCTAVE = 8
_LOW_UNITS = 2  # the range starts at a whole number of half steps, -128 to 127
_SHRINKS = (1.0, 0.92, 0.84, 0.76, 0.68, 0.6, 0.5, 0.4)  # of the half of the range on one side of the mean
_SAMPLE = 512  # elements of a row that a clipping range is judged by
_OUTERMOST = 0.001
_AT_ONCE = 2**15  # elements
UNPACKING_BYTES = 16  # an element, while its bits are taken apart
_TINY = 1e-30  # a step is never smaller
_MOST = 1e18  # of absolute values: their squares are float32


@dataclass(frozen=True, slots=True)
class LowBit:
    """2**bits values for each row (a channel of a sample, or the whole sample), ``bits`` of 2 to 6.

    An element inside the clipping range is at most half a step off, one outside it is drawn to its end (or half a step
    beyond); with ``range`` no element is off by more than (maximum - minimum) / (2**bits - 1) * 0.6, or 1/100 of the
    row's largest absolute value or 2**-31 of the sample's where these are more. Payload: for every sample its largest
    step (float32, little-endian) and two bytes a row, then the symbols: packed, eight in ``bits`` bytes, or coded by
    ``symbols.pack``.
    """

    name: str
    bits: int
    clip: Clip = "mse"
    rows: Rows = "channel"
    symbols: Literal["packed", "coded"] = "packed"
    lossless: bool = False

    @property
    def size_is_exact(self) -> bool:
        return self.symbols == "packed"

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype in FLOATS

    def encoded_bytes(self, spec: TensorSpec) -> int:
        return self.payload_bytes(Layout(spec.shape), spec.dtype)

    def payload_bytes(self, layout: Layout, dtype: str) -> int:
        """Exact where the symbols are packed, else the most."""
        elements = math.prod(layout.plane_shape)
        if self.symbols == "coded":
            return self._side_bytes(layout) + packed_bytes(elements)
        return self._side_bytes(layout) + (elements + 7) // 8 * self.bits

    def encode(self, tensor: torch.Tensor) -> Payload:
        planes = float_planes(self.name, tensor)
        if planes.numel() == 0:
            return b""
        samples, rows, elements = self._row_shape(tuple(planes.shape))
        values = planes.view(samples * rows, elements)
        low, high = self._clipped(values)
        levels = 2**self.bits - 1
        step = torch.maximum((high - low) / levels, low.abs() * (_LOW_UNITS / 127)).clamp_min(_TINY)
        largest = step.view(samples, rows).amax(1)  # (samples,)
        below = (_OCTAVE * torch.log2(largest[:, None] / step.view(samples, rows))).floor().clamp(0, 255)
        step = (largest[:, None] * torch.exp2(-below / _OCTAVE)).view(-1)  # never smaller than it was
        start = (low / step * _LOW_UNITS).round_().clamp_(-128, 127)
        origin = start * (step / _LOW_UNITS)
        found = values.sub(origin[:, None]).div_(step[:, None]).round_().clamp_(0, levels)
        side = (
            largest.numpy().astype("<f4").tobytes(),
            below.to(torch.uint8).numpy().tobytes(),
            start.to(torch.int8).numpy().tobytes(),
        )
        whole = found.to(torch.uint8).numpy()
        if self.symbols == "packed":
            return b"".join((*side, _packed(whole.ravel(), self.bits)))
        return b"".join((*side, pack((whole.view(np.int8) - np.int8(2 ** (self.bits - 1))).reshape(planes.shape))))

    def decode(
        self, payload: Payload, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        check_dtype(self.name, dtype)
        layout = laid_out(shape, strides)
        plane_shape = layout.plane_shape
        side_bytes = self._side_bytes(layout)
        fits = len(payload) == self.payload_bytes(layout, dtype) if self.size_is_exact else len(payload) >= side_bytes
        if not fits:
            raise CodecError(f"{len(payload)} bytes are no {self.name} payload for shape {shape}")
        if math.prod(plane_shape) == 0:
            if len(payload):
                raise CodecError(f"{len(payload)} bytes came where a tensor of shape {shape} has none")
            return layout.from_planes(torch.empty(plane_shape, dtype=dtype_named(dtype)))
        samples, rows, elements = self._row_shape(plane_shape)
        view = memoryview(payload)
        largest = np.frombuffer(view, dtype="<f4", count=samples)
        if not bool((np.isfinite(largest) & (largest >= 0)).all()) or float(largest.max()) > _MOST:
            raise CodecError(f"a {self.name} payload has a step that is negative or not finite")
        below = np.frombuffer(view, dtype=np.uint8, count=samples * rows, offset=largest.nbytes)
        start = np.frombuffer(view, dtype=np.int8, count=samples * rows, offset=largest.nbytes + samples * rows)
        rest = view[side_bytes:]
        if self.symbols == "packed":
            found = _unpacked(rest, self.bits, samples * rows * elements)
        else:
            found = unpack(rest, plane_shape).view(np.uint8) + np.uint8(2 ** (self.bits - 1))
        step = torch.from_numpy(np.repeat(largest, rows) * np.exp2(-below.astype(np.float32) / _OCTAVE))
        origin = torch.from_numpy(start.astype(np.float32)) * (step / _LOW_UNITS)
        values = torch.from_numpy(found.reshape(samples * rows, elements)).float()
        values.mul_(step[:, None]).add_(origin[:, None])
        return layout.from_planes(as_dtype(values.view(plane_shape), dtype))

    def _side_bytes(self, layout: Layout) -> int:
        if math.prod(layout.plane_shape) == 0:
            return 0
        samples, rows, _ = self._row_shape(layout.plane_shape)
        return samples * (_LARGEST.size + _A_ROW_BYTES * rows)

    def _row_shape(self, planes: tuple[int, ...]) -> tuple[int, int, int]:
        """Samples, rows of each and elements of a row."""
        samples, channels, height, width = planes
        rows = channels if self.rows == "channel" and height * width > 1 else 1
        return samples, rows, channels * height * width // rows

    def _clipped(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the range of each row starts and ends."""
        low, high = values.amin(1), values.amax(1)
        if self.clip == "range":
            return low, high
        sample = values[:, :: max(1, values.shape[1] // _SAMPLE)]
        if self.clip == "percentile":
            ends = torch.tensor([_OUTERMOST, 1 - _OUTERMOST])
            found = torch.quantile(sample, ends, dim=1)
            return found[0], found[1]
        mean = sample.mean(1)
        high = _least_error(sample, [(low, mean + (high - mean) * each) for each in _SHRINKS], self.bits)[1]
        return _least_error(sample, [(mean + (low - mean) * each, high) for each in _SHRINKS], self.bits)


def float_planes(codec: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in single precision as ``Layout.plane_shape``.

    Raises:
        CodecError: its dtype is no floating-point one, or a value is not finite.
    """
    check_dtype(codec, name_of(tensor.dtype))
    planes = Layout.of(tensor).planes(tensor).float()
    if planes.numel() and not all(abs(float(end)) < _MOST for end in torch.aminmax(planes)):
        raise CodecError(f"{codec} needs finite values below {_MOST:.0e}; use raw or zstd")
    return planes


def _least_error(
    values: torch.Tensor, ranges: list[tuple[torch.Tensor, torch.Tensor]], bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row the range with the least squared error."""
    lows, highs = (torch.stack(each)[..., None] for each in zip(*ranges, strict=True))  # (ranges, rows, 1)
    step = ((highs - lows) / (2**bits - 1)).clamp_min_(_TINY)
    if values.numel() <= _AT_ONCE:  # all ranges together: of small tensors the number of operations is what costs
        errors = _squared_errors(values, lows, step, bits)
    else:
        errors = torch.stack([_squared_errors(values, *each, bits) for each in zip(lows, step, strict=True)])
    best = errors.argmin(0)[None]  # (1, rows)
    return lows[..., 0].gather(0, best)[0], highs[..., 0].gather(0, best)[0]


def _squared_errors(values: torch.Tensor, low: torch.Tensor, step: torch.Tensor, bits: int) -> torch.Tensor:
    near = values.sub(low).div_(step).round_().clamp_(0, 2**bits - 1).mul_(step).add_(low)
    return near.sub_(values).square_().sum(-1)


def _packed(symbols: NDArray[np.uint8], bits: int) -> bytes:
    """Eight symbols in ``bits`` bytes, the first one in the lowest bits."""
    whole = np.zeros((len(symbols) + 7) // 8 * 8, dtype=np.uint64)
    whole[: len(symbols)] = symbols
    shifts = np.arange(8, dtype=np.uint64) * np.uint64(bits)
    eights = np.bitwise_or.reduce(whole.reshape(-1, 8) << shifts, axis=1).astype("<u8")
    return bytes(eights.view(np.uint8).reshape(-1, 8)[:, :bits].tobytes())


def _unpacked(payload: memoryview, bits: int, count: int) -> NDArray[np.uint8]:
    eights = np.zeros((len(payload) // bits, 8), dtype=np.uint8)
    eights[:, :bits] = np.frombuffer(payload, dtype=np.uint8).reshape(-1, bits)
    shifts = np.arange(8, dtype=np.uint64) * np.uint64(bits)
    symbols = (eights.view("<u8") >> shifts) & np.uint64(2**bits - 1)
    found: NDArray[np.uint8] = symbols.astype(np.uint8).ravel()[:count]
    return found
