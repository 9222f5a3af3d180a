"""Recurrent layers with weights in eight bits, and what the command says of layers that it leaves in floats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from splitnn.cli.main import main
from splitnn.graph.capture import capture
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.graph.package import load, save
from splitnn.runtime.verify import check
from splitnn.tuning.compress import int8_weights_version
from splitnn.tuning.int8 import int8_bytes, left_in_floats
from splitnn.zoo.datasets import samples

LAYERS: dict[str, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Listener(nn.Module):
    """Two recurrent layers in both directions, and a classifier."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = LAYERS[kind](12, 20, num_layers=2, bidirectional=True, batch_first=True)
        self.last = nn.Linear(40, 8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.body(x)[0].mean(1))
        return y


class WithTable(nn.Module):
    """A matrix of its own beside a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(20, 30))
        self.last = nn.Linear(30, 16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last((x @ self.table).relu())
        return y


def made(kind: str) -> tuple[nn.Module, Model]:
    torch.manual_seed(6)
    module = Listener(kind).eval()
    nn.init.normal_(module.last.weight)
    return module, capture(module, (torch.randn(1, 7, 12),))


def said(model: Model, x: Tensor) -> Tensor:
    (value,) = tensor_values(model, model.graph.outputs, {"x": x}).values()
    assert isinstance(value, Tensor)
    return value


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_of_recurrent_layers_are_a_quarter_and_answer_as_their_rounded_ones(kind: str, tmp_path: Path) -> None:
    module, model = made(kind)
    version = load(save(int8_weights_version(model), tmp_path / "small"))
    assert not left_in_floats(version)
    assert check(version, random_cuts=4, seed=0).passed
    large = {name: weight for name, weight in module.named_parameters() if weight.dim() >= 2 and weight.numel() >= 256}
    assert sum("body" in name for name in large) >= 6
    assert int8_bytes(version) == sum(weight.numel() for weight in large.values())
    with torch.no_grad():  # the same module in torch, its weights within half a step or clipped by a fifth at most
        for name, weight in large.items():
            restored = version.weights[f"{name}.int8"].float() * version.weights[f"{name}.scale"]
            largest = weight.abs().amax(1, keepdim=True)
            assert ((restored - weight).abs() <= 0.2 * largest + 1e-6).all()
            assert ((restored - weight).square().mean().sqrt() <= largest.max() / 127).all()
            weight.copy_(restored)
        x = torch.randn(9, 7, 12)
        torch.testing.assert_close(said(version, x), module(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["int8", "int8-weights"])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_command_measures_what_recurrent_layers_lose_and_says_what_is_int8(
    kind: str, method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model = made(kind)
    rows = str(tmp_path / "rows.safetensors")
    torch.manual_seed(1)
    save_file({"x": torch.randn(600, 7, 12)}, rows)
    asked = ["compress", str(save(model, tmp_path / "net")), "--data", rows, "--method", method, "--json"]
    assert main([*asked, "--out", str(tmp_path / "small")]) == 0
    told = json.loads(capsys.readouterr().out)
    figures, version = told["recipe"]["figures"], load(tmp_path / "small")
    assert told["left_in_floats"] == {}
    stored = [each for each in version.weights.values() if each.dtype == torch.int8]
    assert figures["int8_weight_bytes"] == sum(each.numel() for each in stored)
    assert figures["weight_bytes"] < 0.45 * figures["base_weight_bytes"]
    x = samples(rows, model, count=256).inputs["x"]
    lost = (said(model, x).argmax(1) != said(version, x).argmax(1)).float().mean().item()
    assert told["recipe"]["drop"]["estimate"] == pytest.approx(lost, abs=1.5 / len(x))
    assert lost < 0.1


def test_layers_that_stay_in_floats_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(2)
    model = capture(WithTable().eval(), (torch.randn(1, 20),))
    rows = str(tmp_path / "rows.safetensors")
    save_file({"x": torch.randn(300, 20)}, rows)
    asked = ["compress", str(save(model, tmp_path / "net")), "--data", rows, "--method", "int8-weights"]
    assert main([*asked, "--out", str(tmp_path / "small")]) == 0
    said_ = capsys.readouterr().out
    (layer,) = left_in_floats(load(tmp_path / "small"))
    assert model.graph.layer(layer).weights == ("table",)
    assert f"in floats as before: {layer} (matmul is no layer whose weights are taken)" in said_
