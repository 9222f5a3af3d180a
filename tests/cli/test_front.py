"""``splitnn plan --pareto``: its rows, its JSON and its picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from splitnn.cli.main import BAD_INPUT, main
from splitnn.graph.model import Model
from tests.cli.two_host_files import MODEL, capture_once, write_files

PLAN = (
    "plan",
    MODEL,
    "--device",
    "device.json",
    "--cloud",
    "cloud.json",
    "--codecs",
    "raw,int8",
    "--link",
    "2Mbps/5ms",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    place = tmp_path_factory.mktemp("front")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.chdir(place)
        capture_once(patch)
        yield write_files(place)


@pytest.mark.parametrize("pair", ["latency,energy", "cost,throughput", "latency,bytes"])
@pytest.mark.usefixtures("model")
def test_the_front_goes_from_the_best_of_one_goal_to_the_best_of_the_other(
    capsys: pytest.CaptureFixture[str], pair: str
) -> None:
    prices = ("--server-hour", "1", "--gigabyte", "0.1")
    ends = []
    for name in pair.split(","):
        assert main([*PLAN, *prices, "--objective", name, "--json"]) == 0
        ends.append(json.loads(capsys.readouterr().out)["choice"]["value"])
    assert main([*PLAN, *prices, "--pareto", "--pareto-of", pair, "--json"]) == 0
    front = json.loads(capsys.readouterr().out)["front"]
    assert front["pair"] == pair.split(",")
    points = [(point["first"], point["second"]) for point in front["points"]]
    assert points[0][0] == pytest.approx(ends[0]) and points[-1][1] == pytest.approx(ends[1])
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(points))


@pytest.mark.usefixtures("model")
def test_the_picture_is_written_and_the_rows_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "front.png"
    assert main([*PLAN, "--pareto", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert "front of latency against energy" in printed and "joules modelled" in printed
    with Image.open(picture) as image:
        assert image.format == "PNG" and len(image.convert("RGB").getcolors(1 << 24) or ()) > 10


@pytest.mark.usefixtures("model")
def test_budgets_do_not_cut_the_front_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN, "--pareto", "--max-bytes", "900"]) == 0
    bounded = capsys.readouterr().out
    assert main([*PLAN, "--pareto"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if " J  " in line]
    assert "without the limits of the traffic" in bounded and all(row in bounded for row in rows)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--pareto", "--pareto-of", "latency"), "expected two goals"),
        (("--pareto", "--pareto-of", "latency,speed"), "a front is of two of latency"),
        (("--pareto", "--pareto-of", "latency,cost"), "Tariff"),
        (("--pareto", "absent/front.png"), "absent"),
        (("--pareto", "front.mp3"), "mp3"),
    ],
)
@pytest.mark.usefixtures("model")
def test_bad_fronts_are_one_line(arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main([*PLAN, *arguments]) == BAD_INPUT
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert words in printed.err
