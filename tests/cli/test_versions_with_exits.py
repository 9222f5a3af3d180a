"""``splitnn plan --version`` where MODEL, versions or all of them have exits: the best of what each gives alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from splitnn.cli.main import BAD_INPUT, main
from splitnn.cli.sources import open_model
from splitnn.cost.accuracy import policy_drop
from splitnn.graph.package import load
from splitnn.zoo.fashion import sample_images
from tests.cli.two_host_files import MODEL, capture_once, write_files, write_profile

HOSTS = ("device", "cloud")


def write_profiles(place: Path, model: str, name: str, *, slower: float = 1.0) -> None:
    for host, slowdown in (("device", 8.0), ("cloud", 1.0)):
        found = open_model(model)
        write_profile(place / f"{name}-{host}.json", found, host=host, slowdown=slowdown * slower, error=0.02)


@dataclass(frozen=True)
class Fashion:
    """``fashion_exits``, with its versions of int8 weights and of fewer channels, one of them without its exits."""

    capsys: pytest.CaptureFixture[str]

    def plan(self, model: str, *versions: str, more: tuple[str, ...]) -> dict[str, Any] | str:
        """What `plan` answers, or the error."""
        self.capsys.readouterr()
        hosts = [f"--{host}={model.lstrip('./')}-{host}.json" for host in HOSTS]
        given = [word for each in versions for word in ("--version", f"./{each}={each}-device.json,{each}-cloud.json")]
        status = main(["plan", model, *hosts, "--link", "2Mbps/5ms", "--codecs", "raw", "--json", *given, *more])
        said = self.capsys.readouterr()
        assert not status or said.err.count("\n") == 1
        return said.err if status else dict(json.loads(said.out))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    place = tmp_path_factory.mktemp("fashion")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        capture_once(patch)
        images, labels = sample_images()
        save_file({"image": images.contiguous(), "labels": labels}, "some.safetensors")
        given = ("compress", "fashion_exits", "--data", "some.safetensors")
        assert main([*given, "--method", "int8-weights", "--out", "eight"]) == 0
        assert main([*given, "--method", "prune", "--flops", "0.8", "--steps", "5", "--out", "pruned"]) == 0
        write_profiles(place, "fashion_exits", "fashion_exits", slower=1.2)
        write_profiles(place, "./eight", "eight", slower=1.1)
        write_profiles(place, "./pruned", "pruned")
        yield


@pytest.fixture
def fashion(packages: None, capsys: pytest.CaptureFixture[str]) -> Fashion:
    return Fashion(capsys)


def test_best_of_fashion_exits_and_its_versions_is_the_best_of_each_alone(fashion: Fashion) -> None:
    winners = set()
    names = ("fashion_exits", "./eight", "./pruned")
    for allowed in ("0.1%", "0.5%", "8%", "30%"):
        for deadline in ((), ("--deadline", "0.5s"), ("--deadline", "150ms"), ("--deadline", "9ms")):
            more = ("--max-accuracy-drop", allowed, *deadline)
            alone = {name: fashion.plan(name, more=more) for name in names}
            found = fashion.plan("fashion_exits", "eight", "pruned", more=more)
            planned = {name: each for name, each in alone.items() if not isinstance(each, str)}
            if not planned:
                assert isinstance(found, str) and all(name in found for name in names)
                continue
            assert not isinstance(found, str)
            quickest = min(planned, key=lambda name: planned[name]["predicted"]["total_s"])
            assert found["version"] == quickest
            for key in ("plan", "predicted", "policies", "exits", "lost_at_most"):
                assert found[key] == planned[quickest][key]
            winners.add(quickest)
    assert len(winners) > 1


def test_with_a_deadline_alone_the_most_accurate_in_time_of_all_is_taken(fashion: Fashion) -> None:
    everything = fashion.plan("fashion_exits", more=())
    assert not isinstance(everything, str)
    worst = sorted(policy["worst_s"] for policy in everything["policies"])
    roomy, tight = (("--deadline", f"{seconds * 1e3 + 1e-3}ms") for seconds in (worst[-1], 0.95 * worst[0]))
    found = fashion.plan("fashion_exits", "eight", "pruned", more=roomy)
    alone = fashion.plan("fashion_exits", more=roomy)
    assert not isinstance(found, str) and not isinstance(alone, str)
    if found["version"] == "fashion_exits":
        assert found["plan"] == alone["plan"]
    assert isinstance(fashion.plan("fashion_exits", more=tight), str)
    quicker = fashion.plan("fashion_exits", "eight", "pruned", more=tight)
    assert not isinstance(quicker, str) and quicker["version"] != "fashion_exits"
    assert quicker["policies"][0]["worst_s"] <= 0.95 * worst[0] + 1e-6


def test_without_any_limit_a_version_may_lose_what_the_model_itself_does(fashion: Fashion) -> None:
    exits = open_model("fashion_exits").exits
    assert exits is not None
    loses = policy_drop(exits, [each.name for each in exits.exits]).high
    found = fashion.plan("fashion_exits", "eight", "pruned", more=())
    same = fashion.plan("fashion_exits", "eight", "pruned", more=("--max-accuracy-drop", f"{loses!r}"))
    assert not isinstance(found, str) and not isinstance(same, str)
    assert found["plan"] == same["plan"] and found["lost_at_most"] <= loses + 1e-12
    assert "as it is" in found["versions"][0]


@pytest.mark.parametrize("objective", ["energy", "throughput"])
def test_versions_with_exits_are_weighed_by_any_objective(fashion: Fashion, objective: str) -> None:
    more = ("--objective", objective, "--max-accuracy-drop", "20%")
    found = fashion.plan("fashion_exits", "eight", "pruned", more=more)
    alone = [fashion.plan(name, more=more) for name in ("fashion_exits", "./eight", "./pruned")]
    assert not isinstance(found, str) and found["choice"]["objective"] == objective
    assert found["choice"]["value"] == min(each["choice"]["value"] for each in alone if not isinstance(each, str))
    assert found["policies"]


@pytest.fixture
def early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model without exits, ``early`` that got some, and ``loose``, which is ``early`` with other thresholds."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    model = write_files(tmp_path)
    layer = next(layer.name for layer in model.graph.layers if layer.name.startswith("features.1"))
    images = torch.randint(0, 256, (600, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    save_file({"image": images}, tmp_path / "noise.safetensors")
    data = ("--data", "noise.safetensors", "--max-accuracy-drop")
    assert main(["exits", MODEL, "--at", layer, *data, "25%", "-o", "early"]) == 0
    assert main(["exits", "early", *data, "60%", "-o", "loose"]) == 0
    for host, slowdown in (("device", 8.0), ("cloud", 1.0)):
        write_profile(tmp_path / f"{host}.json", model, host=host, slowdown=5 * slowdown, error=0.02)
        write_profile(tmp_path / f"early-{host}.json", load("early"), host=host, slowdown=slowdown, error=0.02)
        head = json.loads((tmp_path / f"early-{host}.json").read_text())
        head["layers"] |= {name: [1e-6, 1e-6, 0] for name in head["layers"] if name.startswith("exit1")}
        (tmp_path / f"early-{host}.json").write_text(json.dumps(head))
    return tmp_path


def test_model_weighs_itself_with_exits_and_with_other_thresholds(
    early: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What exits were given to is what they lose against; the same model with other thresholds is a version, too."""
    base = load("early").recipe
    assert base is not None and base.base == open_model(MODEL).digest and base.drop is not None and base.drop.high == 0
    link = ("--link", "50kbps/20ms", "--codecs", "raw", "--json")
    files = "early-device.json,early-cloud.json"
    capsys.readouterr()

    def plan(model: str, *given: str) -> dict[str, Any]:
        name = "" if model == MODEL else "early-"
        assert main(["plan", model, *(f"--{host}={name}{host}.json" for host in HOSTS), *link, *given]) == 0
        return dict(json.loads(capsys.readouterr().out))

    strict = plan(MODEL, "--version", f"early={files}")
    assert strict["lost_at_most"] == 0, "exits lose something, and nothing may be lost"
    allowed = plan(MODEL, "--version", f"early={files}", "--max-accuracy-drop", "25%")
    assert allowed["version"] == "early" and allowed["exits"]["exits"][0]["name"] == "exit1"
    assert allowed["predicted"]["total_s"] < strict["predicted"]["total_s"]
    for share in ("25%", "60%"):
        both = plan("early", "--version", f"loose={files}", "--max-accuracy-drop", share)
        alone = [plan(each, "--max-accuracy-drop", share) for each in ("early", "loose")]
        assert both["predicted"]["total_s"] == min(each["predicted"]["total_s"] for each in alone)
    given = ("--device=early-device.json", "--cloud=early-cloud.json", "--link", "1Mbps", "--version", f"early={files}")
    assert main(["plan", "early", *given]) == BAD_INPUT
    assert "give one that `splitnn compress`, `bottleneck` or `exits` made of early" in capsys.readouterr().err
