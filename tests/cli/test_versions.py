"""``splitnn plan --max-accuracy-drop``: lossy codecs and versions where data say that they may be used, else not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splitnn.cli.main import main
from splitnn.cost.accuracy import Calibrated, Calibration, parse_share
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.cost.profile_file import open_profile, write_profile
from splitnn.graph.model import Model
from splitnn.graph.package import save
from splitnn.graph.recipe import Drop, Recipe
from tests.models import captured

Plan = Callable[..., dict[str, Any]]


def profile_of(model: Model, host: str, seconds: float, *, drop: Drop | None = None) -> Profile:
    """Every layer takes so long; int8 is a quarter and takes no time; with a drop, all tensors are calibrated."""
    sizes = {name: spec.size_bytes for name, spec in model.graph.tensors.items()}
    codecs = {name: {"int8": CodecCost(size // 4, 0, 0)} for name, size in sizes.items()}
    layers = {layer.name: Timing(seconds, seconds) for layer in model.graph.layers}
    tensors = {} if drop is None else {tensor: {"int8": Calibrated(drop, 9, 9)} for tensor in model.graph.tensors}
    accuracy = None if drop is None else Calibration(tensors, against="model", data="photos", samples=500)
    return Profile(model.digest, host, layers, Timing(1, 1), codecs=codecs, accuracy=accuracy)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model, two profiles without and with calibration, and a version with profiles of its own."""
    model = captured("chain")
    save(model, tmp_path / "net")
    drop = Drop(0.002, 0.0, 0.004)
    for host, seconds in (("device", 1e-3), ("cloud", 1e-5)):
        write_profile(tmp_path / f"{host}.json", profile_of(model, host, seconds))
        write_profile(tmp_path / f"{host}-calibrated.json", profile_of(model, host, seconds, drop=drop))
    recipe = Recipe(method="made up", base=model.digest, drop=Drop(0.001, 0.0, 0.003), data="photos", samples=500)
    weights = {name: tensor.clone().mul_(1.01) for name, tensor in model.weights.items()}
    version = replace(model, weights=weights, recipe=recipe)
    save(version, tmp_path / "version")
    for host, seconds in (("device", 1e-4), ("cloud", 1e-5)):
        write_profile(tmp_path / f"version-{host}.json", profile_of(version, host, seconds))
    return tmp_path


@pytest.fixture
def plan(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Plan:
    monkeypatch.chdir(place)

    def run(*arguments: str, calibrated: bool = True) -> dict[str, Any]:
        suffix = "-calibrated" if calibrated else ""
        hosts = ("--device", f"device{suffix}.json", "--cloud", f"cloud{suffix}.json", "--link", "1Mbps/1ms")
        status = main(["plan", "./net", *hosts, "--json", *arguments])
        captured_text = capsys.readouterr()
        return {"status": status, "error": captured_text.err} | (json.loads(captured_text.out) if not status else {})

    return run


def codecs_of(found: dict[str, Any]) -> set[str]:
    return {codec for hop in found["plan"]["hops"] for codec in hop.values()}


def test_lossy_codec_is_used_where_its_upper_bound_is_allowed_and_nowhere_else(plan: Plan) -> None:
    allowed, forbidden = plan("--max-accuracy-drop", "0.4%"), plan("--max-accuracy-drop", "0.39%")
    assert codecs_of(allowed) == {"int8"} and allowed["lost_at_most"] == 0.004
    assert "int8" not in codecs_of(forbidden) and forbidden["lost_at_most"] == 0
    assert allowed["predicted"]["total_s"] < forbidden["predicted"]["total_s"] == plan()["predicted"]["total_s"]
    assert "int8" not in codecs_of(plan("--max-accuracy-drop", "0"))


def test_goals_hold_within_what_may_be_lost(plan: Plan) -> None:
    ways = ("--objective", "energy", "--deadline", "1s")
    found, lossless = plan("--max-accuracy-drop", "0.4%", *ways), plan(*ways)
    assert codecs_of(found) == {"int8"} and found["lost_at_most"] == 0.004
    assert found["choice"]["value"] < lossless["choice"]["value"]


def test_without_calibration_the_error_says_what_to_run(plan: Plan) -> None:
    found = plan("--max-accuracy-drop", "1%", calibrated=False)
    assert found["status"] == 2 and "run `splitnn calibrate ./net" in found["error"]
    assert plan("--codecs", "raw,int8", calibrated=False)["status"] == 0, "asked for by name"


def test_profiles_calibrated_by_different_outputs_are_refused(place: Path, plan: Plan) -> None:
    def judge(host: str, answer: str | None) -> None:
        path = place / f"{host}-calibrated.json"
        profile = open_profile(path)
        assert profile.accuracy is not None
        write_profile(path, replace(profile, accuracy=replace(profile.accuracy, answer=answer)))

    judge("device", "output_1")
    assert plan("--max-accuracy-drop", "1%")["status"] == 0, "an older file does not say by what"
    judge("cloud", "output_0")
    found = plan("--max-accuracy-drop", "1%")
    assert found["status"] == 2 and "that of device by 'output_1', that of cloud by 'output_0'" in found["error"]
    assert "with the same --answer" in found["error"] and found["error"].count("\n") == 1
    assert plan("--max-accuracy-drop", "1%", "--codecs", "raw,zstd")["status"] == 0, "nothing lossy is read"
    judge("cloud", "output_1")
    assert plan("--max-accuracy-drop", "1%")["status"] == 0


def test_version_is_taken_when_it_is_better_and_loses_little_enough(plan: Plan) -> None:
    version = ("--version", "version=version-device.json,version-cloud.json")
    taken, refused = plan(*version, "--max-accuracy-drop", "0.3%"), plan(*version, "--max-accuracy-drop", "0.2%")
    assert taken["version"] == "version" and taken["lost_at_most"] == 0.003
    assert refused["version"] == "./net" and any("loses up to 0.30%" in line for line in refused["versions"])
    assert taken["predicted"]["total_s"] < refused["predicted"]["total_s"]


def test_version_planned_alone_must_meet_the_limit_too(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = [f"--{host}={place}/version-{host}.json" for host in ("device", "cloud")]
    command = ["plan", f"{place}/version", *hosts, "--link", "1Mbps/1ms"]
    assert main([*command, "--max-accuracy-drop", "0.2%"]) == 2
    assert "loses up to 0.30%, more than 0.20%" in capsys.readouterr().err
    assert main([*command, "--max-accuracy-drop", "0.3%"]) == 0
    assert "answers lost: at most 0.30%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-accuracy-drop", "half"), "no share of answers"),
        (("--max-accuracy-drop", "101%"), "no share of answers"),
        (("--version", "version"), "expected FOLDER=FILE"),
        (("--version", "version=version-device.json"), "a profile for each of device, cloud"),
        (("--version", "./net=device.json,cloud.json"), "made of nothing that it knows"),
        (("--version", "version=device.json,cloud.json"), "is of model"),
        (
            ("--version", "version=version-cloud.json,version-device.json"),
            "version-cloud.json was given for device but is a profile of cloud: exchange the files",
        ),
        (("--version", "version=raspberry-pi-4,cloud.json"), "is a preset, not a file that `splitnn profile` wrote"),
    ],
)
def test_bad_input_is_one_line(plan: Plan, arguments: tuple[str, ...], said: str) -> None:
    found = plan(*arguments)
    assert found["status"] == 2 and said in found["error"] and found["error"].count("\n") == 1


def test_share_is_read_with_and_without_percent() -> None:
    assert parse_share("0.5%") == parse_share("0.005") == 0.005
