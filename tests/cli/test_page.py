"""The page in a real browser: what it computes and shows is what the library says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from splitnn.cli.main import main
from splitnn.cli.sources import open_profile
from splitnn.cost.energy import energy_prices
from splitnn.cost.network import Host, Link, Topology
from splitnn.cost.power import device_power, radio
from splitnn.graph.model import Model
from splitnn.planner.choice import choose
from splitnn.planner.constraints import Constraints
from splitnn.planner.min_cut import plan
from splitnn.planner.objective import ENERGY
from tests.cli.two_host_files import MODEL, write_files

CODECS = ("raw", "int8")

pytestmark = pytest.mark.slow

# Nothing may leave this machine: the browser's own services included.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-default-apps", "--disable-sync", "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", "--window-size=1240,2100",
)  # fmt: skip

GOALS = ("--objective", "energy", "--private", "image", "--max-bytes", "900")

Show = Callable[..., str]


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium here: apt-get install chromium fonts-dejavu-core")
    return found


@pytest.fixture(scope="module")
def thrifty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Model]]:
    """The page of the least energy with the image kept private and a budget for traffic."""
    place = tmp_path_factory.mktemp("thrifty")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.chdir(place)
        model = write_files(place)
        hosts = ["--device", "device.json", "--cloud", "cloud.json", "--codecs", ",".join(CODECS)]
        assert main(["envelope", MODEL, *hosts, *GOALS, "--link", "1Mbps:4Mbps/20ms", "--html", "page.html"]) == 0
        yield place / "page.html", model


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Model]]:
    """The page of a small model, in a folder with its profiles."""
    place = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.chdir(place)
        model = write_files(place)
        hosts = ["--device", "device.json", "--cloud", "cloud.json", "--codecs", ",".join(CODECS)]
        assert main(["envelope", MODEL, *hosts, "--link", "1Mbps:4Mbps/20ms", "--html", "page.html"]) == 0
        yield place / "page.html", model


@pytest.fixture
def show(chromium: str, page: tuple[Path, Model], tmp_path: Path) -> Show:
    """The page's elements after its script ran, at an address; ``script`` runs after the page's own."""

    def run(fragment: str = "", *, script: str = "", flags: tuple[str, ...] = (), of: Path = page[0]) -> str:
        file = tmp_path / "page.html"
        content = of.read_text()
        file.write_text(content.replace("</body>", f"<script>{script}</script></body>") if script else content)
        command = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom", *flags]
        shown = subprocess.run(
            [*command, f"{file.as_uri()}{fragment}"], check=True, timeout=120, capture_output=True, text=True
        )
        return shown.stdout

    return run


def summary(dom: str) -> dict[str, str]:
    """What the page says in its data attributes."""
    opening = re.search(r'<p id="summary"[^>]*>', dom)
    assert opening, "the page's script did not run to its end"
    return dict(re.findall(r'data-([a-z-]+)="([^"]*)"', opening[0]))


@pytest.mark.parametrize(
    ("bandwidth", "round_trip", "load"), [(30e3, 0.02, 1), (400e3, 0.02, 1), (2e6, 0.001, 4), (9e6, 0.3, 0.5)]
)
def test_page_computes_what_the_planner_says(
    page: tuple[Path, Model], show: Show, bandwidth: float, round_trip: float, load: float
) -> None:
    folder, model = page[0].parent, page[1]
    dom = show(f"#bandwidth={bandwidth}bps&round_trip={round_trip * 1e3}ms&load={load}")
    profiles = {host: open_profile(folder / f"{host}.json") for host in ("device", "cloud")}
    topology = Topology(
        (Host("device"), Host("cloud", load)),
        (Link(bandwidth, round_trip / 2),),
        (Link(bandwidth * 4, round_trip / 2),),
    )
    best = plan(model.graph, profiles, topology, codecs=CODECS)
    assert float(summary(dom)["latency-s"]) == pytest.approx(best.predicted.latency_s, abs=1e-7)


@pytest.mark.parametrize(
    ("bandwidth", "round_trip", "load"), [(30e3, 0.02, 1), (2e6, 0.001, 4), (9e6, 0.3, 0.5), (1e9, 0.0, 1)]
)
def test_page_with_goals_shows_the_plan_that_obeys_and_needs_least(
    thrifty: tuple[Path, Model], show: Show, bandwidth: float, round_trip: float, load: float
) -> None:
    folder, model = thrifty[0].parent, thrifty[1]
    dom = show(f"#bandwidth={bandwidth}bps&round_trip={round_trip * 1e3}ms&load={load}", of=thrifty[0])
    profiles = {host: open_profile(folder / f"{host}.json") for host in ("device", "cloud")}
    topology = Topology(
        (Host("device"), Host("cloud", load)),
        (Link(bandwidth, round_trip / 2),),
        (Link(bandwidth * 4, round_trip / 2),),
    )
    prices = energy_prices(
        device_power("raspberry-pi-4"), radio("wifi-pixel-2-xl"), up=topology.up[0], down=topology.down[0]
    )
    best = choose(
        model.graph,
        profiles,
        topology,
        objective=ENERGY,
        constraints=Constraints(private=("image",), max_bytes=900),
        codecs=CODECS,
        mode="fast",
        energy=prices,
    )
    shown = summary(dom)
    assert float(shown["worth"]) == pytest.approx(best.value, rel=1e-5)
    assert float(shown["latency-s"]) == pytest.approx(best.plan.predicted.latency_s, rel=1e-5)
    assert "Energy against bandwidth" in dom and "modelled and not measured" in dom
    assert "privacy of tensor" in dom and "ruled out" in dom


def test_slider_moves_everything_by_keyboard_steps(show: Show) -> None:
    """``stepUp`` is what an arrow key does to a slider."""
    moves = "for (let i = 0; i < 450; i++) slider.stepUp();"
    script = f"const slider = byId('bandwidth'); {moves} slider.dispatchEvent(new Event('input'));"
    start, dom = show("#bandwidth=20kbps"), show("#bandwidth=20kbps", script=script)
    assert float(summary(dom)["latency-s"]) < float(summary(start)["latency-s"])
    assert summary(dom)["plan"] != summary(start)["plan"]
    for part in ("model", "bars", "chart", "plans"):
        drawn = [re.search(rf'id="{part}".*?</(svg|table)>', each, re.DOTALL) for each in (start, dom)]
        assert drawn[0] and drawn[1] and drawn[0][0] != drawn[1][0], part


def test_text_that_is_no_rate_is_marked_and_changes_nothing(show: Show) -> None:
    script = "const t = byId('bandwidth-text'); t.value = '5 apples'; t.dispatchEvent(new Event('change'));"
    dom = show("#bandwidth=300kbps", script=script)
    assert summary(dom) == summary(show("#bandwidth=300kbps"))
    assert re.search(r'id="bandwidth-text"[^>]*aria-invalid="true"', dom)


def test_address_that_is_nonsense_shows_the_usual_link(show: Show) -> None:
    assert summary(show("#bandwidth=-1&load=x&round_trip=1h&other=2")) == summary(show())


def test_table_has_the_rows_of_the_command(
    page: tuple[Path, Model], show: Show, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = ["--device", "device.json", "--cloud", "cloud.json", "--codecs", ",".join(CODECS)]
    assert main(["envelope", MODEL, *hosts, "--link", "1Mbps:4Mbps/20ms", "--json"]) == 0
    pieces = json.loads(capsys.readouterr().out)["pieces"]
    table = re.search(r'id="plans".*?</table>', show(), re.DOTALL)
    assert table
    assert re.findall(r'<td class="text">([^<]*)</td>', table[0]) == [piece["name"] for piece in pieces]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_is_painted_in_both_themes(show: Show, tmp_path: Path, theme: str) -> None:
    """The picture has the hosts' colours in it, on a ground that fits the theme."""
    picture = tmp_path / "page.png"
    forced = ("--blink-settings=preferredColorScheme=0",) if theme == "dark" else ()
    show("#bandwidth=400kbps", flags=(*forced, "--hide-scrollbars", f"--screenshot={picture}"))
    with Image.open(picture) as image:
        pixels = image.convert("RGB")
        colours = {colour for _, colour in pixels.getcolors(1 << 24) or ()}
        ground = pixels.getpixel((3, 3))
    device, cloud = (
        ((0xEE, 0x8A, 0x48), (0x6E, 0xA0, 0xF2)) if theme == "dark" else ((0xD9, 0x66, 0x1F), (0x2F, 0x6B, 0xD0))
    )
    assert {device, cloud} <= colours
    assert isinstance(ground, tuple) and (max(ground) < 64) == (theme == "dark")
