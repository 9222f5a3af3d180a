"""Heads for other runtimes: a device without our code, driven by the manifest alone, gets the whole model's answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splitnn.cli.main import BAD_INPUT, main
from splitnn.cost.cost import Cost
from splitnn.errors import EngineMismatch, InvalidInput
from splitnn.graph.model import Model, Value
from splitnn.graph.package import save
from splitnn.planner.plan import Plan
from splitnn.proto import open_inference_pb2
from splitnn.runtime.engines.exchange import quiet
from splitnn.runtime.export import _exits_of_the_server, export
from splitnn.runtime.head import head_before, head_of
from splitnn.runtime.head_formats import FORMATS
from splitnn.runtime.host import ModelHost
from splitnn.runtime.inputs import admit
from splitnn.runtime.stage import stage
from splitnn.transport.base import Request
from splitnn.transport.codec import CODECS
from splitnn.transport.quantize import FP16
from splitnn.zoo.fashion import sample_images
from splitnn.zoo.sources import open_model
from tests.cloud_server.running import LIMIT_S, server
from tests.models import captured
from tests.runtime.exit_models import Cascaded, ThreeExits, by_hand
from tests.runtime.exit_models import captured as captured_with_exits


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
    with _cloud_for(tmp_path) as ask:
        for number, name in enumerate(names):
            model = captured(name)
            torch.manual_seed(number)
            inputs = {key: torch.randn_like(value) for key, value in model.example.items()}
            answer = ask(name, inputs)
            expected = _whole(model, inputs)
            assert set(answer.outputs) == set(expected)
            for key, value in expected.items():
                torch.testing.assert_close(answer.outputs[key], value, rtol=1e-4, atol=1e-5)
            assert _same_bits(answer.outputs, _tail(model, answer.crossed, answer.outputs))


_CODECS = ["fp16", "bf16", "int8", "zstd", "fp16+zstd", "int8+zstd", "lz4", "int8+lz4"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "attention"])
def test_device_without_our_code_writes_codecs_as_the_manifest_says(tmp_path: Path, name: str) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = captured(name)
    head = _head_cut(model, len(model.graph) // 2)
    assert all(model.graph.tensors[tensor].dtype == "float32" for tensor in head.crossing)
    save(model, tmp_path / "models" / name)
    for chosen in _CODECS:
        codecs = dict.fromkeys(head.crossing, chosen)
        export(model, head, tmp_path / chosen, format="onnx", name=name, codecs=codecs)
    with _cloud_for(tmp_path) as ask:
        for number, chosen in enumerate(_CODECS):
            torch.manual_seed(number)
            inputs = {key: torch.randn_like(value) for key, value in model.example.items()}
            answer = ask(chosen, inputs)
            codec = CODECS[chosen]
            shapes = {tensor: tuple(value.shape) for tensor, value in answer.crossed.items()}
            decoded = {
                tensor: codec.decode(codec.encode(value), shapes[tensor], "float32")
                for tensor, value in answer.crossed.items()
            }
            sent = {
                tensor: codec.decode(payload, shapes[tensor], "float32") for tensor, payload in answer.payloads.items()
            }
            assert _same_bits(sent, decoded), chosen
            if not codec.lossless:
                assert not _same_bits(decoded, answer.crossed), f"{chosen} loses nothing: the test cannot fail"
            assert _same_bits(answer.outputs, _tail(model, decoded, answer.outputs)), chosen
        inputs = {key: 1e6 * value for key, value in inputs.items()}
        answer = ask("fp16", inputs)  # beyond what halves hold: raw, as the manifest says
        large = {tensor for tensor, value in answer.crossed.items() if value.abs().max() > 65520}
        assert large
        assert all(len(answer.payloads[tensor]) == answer.crossed[tensor].nbytes for tensor in large)
        decoded = {
            tensor: value if tensor in large else FP16.decode(FP16.encode(value), tuple(value.shape), "float32")
            for tensor, value in answer.crossed.items()
        }
        assert _same_bits(answer.outputs, _tail(model, decoded, answer.outputs))


@dataclass(frozen=True)
class _Answer:
    """What the plain device got, and what it sent for it."""

    outputs: dict[str, torch.Tensor]
    crossed: dict[str, torch.Tensor]
    payloads: dict[str, bytes]
    said: dict[str, Any]  # of the exits


@contextlib.contextmanager
def _cloud_for(folder: Path) -> Iterator[Callable[..., _Answer]]:
    """A server of the models in the folder, and what asks it with one of the folder's heads and nothing of ours."""
    device = folder / "device"  # nothing of ours but the public protocol's stubs
    device.mkdir()
    shutil.copy(Path(__file__).with_name("plain_device.py"), device)
    shutil.copy(str(open_inference_pb2.__file__), device)
    with server(folder / "log", "--models", str(folder / "models"), "--listen", "127.0.0.1:0",
                "--profiling", "never") as cloud:  # fmt: skip
        address = cloud.wait_ready()

        def ask(head: str, inputs: Mapping[str, torch.Tensor], *exits: str) -> _Answer:
            np.savez(device / "in.npz", **{key: value.numpy() for key, value in inputs.items()})  # type: ignore[arg-type]
            done = subprocess.run(
                [sys.executable, "plain_device.py", address, str(folder / head), "in.npz", "out.npz", *exits],
                cwd=device, capture_output=True, text=True, timeout=LIMIT_S, check=False,
                env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            printed = json.loads(done.stdout)
            assert printed["foreign"] == []
            with np.load(device / "out.npz") as found:
                tensors = {key: torch.from_numpy(found[key]) for key in found}
            apart = {
                kind: {key.removeprefix(kind): value for key, value in tensors.items() if key.startswith(kind)}
                for kind in ("crossed:", "payload:")
            }
            payloads = {key: value.numpy().tobytes() for key, value in apart["payload:"].items()}
            outputs = {key: value for key, value in tensors.items() if not key.startswith(tuple(apart))}
            return _Answer(outputs, apart["crossed:"], payloads, printed["said"])

        yield ask


def _tail(model: Model, crossing: Mapping[str, torch.Tensor], answered: Mapping[str, Value]) -> dict[str, Value]:
    """The answer that the rest of the model gives to what crossed; results of the head as they were answered."""
    head = _head_cut(model, len(model.graph) // 2)
    left = [tensor for tensor in model.graph.outputs if tensor not in head.results]
    made = stage(model, tuple(crossing), left).run(admit(model.graph, crossing))
    return {name: made.get(name, answered[name]) for name in answered}


def _same_bits(some: Mapping[str, Value], others: Mapping[str, Value]) -> bool:
    assert set(some) == set(others)
    return all(torch.equal(some[name], others[name]) for name in some)  # type: ignore[arg-type]


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


@pytest.mark.skipif(sys.platform == "darwin", reason="there the head is run beside torch")
@pytest.mark.parametrize("name", ["chain", "residual", "many_inputs", "integers", "efficientnet_lite0"])
def test_core_ml_package_computes_the_head_as_its_operators_are_defined(tmp_path: Path, name: str) -> None:
    pytest.importorskip("coremltools")
    from tests.runtime.mil import evaluate

    if name == "efficientnet_lite0":
        model = open_model(name)
        head = head_before(model, ["classifier._blocks.4"])
    else:
        model = captured(name)
        head = _head_cut(model, len(model.graph) // 2)
    said = json.loads(export(model, head, tmp_path / "head", format="coreml", name=name).read_text())["head"]
    assert said["difference_to_torch"] is None
    assert "nothing that can run it" in said["note"]
    package = tmp_path / "head" / said["file"]
    files = {file.relative_to(package).as_posix(): file for file in package.rglob("*") if file.is_file()}
    assert {each["path"]: each["sha256"] for each in said["files"]} == {
        path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in files.items()
    }
    arrays = {"FLOAT32": torch.float32, "INT32": torch.int32}
    torch.manual_seed(3)
    inputs = {
        key: torch.randint(0, 256, value.shape, dtype=value.dtype) if value.dtype == torch.uint8
        else torch.rand(value.shape) < 0.5 if value.dtype == torch.bool else torch.randn_like(value)
        for key, value in model.example.items()
        if isinstance(value, torch.Tensor)
    }  # fmt: skip
    expected = head.stage.run({key: inputs[key] for key in head.stage.inputs})
    found = evaluate(
        package, {each["feature"]: inputs[each["name"]].to(arrays[each["array"]]) for each in said["inputs"]}
    )
    assert {each["name"] for each in said["outputs"]} == set(expected)
    for each in said["outputs"]:
        value, want = found[each["feature"]], expected[each["name"]]
        assert isinstance(want, torch.Tensor)
        assert list(want.shape) == each["shape"]
        assert value.dtype == arrays[each["array"]]
        torch.testing.assert_close(value.to(want.dtype), want, rtol=1e-4, atol=1e-4 * float(want.double().abs().max()))


def test_core_ml_head_is_refused_where_its_arrays_cannot_hold_it(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    model = captured("masked")
    with pytest.raises(EngineMismatch, match=r"the head (as|cannot be written as) coreml"):
        export(model, _head_cut(model, len(model.graph) // 2), tmp_path / "head", format="coreml", name="m")
    assert not (tmp_path / "head").exists()


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


@pytest.mark.slow
def test_device_without_our_code_chooses_among_the_exits_that_its_manifest_lists(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = open_model("fashion_exits")
    assert model.exits is not None
    save(model, tmp_path / "models" / "fashion")
    head = head_before(model, ["stage2.6"])
    written = json.loads(export(model, head, tmp_path / "head", format="onnx", name="fashion").read_text())
    exits = written["server"]["exits"]
    assert [(each["name"], each["may_be_deepest"]) for each in exits["answering"]] == [("exit2", True), ("exit3", True)]
    later = model.exits.only("exit2", "exit3")
    images = sample_images()[0].split(1)
    found = {by_hand(model, image, exits=later).exit: image for image in images[:40]}
    assert set(found) == {"exit2", "exit3"}
    outputs = {each.name: each.output for each in model.exits.exits}
    last = outputs["exit3"]
    with _cloud_for(tmp_path) as ask:
        for expected, image in found.items():
            for asked, exit in {"": expected, "all": expected, "none": "exit3", "exit2": "exit2"}.items():
                answer = ask("head", {"image": image}, *([asked] if asked else []))
                assert list(answer.crossed) == ["stage2.6"]
                rest = stage(model, ["stage2.6"], [outputs[exit]]).run(answer.crossed)
                assert _same_bits(answer.outputs, {last: rest[outputs[exit]]}), (expected, asked)
                assert answer.said["exit"] == exit
                assert answer.said["answered_by"] == "cloud"
                temperature = next(each.temperature for each in model.exits.exits if each.name == exit)
                sure = float((answer.outputs[last] / temperature).double().softmax(-1).max())
                assert answer.said["confidence"] == pytest.approx(sure, abs=1e-6)


@pytest.mark.parametrize("by", ["cut", "plan"])
def test_head_sends_nothing_for_exits_that_were_passed_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], by: str
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = open_model("fashion_exits")
    inside = set(head_before(model, ["stage2.6"]).stage.layers)
    assert set(model.graph.crossing(inside)) == {"stage1.3", "stage2.6"}, "nothing is left out: the test cannot fail"
    tiers = tuple(int(layer.name not in inside) for layer in model.graph.layers)
    plan = Plan(model.digest, ("d", "c"), tuple(each.name for each in model.graph.layers), tiers,
                (dict.fromkeys(model.graph.crossing(inside), "int8"),), Cost(0, (), (), 0.0, 0.0),
                "fast")  # fmt: skip
    (tmp_path / "plan.txt").write_text(str(plan))
    given = ["--cut", "stage2.6", "--codec", "int8"] if by == "cut" else ["--plan", str(tmp_path / "plan.txt")]
    assert main(["export", "fashion_exits", "--out", str(tmp_path / "head"), *given]) == 0
    assert "sends stage2.6 (1.4 kB)" in capsys.readouterr().out
    written = json.loads((tmp_path / "head" / "manifest.json").read_text())
    assert [each["name"] for each in written["head"]["outputs"]] == ["stage2.6"]
    (sent,) = written["server"]["request"]["inputs"]
    assert sent["name"] == "stage2.6"
    sizes = {"UINT32": 4, "FP32": 4, "UINT8": 1}
    assert sum(sizes[part["datatype"]] * part["count"] for part in sent["payload"]["parts"]) == 1372


@pytest.mark.parametrize("kind", [ThreeExits, Cascaded])
def test_every_head_of_a_model_with_exits_gets_the_answers_that_its_manifest_lists(kind: type) -> None:
    model = captured_with_exits(kind)
    assert model.exits is not None
    whole = _whole(model, model.example)
    host = ModelHost(model, name="m")
    heads = 0
    for count in range(1, len(model.graph)):
        with contextlib.suppress(InvalidInput):  # what is left makes early exits only
            head = _head_cut(model, count)
            values = {**model.example, **head.stage.run(model.example)}
            listed = _exits_of_the_server(model, head)["exits"]["answering"]
            deepest = {each["name"] for each in listed if each["may_be_deepest"]}
            assert listed[-1]["name"] == model.exits.exits[-1].name
            for each in model.exits.exits:
                request = Request("m", {name: values[name] for name in head.crossing}, deadline_s=math.inf,
                                  parameters={"exits": each.name}, wanted=head.asked)  # fmt: skip
                if each.name not in deepest:
                    with pytest.raises(InvalidInput):
                        asyncio.run(host.infer(request))
                    continue
                answer = asyncio.run(host.infer(request))
                assert _same_bits(answer.tensors, {head.asked[0]: whole[each.output]})
            heads += 1
    host.close()
    assert heads >= 3


def test_head_that_makes_the_last_exit_leaves_nothing_for_the_server() -> None:
    model = captured_with_exits(ThreeExits)
    with pytest.raises(InvalidInput, match="nothing is left for the server"):
        head_before(model, [model.graph.outputs[-1]])


def test_only_models_with_exits_have_them_in_the_manifest(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = captured("chain")
    written = json.loads(export(model, _head_cut(model, 3), tmp_path / "h", format="onnx", name="c").read_text())
    assert "exits" not in written["server"]
    assert (Path(__file__).parents[2] / "protos/splitnn/proto/open_inference.proto").is_file()
    assert "protos/splitnn/proto/open_inference.proto" in written["server"]["definition"]


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
    with pytest.raises(ValueError, match="there are onnx, executorch, litert, coreml"):
        export(model, _head_cut(model, 2), tmp_path, format="tensorrt", name="chain")


def test_missing_tools_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    model = captured("chain")
    with pytest.raises(ModuleNotFoundError, match=r'executorch needs executorch: pip install "splitnn\[executorch\]"'):
        export(model, _head_cut(model, 2), tmp_path / "head", format="executorch", name="chain")
    assert not (tmp_path / "head").exists()


def test_codecs_that_cannot_be_described_are_named_with_those_that_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "head"
    save(captured("chain"), tmp_path / "chain")
    command = ["export", str(tmp_path / "chain"), "--cut", "features.3", "--out", str(folder), "--codec"]
    assert main([*command, "even4"]) == BAD_INPUT
    assert "these are: raw, zstd, raw+fast, lz4, fp16, fp16+zstd" in capsys.readouterr().err
    assert main([*command, "int8+zst"]) == BAD_INPUT
    assert "no codec is called 'int8+zst': did you mean int8+zstd" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"'x' has a codec, and does not cross; these do: features\.2"):
        export(
            captured("chain"), _head_cut(captured("chain"), 3), folder, format="onnx", name="c", codecs={"x": "fp16"}
        )
    assert not folder.exists()


def test_lossy_codec_is_written_where_it_is_asked_for_and_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = captured("chain")
    save(model, tmp_path / "chain")
    head = _head_cut(model, 3)
    (crossing,) = head.crossing
    tiers = tuple(int(layer.name not in head.stage.layers) for layer in model.graph.layers)
    codecs = {"raw": "raw", "lossy": "int8+zstd", "too much": "even4"}
    for name, codec in codecs.items():
        plan = Plan(model.digest, ("d", "c"), tuple(each.name for each in model.graph.layers), tiers,
                    ({crossing: codec},), Cost(0, (), (), 0.0, 0.0), "fast")  # fmt: skip
        (tmp_path / f"{name}.txt").write_text(str(plan))
    commands = {
        ("--cut", crossing): ("raw", ""),
        ("--cut", crossing, "--codec", "fp16"): ("fp16", f"lossy, as --codec asks: {crossing} as fp16"),
        ("--plan", "raw.txt"): ("raw", ""),
        ("--plan", "lossy.txt"): ("int8+zstd", f"lossy, as lossy.txt asks: {crossing} as int8+zstd"),
        ("--plan", "lossy.txt", "--codec", "raw"): ("raw", ""),
        ("--plan", "too much.txt"): ("raw", f"the plan sends {crossing} as even4, which an outside client cannot"),
    }
    for number, (given, (codec, said)) in enumerate(commands.items()):
        arguments = [str(tmp_path / each) if each.endswith(".txt") else each for each in given]
        assert main(["export", str(tmp_path / "chain"), "--out", str(tmp_path / str(number)), *arguments]) == 0
        lines = capsys.readouterr().err.replace(f"{tmp_path}/", "").splitlines()
        assert [line[: len(said)] for line in lines] == ([said] if said else [])
        (sent,) = json.loads((tmp_path / str(number) / "manifest.json").read_text())["server"]["request"]["inputs"]
        assert sent["codec"] == codec
        assert sent["parameters"] == ({} if codec == "raw" else {"codec": {"string_param": codec}})


def test_converters_warnings_are_not_heard_and_their_errors_are(caplog: pytest.LogCaptureFixture) -> None:
    talkative = [logging.getLogger(name) for name in ("torch.utils._pytree", "torchao", "coremltools")]
    levels = [logger.level for logger in talkative]
    with quiet():
        for logger in talkative:
            logger.warning("a version")
            logger.error("a failure")
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)  # an error in these tests, were it heard
    assert {record.message for record in caplog.records} == {"a failure"}
    assert [logger.level for logger in talkative] == levels


def test_empty_cut_is_bad_input_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "mobilenet_v2", "--cut", "", "--out", str(tmp_path / "head")]) == BAD_INPUT
    assert "no tensor, layer or module is called ''" in capsys.readouterr().err
