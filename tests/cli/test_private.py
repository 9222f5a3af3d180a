"""``--private`` for models that read no bytes of a photo, with samples of a user's, and the names that users write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from splitnn.cli.main import BAD_INPUT, main
from splitnn.cli.sources import open_model
from tests.cli.two_host_files import capture_once, write_profile

FACTORY = """
import torch
from torch import nn

class Floats(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(nn.Conv2d(channels, 2, 3, stride=2), nn.ReLU(), nn.Conv2d(2, 2, 3, stride=2))
        self.head = nn.Linear(2 * 3 * 3, 5)

    def forward(self, image):
        return self.head(self.features(self.norm(image).sigmoid()).flatten(1))

def colour():
    torch.manual_seed(0)
    return Floats(3).eval(), (torch.rand(1, 3, 16, 16),)

def grey():
    torch.manual_seed(0)
    return Floats(1).eval(), (torch.rand(1, 1, 16, 16),)

def signal():
    torch.manual_seed(0)
    return nn.Sequential(nn.Tanh(), nn.Linear(40, 3), nn.ReLU()), (torch.rand(1, 40),)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's module, profiles of a slow device and a quick cloud, and samples."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "private_models.py").write_text(FACTORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        capture_once(patch)
        for name in ("colour", "grey", "signal"):
            model = open_model(f"private_models:{name}")
            for host, slowdown in (("device", 8.0), ("cloud", 1.0)):
                write_profile(folder / f"{name}-{host}.json", model, host=host, slowdown=slowdown, error=0.02)
        torch.manual_seed(0)
        save_file({"image": torch.rand(40, 1, 16, 16)}, folder / "grey.safetensors")
        yield folder


def command(name: str, *arguments: str) -> list[str]:
    files = ["--device", f"{name}-device.json", "--cloud", f"{name}-cloud.json"]
    return ["plan", f"private_models:{name}", *files, "--link", "10Gbps/1us", *arguments]


@pytest.fixture
def answer(place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(place)

    def run(name: str, *arguments: str) -> Any:
        assert main([*command(name, *arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def crossing(found: Any) -> set[str]:
    return {tensor for hop in found["plan"]["hops"] for tensor in hop}


def test_copies_do_not_cross_and_it_is_said_that_nothing_was_measured(
    answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert crossing(answer("signal")), "without --private everything goes to the quick host"
    found = answer("signal", "--private")
    assert found["plan"]["layers"][1][1] == 0, "the layer that reads what tanh made, which is a copy"
    assert found["choice"]["leakage"] is None
    assert main(command("signal", "--private")) == 0
    assert "private: not measured" in (printed := capsys.readouterr().out) and "--data" in printed


def test_a_float_image_is_measured_on_photos(answer: Any) -> None:
    found = answer("colour", "--private")
    scores = found["choice"]["leakage"]
    assert scores["image"] > 0.99
    kept = {name for name, tier in found["plan"]["layers"] if tier == 0}
    assert any("norm" in name for name in kept) and "image" not in crossing(found)


def test_samples_of_the_user_are_measured_on(answer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer("grey", "--private")["choice"]["leakage"] is None, "no photo fits a grey float image"
    scores = answer("grey", "--private", "--data", "grey.safetensors")["choice"]["leakage"]
    assert scores["image"] > 0.99 and all(0 <= score <= 1 for score in scores.values())
    assert main(command("grey", "--max-leakage", "0.95", "--data", "grey.safetensors")) == 0
    assert "measured on grey.safetensors" in capsys.readouterr().out


def test_measuring_leaves_the_number_of_threads_alone(answer: Any) -> None:
    before = torch.get_num_threads()
    answer("grey", "--private", "--data", "grey.safetensors")
    assert torch.get_num_threads() == before


def test_modules_and_short_operators_are_understood(answer: Any) -> None:
    kept = {name for name, tier in answer("grey", "--keep-on-device", "features")["plan"]["layers"] if tier == 0}
    layers = [layer.name for layer in open_model("private_models:grey").graph.layers if layer.module.startswith("feat")]
    assert layers and set(layers) <= kept
    assert crossing(answer("grey", "--private", "features.0")).isdisjoint({"image", layers[0]})
    assert answer("grey", "--forbid", "linear=cloud")["plan"]["layers"][-1][1] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--keep-on-device", "feature"), "did you mean features"),
        (("--private", "features.9"), "did you mean features"),
        (("--forbid", "convolution=device"), "did you mean conv2d"),
        (("--data", "grey.safetensors"), "--private without names"),
        (("--private", "--data", "nowhere"), "no such folder"),
        (("--max-leakage", "0.5"), "model reads"),
    ],
)
@pytest.mark.usefixtures("answer")
def test_wrong_names_and_data_are_one_line(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("grey", *arguments)) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1 and words in printed.err
