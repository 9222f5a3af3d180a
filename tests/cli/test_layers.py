"""``splitnn layers`` lists every layer under the names that constraints take."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from splitnn.cli.main import BAD_INPUT, main
from splitnn.cli.sources import open_model
from splitnn.graph.model import Model

FACTORY = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten(), nn.Linear(4 * 36, 5)), (
        torch.rand(1, 3, 8, 8),
    )
"""
MODEL = "layer_models:small"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A user's module; importable."""
    folder: Path = tmp_path_factory.mktemp("layers")
    (folder / "layer_models.py").write_text(FACTORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield open_model(MODEL)


def test_every_layer_is_listed_with_its_size_and_work(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", MODEL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["layers"]] == [layer.name for layer in model.graph.layers]
    conv = next(row for row in found["layers"] if "conv2d" in row["operator"])
    (shape,) = conv["makes"].values()
    assert shape == [1, 4, 6, 6] and conv["output_bytes"] == 4 * math.prod(shape)
    assert conv["flops"] == 2 * math.prod(shape) * 3 * 3 * 3
    assert found["digest"] == model.digest and list(found["inputs"].values()) == [[1, 3, 8, 8]]


def test_the_table_shows_names_operators_and_shapes(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", MODEL]) == 0
    lines = capsys.readouterr().out.splitlines()
    for layer, line in zip(model.graph.layers, lines[1:], strict=False):
        assert layer.name in line.split() and layer.op.split(".")[1] in line.split()
    assert "1x4x6x6" in lines[1] and f"{len(model.graph)} of {len(model.graph)} layers" in lines[-1]


def test_a_module_alone_can_be_listed(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", MODEL, "--only", "0", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)["layers"]]
    assert (
        names == [layer.name for layer in model.graph.layers if layer.module.split(".")[0] == "0"] and len(names) == 2
    )


@pytest.mark.usefixtures("model")
def test_a_module_that_does_not_exist_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", MODEL, "--only", "nothing_like_it"]) == BAD_INPUT
    assert len(capsys.readouterr().err.splitlines()) == 1
