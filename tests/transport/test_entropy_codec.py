"""Lossless coding of small integers: the same bits come back, few bytes are sent, and lies are found out."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch

from splitnn.errors import CodecError
from splitnn.transport import rans
from splitnn.transport.codec import codec
from splitnn.transport.layout import Layout, name_of
from splitnn.transport.rans import PlainCoder


def there_and_back(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    layout = Layout.of(tensor)
    payload = codec("entropy").encode(tensor)
    return codec("entropy").decode(payload, layout.shape, name_of(tensor.dtype), layout.strides), len(payload)


def a_tensor(chance: random.Random) -> torch.Tensor:
    generator = torch.Generator().manual_seed(chance.randrange(2**31))
    shape = [chance.choice((0, 1, 1, 2, 3, 5, 8, 13)) for _ in range(chance.randrange(6))]
    spread = chance.choice((0.1, 0.5, 2.0, 20.0, 500.0))
    tensor = torch.empty(shape).normal_(0, spread, generator=generator).round().to(torch.int64)
    tensor = tensor.to(chance.choice((torch.int8, torch.uint8)))
    if tensor.ndim and chance.random() < 0.7:
        d = chance.randrange(tensor.ndim)
        match chance.randrange(4):
            case 0:
                tensor = tensor.permute(chance.sample(range(tensor.ndim), tensor.ndim))
            case 1:
                tensor = tensor[(slice(None),) * d + (slice(0, None, 2),)]
            case 2 if tensor.shape[d] == 1:
                tensor = tensor.expand(*tensor.shape[:d], 4, *tensor.shape[d + 1 :])
            case 3 if tensor.shape[d] >= 2:
                tensor = tensor.unfold(d, 2, 1)
    return tensor


def test_any_tensor_comes_back_with_its_values_and_strides_and_is_no_longer_than_raw() -> None:
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(300):
        tensor = a_tensor(chance)
        result, size = there_and_back(tensor)
        assert (result.dtype, result.shape) == (tensor.dtype, tensor.shape)
        assert result.stride() == tensor.stride() or not tensor.numel()
        assert torch.equal(result, tensor), (tensor.shape, tensor.stride())
        assert size <= tensor.numel() + 1


def test_the_plain_coder_writes_the_same_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.randn(2, 9, 7, 6, generator=torch.Generator().manual_seed(1)).mul(2).round().to(torch.int8)
    payload = bytes(codec("entropy").encode(tensor))
    monkeypatch.setattr("splitnn.transport.symbols.new_coder", PlainCoder)
    assert bytes(codec("entropy").encode(tensor)) == payload
    assert torch.equal(codec("entropy").decode(payload, tuple(tensor.shape), "int8"), tensor)


def test_silent_channels_cost_almost_nothing_and_peaked_ones_near_their_own_entropy() -> None:
    chance = np.random.default_rng(3)
    values = np.round(chance.laplace(size=(1, 48, 7, 7)) * 0.5)
    values[:, ::2] = 0
    share = np.unique_counts(values[:, 1::2]).counts / values[:, 1::2].size
    entropy_bytes = float(-(share * np.log2(share)).sum()) * values[:, 1::2].size / 8
    result, size = there_and_back(torch.from_numpy(values).to(torch.int8))
    assert np.array_equal(result.numpy(), values)
    assert size < 1.12 * entropy_bytes + 24
    assert there_and_back(torch.zeros(1, 48, 7, 7, dtype=torch.int8))[1] <= 12


def test_planes_that_are_smooth_take_less_than_their_own_entropy() -> None:
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    planes = torch.stack([(rows / (9 + c) + columns / 12).sin() * 20 for c in range(8)])[None].round().to(torch.int8)
    share = np.unique_counts(planes.numpy()).counts / planes.numel()
    entropy_bytes = float(-(share * np.log2(share)).sum()) * planes.numel() / 8
    assert there_and_back(planes)[1] < 0.75 * entropy_bytes


def test_a_truncated_altered_or_longer_payload_is_refused() -> None:
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    chance = random.Random(seed)
    tensor = torch.randn(1, 12, 7, 7).round().to(torch.int8)
    payload = bytes(codec("entropy").encode(tensor))
    broken = [payload[:n] for n in range(len(payload))] + [payload + b"\0", payload + b"\1", b"\x1f" + payload]
    for _ in range(300):
        altered = bytearray(payload)
        for _ in range(chance.randrange(1, 5)):
            altered[chance.randrange(len(altered))] ^= chance.randrange(1, 256)
        broken.append(bytes(altered))
    passed = 0
    for each in broken:
        try:
            found = codec("entropy").decode(each, (1, 12, 7, 7), "int8")
        except CodecError:
            continue
        assert (found.shape, found.dtype) == (tensor.shape, tensor.dtype)
        passed += each != payload
    assert passed <= 2  # a checksum of 16 bits misses one in 65536


@pytest.mark.parametrize("coder", [PlainCoder, rans.new_coder])
def test_words_that_no_symbol_needs_are_refused(coder: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitnn.transport.symbols.new_coder", coder)
    for tensor in (torch.zeros(2, 40, dtype=torch.int8), (torch.arange(500) % 3).to(torch.int8)):
        payload = bytes(codec("entropy").encode(tensor))
        assert torch.equal(codec("entropy").decode(payload, tuple(tensor.shape), "int8"), tensor)
        for words in (bytes(4), b"word", 2 * b"word"):  # below the others, so that they are left when these are read
            with pytest.raises(CodecError, match="over"):
                codec("entropy").decode(payload[:5] + words + payload[5:], tuple(tensor.shape), "int8")


@pytest.mark.parametrize("name", ["entropy", "int4+entropy", "int2r+entropy", "int3t+entropy", "even4"])
def test_more_symbols_than_are_coded_together_are_refused_whatever_the_payload_says(name: str) -> None:
    dtype = "int8" if name == "entropy" else "float32"
    for payload in (bytes(11), bytes(12), bytes(1000)):
        with pytest.raises(CodecError, match="together"):
            codec(name).decode(payload, (2**40,), dtype)


def test_random_payloads_for_random_shapes_raise_nothing_but_codec_errors() -> None:
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for _ in range(500):
        shape = tuple(chance.choice((0, 1, 2, 7)) for _ in range(chance.randrange(6)))
        with contextlib.suppress(CodecError):
            found = codec("entropy").decode(chance.randbytes(chance.randrange(1, 60)), (*shape, 9, 8), "int8")
            assert found.shape == (*shape, 9, 8)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(CodecError, match="float32"):
        codec("entropy").encode(torch.ones(3))
    with pytest.raises(CodecError, match="int64"):
        codec("entropy").decode(b"", (0,), "int64")
