"""``splitnn predict`` on a host whose times obey the regression exactly, and on one that does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from splitnn.cli.main import BAD_INPUT, main
from splitnn.cli.sources import open_model, open_profile
from splitnn.cost.features import features
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.cost.profile_file import write_profile
from splitnn.graph.model import Model
from tests.cli.two_host_files import capture_once

FACTORY = """
import torch
from torch import nn

def net(*widths, side=16):
    torch.manual_seed(0)
    layers, last = [], 3
    for width in widths:
        layers += [nn.Conv2d(last, width, 3, padding=1), nn.ReLU()]
        last = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(last * side * side, 5)), (torch.rand(1, 3, side, side),)

def one(): return net(5, 11, side=8)
def two(): return net(7, 30, 5)
def three(): return net(23, 10, side=24)
def four(): return net(13, 18, 9, side=12)
def wanted(): return net(17, 6, 12, side=20)
"""
LIKE = "one.json,two.json,three.json,four.json"
WANTED = "predict_models:wanted"


def seconds(model: Model, layer: str) -> float:
    """The host's law."""
    found = features(model.graph, model.graph.layer(layer))
    return 1e-5 + 3e-11 * found.flops + 2e-10 * found.moved_bytes + 1e-10 * found.weight_bytes


def measured(name: str, *, host: str = "pi") -> Profile:
    model = open_model(f"predict_models:{name}")
    layers = {layer.name: Timing(s, s) for layer in model.graph.layers for s in (seconds(model, layer.name),)}
    whole = sum(timing.cpu_s for timing in layers.values())
    return Profile(
        model.digest, host, layers, Timing(whole, whole), stage_s=2e-3, message_s=3e-3,
        machine={"named": f"predict_models:{name}"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's models and their profiles on one host."""
    folder = tmp_path_factory.mktemp("predict")
    (folder / "predict_models.py").write_text(FACTORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        capture_once(patch)
        for name in ("one", "two", "three", "four", "wanted"):
            write_profile(folder / f"{name}.json", measured(name))
        whole = measured("wanted", host="cloud").scaled(1 / 10)
        codecs = {"x": {"int8": CodecCost(10, 1e-4, 2e-4)}}
        write_profile(folder / "cloud.json", replace(whole, codecs=codecs))
        write_profile(folder / "nameless.json", replace(measured("one"), machine={}))
        write_profile(folder / "elsewhere.json", replace(measured("two"), host="laptop"))
        yield folder


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_a_host_that_obeys_the_law_is_predicted_and_planned_with(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", WANTED, "--like", LIKE, "-o", "found.json", "--host", "device", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found, truth = open_profile("found.json"), measured("wanted")
    for name in truth.layers:
        assert found.seconds(name) == pytest.approx(truth.seconds(name), rel=0.05)
    assert found.host == "device" and found.machine["predicted"].startswith("not measured")
    assert (found.stage_s, found.message_s) == (2e-3, 3e-3), "the host's own, whatever the model"
    assert printed["error"] == found.error and len(printed["held_out"]) == 4
    arguments = ["--device", "found.json", "--cloud", "cloud.json", "--link", "10Mbps/10ms"]
    assert main(["plan", WANTED, *arguments]) == 0
    assert main(["explain", WANTED, *arguments]) == 0
    assert "how sure" in capsys.readouterr().out


def test_the_error_printed_is_that_of_a_model_that_was_held_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A model measured at twice its time is predicted at half by the others; theirs are off by less."""
    write_profile("double.json", measured("three").scaled(2.0))
    assert (
        main(["predict", WANTED, "--like", "one.json,two.json", "--like", "double.json", "-o", "f.json", "--json"]) == 0
    )
    held_out = {each["model"]: each["whole"] for each in json.loads(capsys.readouterr().out)["held_out"]}
    assert held_out["predict_models:three"] == pytest.approx(-0.5, abs=0.1)
    assert main(["predict", WANTED, "--like", LIKE, "-o", "f.json"]) == 0
    assert "predict_models:two" in (printed := capsys.readouterr().out) and "expect to be off by" in printed


def test_one_model_leaves_the_error_unknown_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", WANTED, "--like", "three.json", "-o", "f.json"]) == 0
    assert "unknown" in capsys.readouterr().out
    assert open_profile("f.json").error is None
    assert main(["explain", WANTED, "--device", "f.json", "--cloud", "cloud.json", "--link", "1Mbps/10ms"]) == 0
    assert "unknown: a profile does not tell its own error" in capsys.readouterr().out


def test_a_reference_lends_codecs_at_the_speed_of_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", WANTED, "--like", LIKE, "-o", "f.json", "--reference", "cloud.json"]) == 0
    lent = open_profile("f.json").codecs["x"]["int8"]
    assert lent.size_bytes == 10 and lent.encode_s == pytest.approx(1e-3, rel=0.05)
    assert "codecs: as measured on cloud" in capsys.readouterr().out


def test_a_profile_without_its_models_name_is_given_one() -> None:
    assert main(["predict", WANTED, "--like", "predict_models:one=nameless.json,two.json", "-o", "f.json"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--like", "nameless.json"), "MODEL=nameless.json"),
        (("--like", "wanted.json"), "model to be predicted"),
        (("--like", "one.json,one.json"), "counts once"),
        (("--like", "one.json,elsewhere.json"), "one host under one setting"),
        (("--like", "predict_models:two=one.json"), "is of model"),
        (("--like", "nowhere.json"), "nowhere.json"),
        (("--like", "one.json", "--reference", "two.json"), "is of model"),
        (("--like", "one.json", "--host", "a b"), "a b"),
    ],
)
def test_what_cannot_be_fitted_is_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", WANTED, "-o", "none.json", *arguments]) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1 and words in printed.err
    assert not Path("none.json").exists()
