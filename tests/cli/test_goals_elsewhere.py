"""``splitnn explain`` and ``splitnn envelope`` take the goals of ``splitnn plan``, and say what it says."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splitnn.cli.main import BAD_INPUT, main
from splitnn.graph.model import Model
from tests.cli.two_host_files import MODEL, capture_once, write_files

HOSTS = ("--device", "device.json", "--cloud", "cloud.json", "--codecs", "raw,int8,jpeg90")
PRICES = ("--server-hour", "1", "--gigabyte", "0.1")
GOALS = [
    ("--objective", "energy"),
    ("--objective", "energy", "--radio", "lte"),
    ("--objective", "cost", *PRICES),
    ("--weights", "latency=1,energy=0.2"),
    ("--private", "image"),
    ("--keep-on-device", "features.0"),
    ("--forbid", "relu=device"),
    ("--max-bytes", "900"),
    ("--device-memory", "9KB"),
    ("--objective", "energy", "--max-bytes", "900", "--private", "image"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    place = tmp_path_factory.mktemp("goals_elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.chdir(place)
        capture_once(patch)
        yield write_files(place)


def answer(capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> dict[str, Any]:
    assert main([command, MODEL, *HOSTS, *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("goals", GOALS, ids=" ".join)
@pytest.mark.usefixtures("model")
def test_explain_chooses_the_plan_of_the_plan_command(
    goals: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    for link in ("100kbps/20ms", "2Mbps:8Mbps/5ms"):
        planned = answer(capsys, "plan", "--link", link, *goals)
        explained = answer(capsys, "explain", "--link", link, *goals)
        assert explained["chosen"]["worth"] == pytest.approx(planned["choice"]["value"], rel=1e-6)
        assert explained["plan"]["id"] == planned["plan"]["id"]
        assert explained["gap"] == 0


@pytest.mark.parametrize("goals", GOALS, ids=" ".join)
@pytest.mark.usefixtures("model")
def test_inside_each_row_of_the_envelope_the_plan_command_says_the_same(
    goals: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "envelope", "--link", "1Mbps:4Mbps/20ms", *goals)
    assert found["gap"] == 0 and [found["low_bps"], found["high_bps"]] == [1e4, 1e10]
    for piece in found["pieces"]:
        rate = math.sqrt(piece["low_bps"] * piece["high_bps"])
        planned = answer(capsys, "plan", "--link", f"{rate!r}bps:{4 * rate!r}bps/20ms", *goals)
        assert piece["plan"]["id"] == planned["plan"]["id"]
        for edge, worth in zip((piece["low_bps"], piece["high_bps"]), piece["worth"], strict=True):
            planned = answer(capsys, "plan", "--link", f"{edge!r}bps:{4 * edge!r}bps/20ms", *goals)
            assert planned["choice"]["value"] == pytest.approx(worth, rel=1e-6)


@pytest.mark.usefixtures("model")
def test_the_deadline_is_met_from_exactly_the_bandwidth_that_the_envelope_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rate = answer(capsys, "envelope", "--deadline", "60ms")["deadline_from_bps"]
    assert 1e4 < rate < 1e10
    latency_s = answer(capsys, "plan", "--link", f"{rate!r}bps/20ms")["predicted"]["total_s"]
    assert latency_s == pytest.approx(0.06, rel=1e-6)
    assert main(["plan", MODEL, *HOSTS, "--link", f"{rate / 1.001!r}bps/20ms", "--deadline", "60ms"]) == BAD_INPUT
    assert main(["plan", MODEL, *HOSTS, "--link", f"{rate * 1.001!r}bps/20ms", "--deadline", "60ms"]) == 0


@pytest.mark.usefixtures("model")
def test_a_binding_constraint_gains_what_explain_says_from_where_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    link = ("--link", "2Mbps/5ms")
    found = answer(capsys, "explain", *link, "--max-bytes", "300", "--private", "features.0")
    binding = {each["constraint"]: each for each in found["binding"]}["the traffic"]
    without = answer(capsys, "plan", *link, "--private", "features.0")
    assert binding["worth_without"] == pytest.approx(without["predicted"]["total_s"], abs=1e-8)
    enough, unit = binding["gains_from"].split()
    assert unit == "bytes" and int(enough) > 300
    before = answer(capsys, "plan", *link, "--private", "features.0", "--max-bytes", str(int(enough) - 1))
    after = answer(capsys, "plan", *link, "--private", "features.0", "--max-bytes", enough)
    assert before["predicted"]["total_s"] == pytest.approx(found["chosen"]["latency_s"], abs=1e-7)
    assert after["predicted"]["total_s"] < before["predicted"]["total_s"]


@pytest.mark.usefixtures("model")
def test_a_constraint_that_costs_nothing_does_not_bind(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "explain", "--link", "1kbps/5ms", "--max-bytes", "1MB", "--private", "image")["binding"] == []
    assert main(["explain", MODEL, *HOSTS, "--link", "1kbps/5ms", "--max-bytes", "1MB"]) == 0
    assert "none: without them the plan would be as good" in capsys.readouterr().out


@pytest.mark.usefixtures("model")
def test_what_a_constraint_rules_out_is_shown_and_said_why(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "explain", "--link", "100Mbps/1ms", "--private", "image")
    cloud = next(each for each in found["others"] if set(each["tiers"]) == {1})
    assert "private tensor 'image'" in cloud["obstacles"][0] and cloud["axes"] == []


@pytest.mark.usefixtures("model")
def test_a_deadline_that_decides_beside_energy_leaves_no_thresholds(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--link", "2Mbps/5ms", "--objective", "energy", "--radio", "lte", "--deadline", "60ms")
    found = answer(capsys, "explain", *arguments)
    planned = answer(capsys, "plan", *arguments)
    assert found["plan"]["id"] == planned["plan"]["id"] and not found["thresholds_stated"]
    assert found["binding"][0]["constraint"] == "the deadline"
    assert main(["explain", MODEL, *HOSTS, *arguments]) == 0
    assert "thresholds are not stated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        ("explain", ("--objective", "throughput"), "not a sum"),
        ("envelope", ("--objective", "throughput"), "not a sum"),
        ("envelope", ("--objective", "energy", "--deadline", "1s"), "splitnn plan"),
        ("envelope", ("--max-energy", "1"), "splitnn plan"),
        ("envelope", ("--deadline", "1us"), "no plan meets the deadline of 1 us"),
        ("envelope", ("--max-bytes", "1", "--private", "image", "--device-memory", "1KB"), "the nearest one exceeds"),
        ("explain", ("--deadline", "1us"), "exceeds the deadline of 0.001 ms by"),
        ("explain", ("--keep-on-device", "head", "--forbid", "conv2d=device"), "data never flows back"),
        ("explain", ("--max-energy", "-1"), "the energy is limited"),
        ("plan", ("--max-energy", "1e-9"), "exceeds the energy of 1e-09 J by"),
    ],
)
@pytest.mark.usefixtures("model")
def test_bad_goals_are_one_line(
    command: str, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, MODEL, *HOSTS, "--link", "1Mbps/10ms", *arguments]) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert words in printed.err


@pytest.mark.usefixtures("model")
def test_the_page_names_the_goals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["envelope", MODEL, *HOSTS, "--objective", "energy", "--private", "image", "--html", str(page)]) == 0
    written = page.read_text()
    assert "privacy of tensor 'image'" in written.replace('\\"', '"') and '"unit": "J"' in written
    assert "modelled" in capsys.readouterr().out
