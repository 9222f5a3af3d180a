"""Heads for other runtimes: a device without our code, driven by the manifest alone, gets the whole model's answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitnn.cli.main import BAD_INPUT, main
from splitnn.errors import InvalidInput
from splitnn.graph.model import Model, Value
from splitnn.graph.package import save
from splitnn.proto import open_inference_pb2
from splitnn.runtime.export import FORMATS, export, head_before, head_of
from splitnn.runtime.host import ModelHost
from splitnn.runtime.stage import stage
from splitnn.transport.base import Request
from splitnn.zoo.fashion import sample_images
from splitnn.zoo.sources import open_model
from tests.cloud_server.running import LIMIT_S, server
from tests.models import captured
from tests.runtime.exit_models import by_hand


def _head_cut(model: Model, layers: int) -> Any:
    return head_of(model, [layer.name for layer in model.graph.layers[:layers]])


def _whole(model: Model, inputs: Mapping[str, Value]) -> dict[str, Value]:
    return stage(model, model.graph.inputs, model.graph.outputs).run(inputs)


@pytest.mark.slow
def test_device_without_our_code_gets_the_whole_models_answer(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    names = ["chain", "residual", "attention"]
    for name in names:
        save(captured(name), tmp_path / "models" / name)
        model = captured(name)
        export(model, _head_cut(model, len(model.graph) // 2), tmp_path / name, format="onnx", name=name)
    device = tmp_path / "device"  # nothing of ours but the public protocol's stubs
    device.mkdir()
    shutil.copy(Path(__file__).with_name("plain_device.py"), device)
    shutil.copy(str(open_inference_pb2.__file__), device)
    with server(tmp_path / "log", "--models", str(tmp_path / "models"), "--listen", "127.0.0.1:0",
                "--profiling", "never") as cloud:  # fmt: skip
        address = cloud.wait_ready()
        for number, name in enumerate(names):
            model = captured(name)
            torch.manual_seed(number)
            inputs = {key: torch.randn_like(value) for key, value in model.example.items()}
            np.savez(device / "in.npz", **{key: value.numpy() for key, value in inputs.items()})  # type: ignore[arg-type]
            done = subprocess.run(
                [sys.executable, "plain_device.py", address, str(tmp_path / name), "in.npz", "out.npz"],
                cwd=device, capture_output=True, text=True, timeout=LIMIT_S, check=False,
                env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == {"foreign": []}
            found, expected = np.load(device / "out.npz"), _whole(model, inputs)
            assert set(found) == set(expected)
            for key, value in expected.items():
                torch.testing.assert_close(torch.from_numpy(found[key]), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("format", ["onnx", "executorch", "litert"])
def test_head_is_checked_beside_torch_before_it_is_written(tmp_path: Path, format: str) -> None:
    for module in FORMATS[format].needs:
        pytest.importorskip(module)
    model = captured("chain")
    manifest = export(model, _head_cut(model, 3), tmp_path / "head", format=format, name="chain", version="2")
    said = json.loads(manifest.read_text())
    assert said["head"]["difference_to_torch"] <= 1e-4
    assert (tmp_path / "head" / said["head"]["file"]).stat().st_size == said["head"]["size_bytes"]
    assert said["model"]["digest"] == model.digest


def test_manifest_names_everything_that_crosses_and_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = captured("many_inputs")
    head = _head_cut(model, 1)
    said = json.loads(export(model, head, tmp_path / "head", format="onnx", name="m").read_text())
    sent = {tensor["name"]: tensor["from"] for tensor in said["server"]["request"]["inputs"]}
    inside = {layer.name for layer in model.graph.layers[:1]}
    assert set(sent) == set(model.graph.crossing(inside))
    assert all((origin == "model input") == (name in model.graph.inputs) for name, origin in sent.items())
    asked = [output["name"] for output in said["server"]["request"]["outputs"]]
    assert set(asked) | set(said["results_of_the_head"]) == set(model.graph.outputs)


@pytest.mark.parametrize("cut", ["stage1", "exit1"])
def test_server_answers_an_exported_head_from_its_own_exits(tmp_path: Path, cut: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = open_model("fashion_exits")
    assert model.exits is not None
    head = head_before(model, [cut])
    said = json.loads(export(model, head, tmp_path / "head", format="onnx", name="fashion").read_text())
    asked, last = said["server"]["request"], model.exits.exits[-1]
    host = ModelHost(model, name="fashion")
    images = sample_images()[0][:40]
    reached = set[str]()
    try:
        for image in images.split(1):
            expected = by_hand(model, image)
            if expected.exit == "exit1" and head.results:
                continue  # the device itself is sure
            values = {model.graph.inputs[0]: image, **head.stage.run({model.graph.inputs[0]: image})}
            answer = asyncio.run(
                host.infer(
                    Request(
                        asked["model_name"],
                        {each["name"]: values[each["name"]] for each in asked["inputs"]},
                        deadline_s=math.inf,
                        digest=asked["parameters"]["splitnn_digest"]["string_param"],
                        wanted=tuple(each["name"] for each in asked["outputs"]),
                    )
                )
            )
            assert answer.parameters["exit"] == expected.exit
            torch.testing.assert_close(answer.tensors, {last.output: expected.logits}, rtol=1e-4, atol=1e-5)
            reached.add(expected.exit)
    finally:
        host.close()
    assert {"exit2", "exit3"} <= reached


def test_cut_at_one_tensor_takes_what_else_crosses_along() -> None:
    model = captured("residual")
    heads = []
    for tensor in model.graph.producer:
        with contextlib.suppress(InvalidInput):  # behind the last tensors nothing is left
            heads.append(head_before(model, [tensor]))
    assert len(heads) > len(model.graph) // 2
    for head in heads:
        tail = stage(model, head.crossing, [t for t in model.graph.outputs if t not in head.results])
        values = {**model.example, **head.stage.run(model.example)}
        found = {**values, **tail.run({name: values[name] for name in head.crossing})}
        for name, value in _whole(model, model.example).items():
            assert torch.equal(found[name], value)  # type: ignore[arg-type]


def test_bad_cuts_are_named(tmp_path: Path) -> None:
    model = captured("chain")
    with pytest.raises(InvalidInput, match="called 'nowhere'"):
        head_before(model, ["nowhere"])
    with pytest.raises(InvalidInput, match="'x' is an input"):
        head_before(model, ["x"])
    with pytest.raises(InvalidInput, match="nothing is left for the server"):
        head_before(model, ["output"])
    with pytest.raises(InvalidInput, match="no layer on the device"):
        head_of(model, [])
    with pytest.raises(ValueError, match="there are onnx, executorch, litert"):
        export(model, _head_cut(model, 2), tmp_path, format="tensorrt", name="chain")


def test_missing_tools_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    model = captured("chain")
    with pytest.raises(ModuleNotFoundError, match=r'executorch needs executorch: pip install "splitnn\[executorch\]"'):
        export(model, _head_cut(model, 2), tmp_path / "head", format="executorch", name="chain")
    assert not (tmp_path / "head").exists()


def test_empty_cut_is_bad_input_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "mobilenet_v2", "--cut", "", "--out", str(tmp_path / "head")]) == BAD_INPUT
    assert "no tensor, layer or module is called ''" in capsys.readouterr().err
