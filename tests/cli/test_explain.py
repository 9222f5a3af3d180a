"""``splitnn explain``: every threshold that it states is where the planner changes its mind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splitnn.cli.main import BAD_INPUT, main
from splitnn.cli.sources import open_profile
from splitnn.cost.network import Host, Link, Topology, format_rate
from splitnn.cost.profile_file import write_profile as write_profile_file
from splitnn.graph.model import Model
from splitnn.planner.min_cut import plan
from splitnn.planner.plan import Plan
from tests.cli.two_host_files import MODEL, capture_once, write_files

HOSTS = ("--device", "device.json", "--cloud", "cloud.json")
CODECS = ("raw", "int8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    place = tmp_path_factory.mktemp("explain")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.chdir(place)
        capture_once(patch)
        yield write_files(place)


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["explain", MODEL, *HOSTS, *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def planned(model: Model, axis: dict[str, Any], value: float, *, link: Link) -> Plan:
    """The planner's answer when one condition has that value."""
    slowdown = {"device": 1.0, "cloud": 1.0}
    up = link
    if axis["change"] == "slowdown":
        slowdown[axis["of"]] = value
    elif axis["change"] == "bandwidth":
        up = Link(value, link.latency_s)
    else:
        up = Link(link.bandwidth_bps, value / 2)
    profiles = {host: open_profile(f"{host}.json") for host in slowdown}
    topology = Topology(tuple(Host(host, factor) for host, factor in slowdown.items()), (up,), (up,))
    return plan(model.graph, profiles, topology, codecs=CODECS, mode="fast")


@pytest.mark.parametrize(("rate", "trip_s"), [(40e3, 0.02), (400e3, 0.02), (2e6, 0.005), (50e6, 0.1)])
def test_each_threshold_is_where_the_planner_changes_its_mind(
    model: Model, capsys: pytest.CaptureFixture[str], rate: float, trip_s: float
) -> None:
    link = f"{rate / 1e3}kbps/{trip_s * 1e3}ms"
    found = explained(capsys, "--link", link, "--codecs", ",".join(CODECS))
    checked = 0
    for option in (found["chosen"], *found["others"]):
        for axis in option["axes"]:
            for low, high in axis["best_of_all"]:
                for edge, inwards in ((low, 1.0001), (high, 1 / 1.0001)):
                    if edge in (0.0, 10.0, 1e3, 1e12, 1e-3):  # of the axis
                        continue
                    inside = planned(model, axis, edge * inwards, link=Link(rate, trip_s / 2))
                    outside = planned(model, axis, edge / inwards, link=Link(rate, trip_s / 2))
                    assert list(inside.tiers) == option["tiers"] != list(outside.tiers)
                    checked += 1
    assert checked > 1


def test_parts_add_up_and_the_chosen_plan_is_the_planners(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "--link", "400kbps/20ms", "--codecs", "raw,int8")
    axis = {"change": "round trip", "of": "cloud"}
    best = planned(model, axis, 0.02, link=Link(400e3, 0.01))
    assert found["plan"]["id"] == best.id
    assert found["chosen"]["latency_s"] == pytest.approx(best.predicted.latency_s, abs=1e-7)
    for option in (found["chosen"], *found["others"]):
        assert sum(option["parts"].values()) == pytest.approx(option["latency_s"], rel=1e-9)
        assert option["latency_s"] >= found["chosen"]["latency_s"]
    alone = {tuple(sorted({*option["tiers"]})) for option in (found["chosen"], *found["others"])}
    assert {(0,), (1,)} <= alone, "no cut at all is always weighed"


def test_plan_and_explain_print_the_same_parts(
    model: Model, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    link, hosts = "400kbps/20ms", []
    for host in ("device", "cloud"):
        handled = replace(open_profile(f"{host}.json"), stage_s=3e-3, message_s=5e-4)
        write_profile_file(tmp_path / f"{host}.json", handled)
        hosts += [f"--{host}", str(tmp_path / f"{host}.json")]
    assert main(["explain", MODEL, *hosts, "--link", link, "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["chosen"]["parts"]
    assert main(["plan", MODEL, *hosts, "--link", link]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("predicted"))
    shown = dict(re.findall(r"(device|cloud|transfer|stages) ([0-9.]+)", line))
    assert parts["handling_s"] >= 3e-3
    assert float(shown["stages"]) == pytest.approx(parts["handling_s"] * 1e3, abs=0.006)
    assert float(shown["device"]) == pytest.approx(parts["device_s"] * 1e3, abs=0.006)
    assert float(shown["cloud"]) == pytest.approx(parts["cloud_s"] * 1e3, abs=0.006)
    between = sum(parts[f"{name}_s"] for name in ("encode", "wire", "round_trip", "decode", "download"))
    assert float(shown["transfer"]) == pytest.approx(between * 1e3, abs=0.006)


def test_bytes_to_win_make_the_alternative_as_quick(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "--link", "400kbps/20ms")
    options = [option for option in found["others"] if option["bytes_to_win"] is not None]
    assert options
    for option in options:
        saved_s = (option["sent_bytes"] - option["bytes_to_win"]) * 8 / 400e3
        assert option["latency_s"] - saved_s == pytest.approx(found["chosen"]["latency_s"], rel=1e-9)


def test_a_codec_that_is_not_allowed_is_named_with_its_gain(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "--link", "2Mbps/5ms", "--codecs", "raw")
    freed = explained(capsys, "--link", "2Mbps/5ms", "--codecs", "all")
    assert found["every_codec"]["latency_s"] == pytest.approx(freed["chosen"]["latency_s"], abs=1e-8)
    assert freed["every_codec"] is None


def test_report_says_why_what_must_change_and_how_sure(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", MODEL, *HOSTS, "--link", "400kbps/20ms"]) == 0
    printed = capsys.readouterr().out
    for words in ("chosen", "stays the best of all", "for another to win", "how sure", "probability 90%", "round trip"):
        assert words in printed


def test_sentences_have_the_numbers_of_the_json(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--link", "400kbps/20ms", "--codecs", "raw,int8")
    found = explained(capsys, *arguments)
    assert main(["explain", MODEL, *HOSTS, *arguments]) == 0
    printed = capsys.readouterr().out
    checked = 0
    for option in found["others"]:
        assert f"{option['name']}, now " in printed
        for axis in option["axes"]:
            for low, high in axis["best_of_all"]:
                if axis["change"] == "bandwidth" and low > 1e3 and high == 1e12:
                    assert f"best of all with the bandwidth above {format_rate(low)}" in printed
                    checked += 1
                if axis["change"] == "slowdown" and low > 1 and high == 1e3:
                    assert f"best of all with the {axis['of']} at least {low:.4g} times slower" in printed
                    checked += 1
    assert checked


def test_device_may_be_a_preset(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--device", "raspberry-pi-4", "--cloud", "cloud.json", "--link", "1Mbps/20ms", "--json")
    assert main(["explain", MODEL, *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"]["latency_s"] > 0


def test_profile_that_does_not_tell_its_error_leaves_the_answer_unsure(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["explain", MODEL, "--device", "device.json", "--cloud", "unsure.json", "--link", "1Mbps"]
    assert main(arguments) == 0
    assert "unknown: a profile does not tell its own error" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["interval_s"] is None


@pytest.mark.usefixtures("model")
def test_a_preset_says_what_of_it_nobody_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Its error is that of whole models, so that nothing is known of tails; the cloud's handling was not measured."""
    files = ("--device", "device.json", "--cloud", "raspberry-pi-4")
    for command, arguments in (("explain", files), ("plan", files)):
        assert main([command, MODEL, *arguments, "--link", "1Mbps/20ms"]) == 0
        printed = capsys.readouterr().out
        assert "the error of cloud's tails is unknown; that of its heads is taken for it" in printed
        assert "cloud is predicted, not measured: raspberry-pi-4" in printed
        assert "cloud: a stage's and a message's cost is not known" in printed
    assert main(["explain", MODEL, *HOSTS, "--link", "1Mbps/20ms", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["doubts"] == [], "both of them were measured"
    unsure = ("--device", "device.json", "--cloud", "unsure.json", "--link", "1Mbps")
    assert main(["explain", MODEL, *unsure]) == 0
    assert "the error of cloud is unknown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*HOSTS, "--link", "0Mbps"), "above 0"),
        ((*HOSTS, "--link", "1e400Mbps"), "finite"),
        ((*HOSTS, "--link", "1Mbps/-3ms"), "no time"),
        ((*HOSTS,), "--link"),
        ((*HOSTS, "--link", "1Mbps", "--codecs", "mp3"), "mp3"),
        (("--device", "device.json", "--cloud", "other.json", "--link", "1Mbps"), "is of model"),
        (("--device", "cloud.json", "--cloud", "device.json", "--link", "1Mbps"), "exchange the files"),
        (("--device", "toaster", "--cloud", "cloud.json", "--link", "1Mbps"), "raspberry-pi-4"),
        (("--device", "device.json", "--cloud", "absent.json", "--link", "1Mbps"), "absent.json"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    model: Model, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    try:
        status = main(["explain", MODEL, *arguments])
    except SystemExit as left:  # argparse leaves this way
        status = int(left.code or 0)
    printed = capsys.readouterr()
    assert (status, printed.out, len(printed.err.splitlines())) == (BAD_INPUT, "", 1)
    assert words in printed.err


def test_what_costs_nothing_is_compared_without_shares(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "--link", "1Mbps/20ms", "--objective", "bytes")
    assert found["chosen"]["worth"] == 0
    assert main(["explain", MODEL, *HOSTS, "--link", "1Mbps/20ms", "--objective", "bytes"]) == 0
    said = capsys.readouterr().out
    assert "no single change brings it nearer" in said and "+0.0%" not in said
    assert all(len(word) < 12 for word in said.split() if word.endswith("%"))


@pytest.mark.parametrize("price", ["1e-10", "3e-15"])
@pytest.mark.parametrize("command", ["explain", "envelope"])
def test_a_tiny_price_is_weighed_as_plan_weighs_it(
    model: Model, capsys: pytest.CaptureFixture[str], command: str, price: str
) -> None:
    goals = ["--objective", "cost", "--gigabyte", price, "--device-memory", "0.1KB", "--link", "1Mbps/20ms"]
    assert main(["plan", MODEL, *HOSTS, *goals, "--json"]) == 0
    taken_s = json.loads(capsys.readouterr().out)["predicted"]["total_s"]
    assert main([command, MODEL, *HOSTS, *goals, "--json"]) == 0  # steps of money too coarse for the price: a defect
    said = json.loads(capsys.readouterr().out)
    if command == "explain":
        assert said["plan"]["predicted"]["latency_ns"] == pytest.approx(taken_s * 1e9, abs=1)
    else:
        assert said["pieces"]
