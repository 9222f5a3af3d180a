"""``splitnn plan`` with objectives and constraints: what is printed is what the library decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splitnn.cli.main import BAD_INPUT, main
from splitnn.cli.sources import open_model
from splitnn.cost.network import parse_bytes
from splitnn.cost.presets import presets
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.graph.model import Model
from tests.cli.two_host_files import capture_once

FACTORY = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=4))
        self.head = nn.Linear(2 * 4 * 4, 5)

    def forward(self, image):
        return self.head(self.features(image.permute(0, 3, 1, 2).float()).flatten(1))

def photo():
    torch.manual_seed(0)
    return Small(), (torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8),)
"""
PLAN = ("plan", "goal_models:photo", "--device", "device.json", "--cloud", "cloud.json", "--link", "1Mbps/10ms")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Model]]:
    """A user's module and profiles of a slow device and a quick cloud; captured once."""
    place = tmp_path_factory.mktemp("goals")
    (place / "goal_models.py").write_text(FACTORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        capture_once(patch)
        model = open_model("goal_models:photo")
        for host, seconds in (("device", 8e-3), ("cloud", 1e-3)):
            layers = {layer.name: Timing(seconds, seconds) for layer in model.graph.layers}
            codecs = {name: {"raw": CodecCost(t.size_bytes, 0, 0)} for name, t in model.graph.tensors.items()}
            profile = Profile(model.digest, host, layers, Timing(1, 1), codecs=codecs)
            (place / f"{host}.json").write_text(json.dumps(profile.to_json()))
        yield place, model


@pytest.fixture
def graph_layers(workplace: tuple[Path, Model], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the layers; the profiles lie in the working directory."""
    monkeypatch.chdir(workplace[0])
    return [layer.name for layer in workplace[1].graph.layers]


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*PLAN, *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _on_device(found: dict[str, Any]) -> list[str]:
    return [name for name, tier in found["plan"]["layers"] if tier == 0]


@pytest.mark.usefixtures("graph_layers")
def test_each_objective_is_at_least_as_good_at_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    prices = ("--server-hour", "1", "--gigabyte", "0.1")
    names = ("latency", "energy", "bytes", "cost")
    found = {name: _json(capsys, "--objective", name, *prices)["choice"] for name in names}
    for name in names:
        assert found[name]["is_optimal"] and found[name]["gap"] == 0
        assert found[name]["amounts"][name] == min(each["amounts"][name] for each in found.values())
    widest = _json(capsys, "--objective", "throughput")["choice"]["throughput_rps"]
    assert widest >= max(each["throughput_rps"] for each in found.values())


def test_private_without_names_keeps_the_image_and_its_copies(
    graph_layers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _on_device(_json(capsys)) == []
    kept = _on_device(_json(capsys, "--private"))
    assert "features.0" in kept, "what reads the last copy of the image is the first convolution"
    assert set(graph_layers[: graph_layers.index("features.0")]) <= set(kept)
    assert graph_layers[0] in _on_device(_json(capsys, "--private", "image"))


@pytest.mark.usefixtures("graph_layers")
def test_private_shows_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    scores = _json(capsys, "--private")["choice"]["leakage"]
    assert scores["image"] > 0.99 and all(0 <= score <= 1 for score in scores.values())
    assert _json(capsys, "--private", "image")["choice"]["leakage"] is None
    assert main([*PLAN, "--private"]) == 0
    assert "tensors tell more than 0.9 about the input, measured" in capsys.readouterr().out


def test_leakage_above_the_threshold_stays_on_the_device(
    graph_layers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    everything = _on_device(_json(capsys, "--max-leakage", "0"))
    most = _on_device(_json(capsys, "--max-leakage", "0.97"))
    assert set(most) <= set(everything) and "features.0" in most
    assert _on_device(_json(capsys, "--max-leakage", "1")) == []


def test_kept_layers_and_forbidden_operators_are_obeyed(
    graph_layers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = _on_device(_json(capsys, "--keep-on-device", graph_layers[0], graph_layers[3]))
    assert set(graph_layers[:4]) <= set(kept)
    assert "features.2" in _on_device(_json(capsys, "--forbid", "conv2d=cloud"))


@pytest.mark.usefixtures("graph_layers")
def test_the_report_says_what_is_proven_and_what_is_modelled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--weights", "latency=1,energy=0.5", "--deadline", "100ms", "--device-memory", "1MB"]) == 0
    printed = capsys.readouterr().out
    assert "objective latency=1,energy=0.5: proven optimal" in printed
    assert "modelled and not measured" in printed


@pytest.mark.usefixtures("graph_layers")
def test_a_preset_stands_for_a_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN[:3], "raspberry-pi-4", *PLAN[4:]]) == 0
    assert "device" in capsys.readouterr().out


@pytest.mark.usefixtures("graph_layers")
def test_a_preset_that_does_not_exist_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN[:3], "raspberry-pi-44", *PLAN[4:]]) == BAD_INPUT
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert all(name in printed for name in presets())


@pytest.mark.parametrize(
    ("arguments", "ruled_out"),
    [
        ((), set()),
        (("--private",), {"cloud"}),
        (("--max-bytes", "1000"), {"cloud"}),
        (("--max-accuracy-drop", "0"), set()),
        (("--forbid", "conv2d=device"), {"device"}),
        (("--device-memory", "4KB"), {"device"}),
    ],
)
@pytest.mark.usefixtures("graph_layers")
def test_a_baseline_that_the_goals_forbid_is_marked(
    arguments: tuple[str, ...], ruled_out: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = _json(capsys, *arguments)["baselines"]
    marked = {option["name"].split()[2].rstrip(",") for option in found if option["ruled_out"]}
    assert marked == ruled_out and len(found) == 2
    assert main([*PLAN, *arguments]) == 0
    assert ("ruled out" in capsys.readouterr().out) == bool(ruled_out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--objective", "speed"), "there are latency, energy"),
        (("--objective", "energy", "--weights", "latency=1"), "one or the other"),
        (("--weights", "energy"), "expected a mix"),
        (("--objective", "cost"), "--server-hour"),
        (("--objective", "cost", "--gigabyte", "-1"), "not below 0"),
        (("--objective", "energy", "--power", "toaster"), "there are raspberry-pi-4"),
        (("--objective", "energy", "--radio", "smoke"), "wifi"),
        (("--deadline", "soon"), "'soon' is no time"),
        (("--deadline", "1ms"), "exceeds the deadline of 1 ms by"),
        (("--deadline", "1ms"), "ms; the deadline is 1 ms"),
        (("--max-bytes", "many"), "'many' is no size"),
        (("--device-memory", "12 parsecs"), "is no size"),
        (("--device-memory", "1KB", "--private"), "memory of device"),
        (("--forbid", "conv2d"), "OP=HOST"),
        (("--forbid", "conv9d=cloud"), "aten.conv2d.default"),
        (("--forbid", "conv2d=moon"), "'moon'"),
        (("--forbid", "conv2d=device", "--forbid", "conv2d=cloud"), "no host is left"),
        (("--keep-on-device", "layer9"), "'layer9'"),
        (("--private", "secret"), "its inputs are ['image']"),
        (("--private", "--forbid", "permute=device"), "permute"),
        (("--max-leakage", "2"), "between 0 and 1"),
    ],
)
@pytest.mark.usefixtures("graph_layers")
def test_bad_goals_are_one_line(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, *arguments]) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert words in printed.err


@pytest.mark.parametrize(
    ("text", "size"), [("512MB", 512 * 10**6), ("1.5 KiB", 1536), ("7", 7), ("2gb", 2 * 10**9), ("3B", 3)]
)
def test_sizes_are_read_from_text(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1 mile", "1e999GB", "0x10"])
def test_wrong_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)
