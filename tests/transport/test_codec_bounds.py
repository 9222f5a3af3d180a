"""Every codec on tensors that are made to break codecs: the stated error, the predicted size, or a CodecError."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.transport.codec import CODECS, Codec
from splitnn.transport.evenstep import EvenStep
from splitnn.transport.image import ImageCodec
from splitnn.transport.layout import Layout, name_of
from splitnn.transport.lowbit import LowBit
from splitnn.transport.lz4 import Lz4
from splitnn.transport.quantize import BF16, FP16, Int8
from splitnn.transport.sparse import Masked
from splitnn.transport.zstd import ShuffledZstd, Zstd

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    noise = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    outlier = torch.zeros(1, 4, 6, 6, dtype=torch.float64)
    outlier[0, 2, 3, 3] = 6e4
    far = noise.clone()
    far[0, 0, 0, 0] = -5e4
    return {
        "zeros": torch.zeros(2, 3, 4, 4),
        "ones": torch.ones(2, 3, 4, 4),
        "constant far from zero": torch.full((1, 4, 4, 4), -1234.5),
        "one element other than zero": outlier,
        "noise and one outlier": far,
        "samples of other sizes": noise * torch.tensor([1e-6, 1e3])[:, None, None, None],
        "channels of other sizes": noise * torch.tensor([1e-12, 1.0, 1e3])[None, :, None, None],
        "denormal": noise * 1e-40,
        "tiny": noise * 1e-33,
        "negative zero": torch.full((1, 2, 4, 4), -0.0),
        "alternating": torch.tensor([-1.0, 1.0]).repeat(40).view(1, 2, 5, 8),
        "a ramp": torch.linspace(-3, 9, 210).view(1, 2, 7, 15),
        "empty": torch.zeros(0),
        "empty batch": torch.zeros(0, 3, 4, 4),
        "empty planes": torch.zeros(2, 0, 4, 4),
        "no dimension": torch.tensor(-2.75),
        "one element": torch.tensor([[[[3e-5]]]]),
        "one dimension": noise.flatten()[:17],
        "two dimensions": noise.view(6, 35),
        "three dimensions": noise.view(6, 5, 7),
        "five dimensions": noise.view(1, 2, 3, 5, 7),
        "every other": noise[:, :, ::2, ::2],
        "expanded": noise[:, :1].expand(2, 4, 5, 7),
        "windows": noise.flatten()[:20].unfold(0, 5, 2),
        "channels last": noise.to(memory_format=torch.channels_last),
    }


def _too_much() -> dict[str, torch.Tensor]:
    return {
        "beyond halves": torch.tensor([[1e5, -1e5, 0.0]]),
        "huge": torch.tensor([[3e38, -3e38, 0.0, 1.0]]),
        "beyond float32": torch.tensor([[1e300, 0.0]], dtype=torch.float64),
        "not a number": torch.tensor([[math.nan, 0.0]]),
        "infinite": torch.tensor([[math.inf, -math.inf, 1.0]]),
    }


def _form(codec: Codec) -> object:
    form: object = codec
    while isinstance(form, (Zstd, Lz4, Masked, ShuffledZstd)):
        form = form.inner
    return form


def _bound(codec: Codec, tensor: torch.Tensor) -> torch.Tensor:
    """The most that each element may be off, by what the codec's docstring says."""
    form, planes = _form(codec), _planes(tensor)
    size = planes.abs()
    sample = size.amax((1, 2, 3), keepdim=True)
    spread = planes.amax((2, 3), keepdim=True) - planes.amin((2, 3), keepdim=True)
    if planes.shape[2] * planes.shape[3] == 1 or isinstance(form, Int8) or getattr(form, "rows", "") == "sample":
        spread = (planes.amax((1, 2, 3)) - planes.amin((1, 2, 3)))[:, None, None, None]  # int8: other rows; see below
    if form is FP16:
        found = torch.maximum(size * 2**-11, torch.tensor(2.0**-25))
    elif form is BF16:
        found = torch.maximum(size * 2**-8, torch.tensor(2.0**-133))
    elif isinstance(form, Int8):
        found = spread / 510 + sample * 2**-22 + 3.1e-36
    elif isinstance(form, EvenStep):
        over = (2, 3) if planes.shape[2] * planes.shape[3] > 1 else (1, 2, 3)
        deviation = planes.var(over, correction=0, keepdim=True).mean((1, 2, 3), keepdim=True).sqrt()
        step = torch.maximum(deviation / form.fineness, sample / 127) * (1 + 1 / 128)
        found = step / 2 * 1.0001 + 127e-30
    else:
        assert isinstance(form, LowBit)
        row = size.amax((1, 2, 3) if form.rows == "sample" else (2, 3), keepdim=True)
        factor = 0.6 / (2**form.bits - 1) if form.clip == "range" else 1.0
        found = torch.maximum(torch.maximum(spread * factor, row / 100), sample * 2**-31) + 1e-30
    rounding = {torch.float16: 2**-11, torch.bfloat16: 2**-8}.get(tensor.dtype, 0.0)
    least = {torch.float16: 2**-24, torch.bfloat16: 2**-133}.get(tensor.dtype, 0.0)
    return found + (size + found) * rounding + least


def _planes(tensor: torch.Tensor) -> torch.Tensor:
    """As codecs see them: what an expanded or unfolded tensor repeats is there once."""
    return Layout.of(tensor).planes(tensor).double()


def _there_and_back(codec: Codec, tensor: torch.Tensor) -> torch.Tensor:
    layout, dtype = Layout.of(tensor), name_of(tensor.dtype)
    payload = bytes(codec.encode(tensor))
    if not layout.strides:
        predicted = codec.encoded_bytes(TensorSpec(layout.shape, dtype))
        assert len(payload) == predicted if codec.size_is_exact else len(payload) <= predicted
    found = codec.decode(payload, layout.shape, dtype, layout.strides)
    assert (found.shape, found.dtype) == (tensor.shape, tensor.dtype)
    assert found.stride() == tensor.stride() or not tensor.numel()
    return found


def _bits(tensor: torch.Tensor) -> bytes:
    flat = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@pytest.mark.parametrize("name", list(CODECS))
def test_every_codec_keeps_its_stated_error_on_adversarial_tensors(name: str) -> None:
    codec = CODECS[name]
    for number, (what, values) in enumerate(_values().items()):
        for other, dtype in enumerate((*FLOATS, *WHOLE)):
            if dtype != torch.float32 and (number + other) % 4:
                continue  # every dtype meets a quarter of them
            with_strides = values.to(dtype)
            if not codec.accepts(TensorSpec(tuple(values.shape), name_of(dtype))):
                with pytest.raises(CodecError):
                    codec.encode(with_strides)
                continue
            found = _there_and_back(codec, with_strides)
            if codec.lossless:
                assert _bits(found) == _bits(with_strides), (what, dtype)
            elif with_strides.numel() and not isinstance(_form(codec), ImageCodec):  # lossy images promise nothing
                error = (_planes(found) - _planes(with_strides)).abs()
                bound = _bound(codec, with_strides)
                assert bool((error <= bound).all()), (what, dtype, float((error - bound).max()))


@pytest.mark.parametrize("name", list(CODECS))
def test_values_that_a_codec_cannot_hold_are_refused_and_never_garbled(name: str) -> None:
    codec = CODECS[name]
    for what, values in _too_much().items():
        if not codec.accepts(TensorSpec(tuple(values.shape), name_of(values.dtype))):
            continue
        found = None
        with contextlib.suppress(CodecError):
            found = _there_and_back(codec, values)
        if codec.lossless:
            assert found is not None
            assert _bits(found) == _bits(values)
        elif not bool(values.isfinite().all()):
            assert found is None, what
        elif found is not None:
            assert bool(((_planes(found) - _planes(values)).abs() <= _bound(codec, values)).all()), what
