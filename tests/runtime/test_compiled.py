"""Other engines: within the declared tolerance of torch, or refused when loaded."""

from __future__ import annotations

import sys

import pytest
import torch

from splitnn.errors import EngineMismatch
from splitnn.runtime import compiled as compiled_stages
from splitnn.runtime.compiled import Engine, compiled
from splitnn.runtime.stage import stage, stages
from splitnn.runtime.verify import identical
from tests.models import captured


def test_torch_is_exact() -> None:
    model = captured("chain")
    whole = stage(model, model.graph.inputs, model.graph.outputs)
    same = compiled(whole, "torch", model.example, tolerance=0)
    assert identical(same.run(model.example)["output"], whole.run(model.example)["output"])


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "executorch"])
@pytest.mark.parametrize("name", ["chain", "residual", "branches"])
def test_every_half_on_another_engine_is_within_the_tolerance(name: str, engine: str) -> None:
    pytest.importorskip(engine)
    model = captured(name)
    order = [layer.name for layer in model.graph.layers]
    head, tail = stages(model, {"device": order[: len(order) // 2], "cloud": order[len(order) // 2 :]})
    whole = stage(model, model.graph.inputs, model.graph.outputs).run(model.example)
    fast_head = compiled(head, engine, model.example)
    crossing = {**model.example, **fast_head.run(model.example)}
    fast_tail = compiled(tail, engine, crossing)
    found = {**crossing, **fast_tail.run(crossing)}
    torch.testing.assert_close(found["output"], whole["output"], rtol=1e-4, atol=1e-5)


def test_other_batches_go_on_in_torch() -> None:
    pytest.importorskip("onnxruntime")
    model = captured("chain")
    whole = stage(model, model.graph.inputs, model.graph.outputs)
    three = {"x": model.example["x"].repeat(3, 1, 1, 1)}
    fast = compiled(whole, "onnxruntime", model.example)
    assert identical(fast.run(three)["output"], whole.run(three)["output"])


@pytest.mark.parametrize("off", [1e-2, float("nan")])
def test_engine_that_is_too_far_off_is_refused_when_loaded(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    wrong = {"wrong": Engine(lambda call, example: lambda *values: tuple(value + off for value in call(*values)))}
    monkeypatch.setattr(compiled_stages, "ENGINES", wrong)
    model = captured("chain")
    whole = stage(model, model.graph.inputs, model.graph.outputs)
    with pytest.raises(EngineMismatch, match="away from torch at 'output'"):
        compiled(whole, "wrong", model.example)


def test_unknown_engine_is_named_with_those_that_there_are() -> None:
    model = captured("chain")
    with pytest.raises(ValueError, match=r"no engine is called 'tpu'; there are torch, onnxruntime"):
        compiled(stage(model, model.graph.inputs, model.graph.outputs), "tpu", model.example)


@pytest.mark.parametrize(("engine", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_engine_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, engine: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, engine, None)  # as if it were not there
    model = captured("chain")
    whole = stage(model, model.graph.inputs, model.graph.outputs)
    with pytest.raises(ModuleNotFoundError, match=rf"{engine} needs {engine}: pip install \"splitnn\[{extra}\]\""):
        compiled(whole, engine, model.example)


def test_stage_without_layers_is_refused() -> None:
    model = captured("chain")
    with pytest.raises(EngineMismatch, match="runs in torch only"):
        compiled(stage(model, ("x",), ("x",)), "onnxruntime", model.example)
