"""``splitnn envelope``: its rows are what the planner says at each bandwidth, and bad input is one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from splitnn.cli.main import BAD_INPUT, main
from splitnn.cli.sources import open_profile
from splitnn.cost.network import Link, Topology
from splitnn.graph.model import Model
from splitnn.planner.min_cut import plan
from tests.cli.two_host_files import MODEL, capture_once, write_files

HOSTS = ("--device", "device.json", "--cloud", "cloud.json")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    place = tmp_path_factory.mktemp("envelope")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.chdir(place)
        capture_once(patch)
        yield write_files(place)


def pieces(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["envelope", MODEL, *HOSTS, *arguments, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["pieces"]
    return found


@pytest.mark.parametrize("link", ["1Mbps/20ms", "1Mbps:4Mbps/2ms", "7Mbps"])
def test_inside_each_row_the_planner_says_the_same(model: Model, capsys: pytest.CaptureFixture[str], link: str) -> None:
    found = pieces(capsys, "--link", link, "--codecs", "raw,int8,jpeg90")
    assert len(found) > 2
    assert [found[0]["low_bps"], found[-1]["high_bps"]] == [1e4, 1e10]
    profiles = {host: open_profile(f"{host}.json") for host in ("device", "cloud")}
    usual = Topology.chain(["device", "cloud"], [link])
    ratio = usual.down[0].bandwidth_bps / usual.up[0].bandwidth_bps
    for piece in found:
        bandwidth_bps = math.sqrt(piece["low_bps"] * piece["high_bps"])
        up, down = (Link(rate, usual.up[0].latency_s) for rate in (bandwidth_bps, bandwidth_bps * ratio))
        best = plan(
            model.graph,
            profiles,
            Topology(usual.hosts, (up,), (down,)),
            codecs=("raw", "int8", "jpeg90"),
            mode="fast",
        )
        assert piece["plan"]["id"] == best.id
        assert piece["sent_bytes"] == best.predicted.sent_bytes
    for lower, upper in pairwise(found):
        assert lower["high_bps"] == upper["low_bps"]
        assert lower["latency_s"][1] == pytest.approx(upper["latency_s"][0], rel=1e-9)
    for piece in found:
        for parts, seconds in zip(piece["parts"], piece["latency_s"], strict=True):
            assert sum(parts.values()) == pytest.approx(seconds, rel=1e-6)


def test_limits_cut_the_range(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    found = pieces(capsys, "--low", "1Mbps", "--high", "2Mbps")
    assert [found[0]["low_bps"], found[-1]["high_bps"]] == [1e6, 2e6]


def test_table_names_every_plan_and_the_page_is_written(
    model: Model, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = [piece["name"] for piece in pieces(capsys)]
    page = tmp_path / "page.html"
    assert main(["envelope", MODEL, *HOSTS, "--html", str(page)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    assert printed.endswith(f"wrote {page}\n")
    written = page.read_text()
    assert all(name in written for name in names)
    assert "{{" not in written


def test_page_loads_nothing_from_elsewhere(model: Model, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["envelope", MODEL, *HOSTS, "--html", str(page)]) == 0
    written = page.read_text().replace("http://www.w3.org/2000/svg", "")
    assert "default-src 'none'" in written
    assert not [word for word in ("http:", "https:", "src=", "url(http", "@import", "<link") if word in written]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*HOSTS, "--low", "0Mbps"), "above 0"),
        ((*HOSTS, "--high", "inf"), "no rate"),
        ((*HOSTS, "--high", "1e400Gbps"), "finite"),
        ((*HOSTS, "--low", "2Mbps", "--high", "1Mbps"), "must be below"),
        ((*HOSTS, "--link", "0Mbps/20ms"), "above 0"),
        ((*HOSTS, "--html", "absent/page.html"), "absent"),
        ((*HOSTS, "--html", "."), "directory"),
        (("--device", "device.json"), "--cloud"),
        ((*HOSTS, "--objective", "throughput"), "ask `splitnn plan`"),
        ((*HOSTS, "--deadline", "1us"), "; at the link given it is device - |"),
        (("--device", "device.json", "--cloud", "other.json"), "is of model"),
        (("--device", "cloud.json", "--cloud", "device.json"), "exchange the files"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    model: Model, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    try:
        status = main(["envelope", MODEL, *arguments])
    except SystemExit as left:  # argparse leaves this way
        status = int(left.code or 0)
    printed = capsys.readouterr()
    assert (status, printed.out, len(printed.err.splitlines())) == (BAD_INPUT, "", 1)
    assert words in printed.err
