"""``splitnn profile`` and ``splitnn plan``: what they write is what the library reads, and bad input is one line."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splitnn.cli import plan as plan_command
from splitnn.cli.blocks import blocks_of
from splitnn.cli.main import BAD_INPUT, BROKEN_PIPE, COMMANDS, INTERRUPTED, main
from splitnn.cli.sources import open_model, open_profile
from splitnn.cost.estimate import estimate
from splitnn.cost.network import Topology
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.graph.model import Model
from splitnn.planner.plan import Plan
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

def other():
    return nn.Linear(3, 3), (torch.randn(1, 3),)
"""


def known_profile(model: Model, host: str, seconds: float) -> Profile:
    """Every layer takes so long; codecs cost nothing but bytes."""
    sizes = {name: spec.size_bytes for name, spec in model.graph.tensors.items()}
    codecs = {name: {"raw": CodecCost(size, 0, 0), "int8": CodecCost(size // 4, 0, 0)} for name, size in sizes.items()}
    codecs["image"] = {"raw": CodecCost(sizes["image"], 0, 0), "jpeg90": CodecCost(sizes["image"] // 3, 0, 0)}
    layers = {layer.name: Timing(seconds, seconds) for layer in model.graph.layers}
    whole = Timing(seconds * len(layers), seconds * len(layers))
    return Profile(model.digest, host, layers, whole, codecs=codecs, error=0.02)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Model]]:
    """A user's module, and profiles of a slow device, a quick edge and a quicker cloud; captured once."""
    place = tmp_path_factory.mktemp("workplace")
    (place / "cli_models.py").write_text(FACTORY)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        capture_once(patch)
        model = open_model("cli_models:photo")
        for host, seconds in (("device", 8e-3), ("edge", 2e-3), ("cloud", 1e-3)):
            (place / f"{host}.json").write_text(json.dumps(known_profile(model, host, seconds).to_json()))
        yield place, model


@pytest.fixture
def folder(workplace: tuple[Path, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a copy of all that."""
    shutil.copytree(workplace[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hosts(workplace: tuple[Path, Model], folder: Path) -> Model:
    """The model whose profiles lie in the working directory."""
    return workplace[1]


def plan_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", "cli_models:photo", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


TWO = ("--device", "device.json", "--cloud", "cloud.json")


def test_profile_writes_what_plan_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "cli_models:photo", "-o", "p.json", "--host", "lab", "--repeats", "3", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    found = open_profile("p.json")
    model = open_model("cli_models:photo")
    found.check_fits(model.graph, model.digest)
    assert (found.host, summary["digest"]) == ("lab", model.digest)
    assert {"raw", "png", "jpeg90"} <= found.codecs["image"].keys()
    assert sum(block["seconds"] for block in summary["blocks"]) == pytest.approx(found.whole.cpu_s)
    assert not list(folder.glob("*.part"))
    assert main(["plan", "cli_models:photo", "--device", "p.json", "--cloud", "p.json", "--link", "1Gbps"]) == 0


def test_profile_prints_the_whole_the_error_and_the_slowest_blocks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--repeats", "3", "--codecs", "none", "--slowdown", "4"]
    assert main(["profile", "cli_models:photo", "-o", "p.json", *arguments]) == 0
    printed = capsys.readouterr().out
    for words in ("whole model", "simulated 4 times slower", "prediction error", "drift", "features.0", "wrote p.json"):
        assert words in printed
    assert not any(open_profile("p.json").codecs.values())


@pytest.mark.parametrize("link", ["100kbps/5ms", "2Mbps/20ms", "2Mbps:20Mbps/40ms", "10Gbps"])
def test_plan_is_the_estimate_and_beats_what_it_shows(
    hosts: Model, capsys: pytest.CaptureFixture[str], link: str
) -> None:
    found = plan_json(capsys, *TWO, "--link", link, "--codecs", "raw,int8")
    best = Plan.from_json(found["plan"])
    profiles = {host: open_profile(f"{host}.json") for host in ("device", "cloud")}
    topology = Topology.chain(["device", "cloud"], [link])
    cost = estimate(hosts.graph, best.placement, profiles, topology, codecs=("raw", "int8"))
    assert cost == best.predicted
    assert found["predicted"]["total_s"] == cost.latency_s
    rivals = [*found["alternatives"], *(b for b in found["baselines"] if "jpeg" not in b["name"])]
    assert all(rival["total_s"] >= cost.latency_s for rival in rivals)
    assert {baseline["name"] for baseline in found["baselines"]} == {
        "all on device", "all on cloud, input as raw", "all on cloud, input as jpeg90"
    }  # fmt: skip


def test_plan_prints_where_layers_run_and_a_line_that_parses_back(
    hosts: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "cli_models:photo", *TWO, "--link", "2Mbps/1ms", "--codecs", "raw,int8"]) == 0
    printed = capsys.readouterr().out
    assert all(words in printed for words in ("device", "cloud", "predicted", "best other cuts", "without a cut"))
    line = printed.splitlines()[-1]
    assert Plan.parse(line, hosts.graph, model=hosts.digest).id in printed.splitlines()[0]


def test_plan_takes_a_chain_of_any_length(hosts: Model, capsys: pytest.CaptureFixture[str]) -> None:
    chain = [f"--host={host}={host}.json" for host in ("device", "edge", "cloud")]
    found = plan_json(capsys, *chain, "--link", "1Gbps/1ms", "--link", "1Gbps/1ms")
    assert found["plan"]["hosts"] == ["device", "edge", "cloud"]
    assert len(found["plan"]["hops"]) == 2


def test_profile_under_a_name_that_no_host_has_may_stand_for_any(
    hosts: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan_json(capsys, "--host=phone=device.json", "--host=server=cloud.json", "--link", "2Mbps")
    assert found["plan"]["hosts"] == ["phone", "server"]
    assert plan_json(capsys, "--device", "edge.json", *TWO[2:], "--link", "2Mbps")


def test_lossy_codecs_make_the_plan_inexact_only_where_they_are_allowed(
    hosts: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan_json(capsys, *TWO, "--link", "2Mbps")["plan"]["mode"] == "exact"
    assert plan_json(capsys, *TWO, "--link", "2Mbps", "--codecs", "raw,int8")["plan"]["mode"] == "fast"


def test_a_profile_of_another_model_is_refused_by_its_digest(
    hosts: Model, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    altered = replace(open_profile("device.json"), model="00" * 32)
    (folder / "altered.json").write_text(json.dumps(altered.to_json()))
    assert main(["plan", "cli_models:photo", "--device", "altered.json", *TWO[2:], "--link", "2Mbps"]) == BAD_INPUT
    printed = capsys.readouterr()
    assert hosts.digest[:12] in printed.err
    assert len(printed.err.splitlines()) == 1


PLAN = ("plan", "cli_models:photo")
PROFILE = ("profile", "cli_models:photo")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*PLAN, *TWO, "--link", "NaNMbps"), "NaNMbps"),
        ((*PLAN, *TWO, "--link", "0Mbps/20ms"), "0Mbps"),
        ((*PLAN, *TWO, "--link", "10Mbps/-1ms"), "-1ms"),
        ((*PLAN, *TWO, "--link", "10 parsecs"), "parsecs"),
        ((*PLAN, *TWO, "--link", "1Mbps", "--link", "1Mbps"), "need 1 --link, not 2"),
        ((*PLAN, *TWO), "--link"),
        ((*PLAN, "--device", "device.json", "--link", "1Mbps"), "--cloud"),
        ((*PLAN, *TWO, "--host", "edge=edge.json", "--link", "1Mbps"), "one or the other"),
        ((*PLAN, "--host", "edge", "--link", "1Mbps"), "NAME=FILE"),
        ((*PLAN, "--host", "a=device.json", "--link", "1Mbps"), "1 host (a) leaves nothing to divide"),
        ((*PLAN, *TWO, "--link", "1Mbps", "--pareto-of", "latency,bytes"), "give --pareto, too"),
        ((*PLAN, "--host", "a=device.json", "--host", "a=cloud.json", "--link", "1Mbps"), "'a' already"),
        ((*PLAN, "--host", "a b=device.json", "--host", "c=cloud.json", "--link", "1Mbps"), "'a b'"),
        ((*PLAN, "--device", "nowhere.json", "--cloud", "cloud.json", "--link", "1Mbps"), "nowhere.json"),
        (
            (*PLAN, "--device", "cloud.json", "--cloud", "device.json", "--link", "1Mbps"),
            "cloud.json was given for device but is a profile of cloud: exchange the files",
        ),
        (
            (*PLAN, "--device", "raspberry-pi-4", "--cloud", "device.json", "--link", "1Mbps"),
            "device.json was given for cloud but is a profile of device",
        ),
        ((*PLAN, "--device", ".", "--cloud", "cloud.json", "--link", "1Mbps"), ".:"),
        (
            (*PLAN, "--device", "cli_models.py", "--cloud", "cloud.json", "--link", "1Mbps"),
            "cli_models.py: not a profile",
        ),
        ((*PLAN, "--device", "list.json", "--cloud", "cloud.json", "--link", "1Mbps"), "list.json: not a profile"),
        ((*PLAN, *TWO, "--link", "1Mbps", "--codecs", "raw,gif"), "gif"),
        (("plan", "cli_models:other", *TWO, "--link", "1Mbps"), "device"),
        (("plan", "cli_models:nothing", *TWO, "--link", "1Mbps"), "nothing"),
        (("profile", "no_such_model", "-o", "p.json"), "no_such_model"),
        (PROFILE, "-o"),
        ((*PROFILE, "-o", "nowhere/p.json"), "nowhere"),
        ((*PROFILE, "-o", "."), "directory"),
        ((*PROFILE, "-o", "p.json", "--host", "a b"), "'a b'"),
        ((*PROFILE, "-o", "p.json", "--threads", "0"), "'0'"),
        ((*PROFILE, "-o", "p.json", "--repeats", "many"), "'many'"),
        ((*PROFILE, "-o", "p.json", "--slowdown", "nan"), "'nan'"),
        ((*PROFILE, "-o", "p.json", "--codecs", "gif"), "gif"),
        ((*PROFILE, "-o", "p.json", "--threads", "2", "--clock", "cpu"), "one thread"),
        ((*PROFILE, "-o", "p.json", "--torch-device", "abacus"), "abacus"),
        ((), "COMMAND"),
        (("juggle",), "juggle"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    hosts: Model, folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    (folder / "list.json").write_text("[]")
    try:
        status = main(arguments)
    except SystemExit as left:  # argparse leaves this way
        status = int(left.code or 0)
    printed = capsys.readouterr()
    assert status == BAD_INPUT
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert words in printed.err
    assert not (folder / "p.json").exists()


def test_an_interrupt_is_one_line(
    hosts: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan_command, "open_model", interrupted)
    assert main([*PLAN, *TWO, "--link", "1Mbps"]) == INTERRUPTED
    assert capsys.readouterr().err == "splitnn plan: interrupted\n"


@pytest.mark.parametrize("command", [command.__name__.rpartition(".")[2] for command in COMMANDS])  # type: ignore[attr-defined]
def test_help_explains_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_help_needs_no_torch() -> None:
    code = "import sys, splitnn.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "splitnn", "models", "--json"]
    with os.fdopen(writer, "wb") as stdout:
        left = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (left.returncode, left.stderr) == (BROKEN_PIPE, b"")


def test_blocks_are_few_and_hold_every_layer(hosts: Model) -> None:
    blocks = blocks_of(hosts.graph)
    assert list(blocks) == [layer.name for layer in hosts.graph.layers]
    assert {"features.0", "features.2", "head"} <= set(blocks.values())


def test_no_number_in_a_profile_is_nan(hosts: Model, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = open_profile("device.json").to_json()
    data["layers"][next(iter(data["layers"]))][1] = math.nan
    (folder / "device.json").write_text(json.dumps(data))
    assert main([*PLAN, *TWO, "--link", "1Mbps"]) == BAD_INPUT
    assert "no usable time" in capsys.readouterr().err
