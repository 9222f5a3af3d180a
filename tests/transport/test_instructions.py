"""What a manifest says of a codec is all that it takes: a writer that reads nothing else makes the same bytes."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import pytest
import torch
import zstandard

from splitnn.errors import CodecError
from splitnn.graph.graph import TensorSpec
from splitnn.proto import open_inference_pb2
from splitnn.transport.codec import CODECS
from splitnn.transport.instructions import WRITABLE, instructions

_SHAPES = [(), (0, 3), (7,), (1,), (2, 3), (2, 40), (1, 24, 7, 7), (3, 1, 20), (2, 4, 4, 4, 2), (4, 5, 3), (2, 16, 1)]
_VALUES: dict[str, Callable[[tuple[int, ...]], torch.Tensor]] = {
    "normal": torch.randn,
    "ties": lambda shape: torch.randint(-4096, 4096, shape) * 0.5 + 2048,  # between halves as often as not
    "constant": lambda shape: torch.full(shape, -1.7),
    "denormal": lambda shape: torch.randn(shape) * 1e-39,
    "beyond fp16": lambda shape: torch.randn(shape) * 1e5,
    "largest": lambda shape: torch.sign(torch.randn(shape)) * 3.4e38,
    "nan": lambda shape: torch.where(torch.rand(shape) < 0.2, torch.nan, torch.randn(shape)),
    "infinite": lambda shape: torch.where(torch.rand(shape) < 0.2, torch.inf, torch.randn(shape)),
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The writer of the device that has nothing of ours."""
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, "open_inference_pb2", open_inference_pb2)
    path = Path(__file__).parents[1] / "runtime" / "plain_device.py"
    spec = importlib.util.spec_from_file_location("plain_device", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.payload_of


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_writer_that_knows_the_instructions_alone_writes_our_bytes(written: Any, dtype: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    torch.manual_seed(seed)
    refused = set[str]()
    for name in WRITABLE:
        for shape in _SHAPES:
            spec = TensorSpec(shape, dtype)
            if not CODECS[name].accepts(spec):
                continue
            told = json.loads(json.dumps(instructions(name, spec)))
            for kind, values in _VALUES.items():
                with np.errstate(over="ignore"):
                    tensor = values(shape).to(getattr(torch, dtype))
                found = written(told, tensor.numpy())
                try:
                    ours = bytes(CODECS[name].encode(tensor))
                except CodecError:
                    refused.add(kind)
                    assert found is None, (name, shape, kind)
                    continue
                assert found is not None, (name, shape, kind)
                assert _plain(name, found, told) == _plain(name, ours, told), (name, shape, kind)
                ours_again = CODECS[name].decode(found, shape, dtype)
                assert torch.equal(ours_again.nan_to_num(), CODECS[name].decode(ours, shape, dtype).nan_to_num())
    assert {"nan", "infinite"} <= refused


def test_codecs_that_have_no_description_are_refused_with_those_that_have() -> None:
    assert {"raw", "fp16", "bf16", "int8", "zstd", "fp16+zstd", "bf16+zstd", "int8+zstd", "lz4"} <= set(WRITABLE)
    with pytest.raises(ValueError, match=r"'even4' is not one .*; these are: raw, zstd, .*int8\+zstd"):
        instructions("even4", TensorSpec((1, 4), "float32"))
    with pytest.raises(ValueError, match="codec int8 takes no tensors of uint8"):
        instructions("int8", TensorSpec((1, 4), "uint8"))


def _plain(name: str, payload: bytes, told: Mapping[str, Any]) -> bytes:
    """Without what it is packed in, where the packer's level may differ, and without the signs of minima of zero."""
    match name.split("+")[-1]:
        case "zstd" | "fast":
            payload = zstandard.ZstdDecompressor().decompress(payload)
        case "lz4":
            payload = bytes(lz4.block.decompress(payload))
    if told["payload"]["form"] == "int8":
        end = 4 + 4 * told["payload"]["parts"][1]["count"]
        minima = np.frombuffer(payload[4:end], "<f4") + np.float32(0)
        return payload[:4] + minima.tobytes() + payload[end:]
    return payload
