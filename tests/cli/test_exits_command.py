"""``splitnn exits``, and what `plan` and `envelope` say of its package: the figures are the planner's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from splitnn.cli.main import BAD_INPUT, main
from splitnn.cli.sources import open_model, open_profile
from splitnn.cost.accuracy import policy_drop
from splitnn.cost.expected import expected_cost
from splitnn.cost.network import Topology
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model
from splitnn.graph.package import load, save
from splitnn.graph.recipe import Drop, Recipe
from splitnn.planner.exit_accuracy import policy_drops
from splitnn.planner.plan import Plan
from tests.cli.two_host_files import MODEL, write_files, write_profile

LINK = "3Mbps/5ms"
HOSTS = ("--device", "device.json", "--cloud", "cloud.json", "--link", LINK)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The package ``early`` that the command wrote, with profiles of it."""
    place = tmp_path_factory.mktemp("exits")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.chdir(place)
        plain = write_files(place)
        layer = next(layer.name for layer in plain.graph.layers if layer.name.startswith("features.1"))
        images = torch.randint(0, 256, (600, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        save_file({"image": images}, place / "noise.safetensors")
        save_file({"image": images[:8].clone()}, place / "few.safetensors")
        given = ["exits", MODEL, "--at", layer, "--data", "noise.safetensors", "--max-accuracy-drop", "25%"]
        assert main([*given, "-o", "early"]) == 0
        made = load("early")
        for host, slowdown in (("device", 8.0), ("cloud", 1.0)):
            write_profile(place / f"{host}.json", made, host=host, slowdown=slowdown, error=0.02)
        yield made


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_package_has_exits_that_keep_the_accuracy(model: Model) -> None:
    assert model.exits is not None
    assert [each.name for each in model.exits.exits] == ["exit1", "final"]
    assert model.exits.against == "model"
    assert model.exits.accuracy >= 0.75
    assert "noise.safetensors" in model.exits.data


def test_thresholds_can_be_chosen_again_for_another_accuracy(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(
        capsys, "exits", "early", "--data", "noise.safetensors", "--max-accuracy-drop", "0.0", "-o", "strict"
    )
    assert model.exits is not None
    strict = load("strict")
    assert strict.exits == Exits.from_json(found["exits"])
    assert strict.digest == model.digest
    assert strict.exits is not None
    assert strict.exits.accuracy == 1
    assert strict.exits.left[0] <= model.exits.left[0]


def test_plan_of_a_model_with_exits_is_the_planners(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "plan", "early", *HOSTS)
    assert model.exits is not None
    placement = {name: found["plan"]["hosts"][tier] for name, tier in found["plan"]["layers"]}
    profiles = {host: open_profile(f"{host}.json") for host in ("device", "cloud")}
    cost = expected_cost(
        model.graph,
        placement,
        profiles,
        Topology.chain(["device", "cloud"], [LINK]),
        exits=model.exits,
        codecs=("raw",),
    )
    assert found["predicted"]["total_s"] == cost.latency_s
    assert found["policies"][0]["exits"] == ["exit1", "final"]
    assert len(found["policies"]) == 3


def test_deadline_takes_the_most_accurate_that_is_in_time(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    everything = answer(capsys, "plan", "early", *HOSTS)["policies"]
    by_accuracy = sorted(everything, key=lambda policy: -policy["accuracy"])
    assert by_accuracy[-1]["worst_s"] < by_accuracy[0]["worst_s"]
    deadline_s = (by_accuracy[-1]["worst_s"] + by_accuracy[0]["worst_s"]) / 2
    found = answer(capsys, "plan", "early", *HOSTS, "--deadline", f"{deadline_s * 1e3}ms")
    assert found["policies"][0]["worst_s"] <= deadline_s
    assert all(
        p["accuracy"] <= found["policies"][0]["accuracy"] or p["worst_s"] > deadline_s for p in found["policies"]
    )
    assert main(["plan", "early", *HOSTS, "--deadline", f"{deadline_s * 1e3}ms"]) == 0
    assert "the most accurate in which every sample keeps the deadline: " in capsys.readouterr().out
    assert main(["plan", "early", *HOSTS, "--deadline", "1us"]) == BAD_INPUT
    assert "no choice of exits keeps the deadline for every sample; the nearest, " in capsys.readouterr().err


def test_budget_of_accuracy_takes_the_quickest_within_it(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    everything = answer(capsys, "plan", "early", *HOSTS, "--codecs", "raw")["policies"]
    assert model.exits is not None
    full = model.exits.right_alone[-1] / model.exits.samples
    for percent in (0, 25, 100):
        given = ("--codecs", "raw", "--max-accuracy-drop", f"{percent}%")
        found = answer(capsys, "plan", "early", *HOSTS, *given)["policies"][0]
        rivals = [policy["mean_s"] for policy in everything if policy["accuracy"] >= full - percent / 100 - 1e-9]
        assert found["mean_s"] == min(rivals)
    assert main(["plan", "early", *HOSTS, "--max-accuracy-drop", "5%"]) == BAD_INPUT
    assert "nobody measured what lossy codecs cost" in capsys.readouterr().err


def test_envelope_says_what_plan_says_at_each_bandwidth(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    deadline = "--deadline", "200ms"
    found = answer(
        capsys, "envelope", "early", "--device", "device.json", "--cloud", "cloud.json", "--link", LINK, *deadline
    )
    assert found["choices"]
    for choice in found["choices"]:
        bandwidth_bps = (choice["low_bps"] * choice["high_bps"]) ** 0.5
        link = f"{bandwidth_bps:.0f}bps/5ms"
        there = answer(
            capsys, "plan", "early", "--device", "device.json", "--cloud", "cloud.json", "--link", link, *deadline
        )
        assert there["policies"][0]["exits"] == choice["exits"]
        assert there["policies"][0]["accuracy"] == choice["accuracy"]
    assert main(["envelope", "early", "--device", "device.json", "--cloud", "cloud.json", *deadline]) == 0
    assert "every sample counted" in capsys.readouterr().out


def test_joint_training_makes_another_version_and_says_what_it_gained(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("exits", "early", "--data", "noise.safetensors", "--max-accuracy-drop", "30%", "--train", "joint")
    found = answer(capsys, *given, "--steps", "20", "-o", str(tmp_path / "joint"))
    made = load(tmp_path / "joint")
    assert made.digest == found["digest"] != model.digest
    assert made.recipe is not None and made.recipe.to_json() == found["recipe"]
    assert made.recipe.base == model.digest and made.recipe.settings["steps"] == 20
    assert main([*given, "--steps", "1", "-o", str(tmp_path / "told")]) == 0
    assert "trained jointly; right alone, before and after" in capsys.readouterr().out


@pytest.mark.parametrize("objective", ["energy", "throughput", "bytes"])
def test_exits_are_planned_for_any_objective(model: Model, capsys: pytest.CaptureFixture[str], objective: str) -> None:
    found = answer(capsys, "plan", "early", *HOSTS, "--objective", objective)
    best = found["policies"][0]
    assert [each["name"] for each in found["exits"]["exits"]] == best["exits"] and len(best["exits"]) > 1
    assert found["choice"]["objective"] == objective and found["choice"]["value"] == best["value"]
    assert found["choice"]["is_optimal"]
    amounts = {**found["choice"]["amounts"], "throughput": 1 / found["choice"]["throughput_rps"]}
    assert best["value"] == pytest.approx(amounts[objective])
    assert main(["plan", "early", *HOSTS, "--objective", objective]) == 0
    assert f"objective {objective}: proven optimal" in capsys.readouterr().out


def test_budgets_choose_the_most_accurate_exits_that_keep_them(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = answer(capsys, "plan", "early", *HOSTS)["policies"]
    found = answer(capsys, "plan", "early", *HOSTS, "--max-bytes", "0")
    best = found["policies"][0]
    assert best["is_within"] and best["sent_bytes"] == 0 == found["choice"]["amounts"]["bytes"]
    assert best["accuracy"] == max(each["accuracy"] for each in everything)  # the device can ask any of them
    assert main(["plan", "early", *HOSTS, "--deadline", "1ms", "--max-bytes", "0"]) != 0
    said = capsys.readouterr().err
    assert "no choice of exits keeps the deadline and the traffic for every sample; the nearest" in said
    assert "0 of 0 bytes" in said


def test_a_front_of_two_goals_leaves_exits_out_and_says_so(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "early", *HOSTS, "--pareto"]) == 0
    assert "its exits are not used" in capsys.readouterr().out


def test_an_envelope_without_exits_says_so(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = HOSTS[:4]
    assert main(["envelope", "early", *hosts, "--objective", "energy"]) == 0
    assert "its exits are not used" in capsys.readouterr().out
    assert answer(capsys, "envelope", "early", *hosts, "--objective", "energy")["leaves_exits_out"]


@pytest.mark.parametrize("command", ["explain", "envelope"])
@pytest.mark.parametrize(
    ("option", "said"),
    [(("--version", "early=a.json,b.json"), "give that one as MODEL"), (("--max-accuracy-drop", "1%"), "--codecs")],
)
def test_options_of_plan_are_answered_with_what_to_do_instead(
    model: Model, capsys: pytest.CaptureFixture[str], command: str, option: tuple[str, ...], said: str
) -> None:
    capsys.readouterr()
    assert main([command, "early", *HOSTS, *option]) == BAD_INPUT
    error = capsys.readouterr().err
    assert f"{option[0]} is for `splitnn plan`" in error and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MODEL, "--data", "noise.safetensors"), "has no exits"),
        ((MODEL, "--at", "nowhere", "--data", "noise.safetensors"), "no tensor, layer or module is called 'nowhere'"),
        (("early", "--data", "noise.safetensors", "--train", "joint", "--steps", "0"), "at least one step"),
        (("early", "--data", "nowhere"), "no such folder or file"),
        (("early", "--data", "few.safetensors"), "give more, of which a part is for judging alone"),
        (("early", "--data", "noise.safetensors", "--max-accuracy-drop", "much"), "is no share"),
        (("early", "--data", "noise.safetensors", "--max-accuracy-drop", "200%"), "is no share"),
        ((MODEL, "--cascade", "two_host_models:other", "--data", "noise.safetensors"), "scion"),
    ],
)
def test_bad_input_is_one_line(
    model: Model, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    capsys.readouterr()
    assert main(["exits", *arguments, "-o", "never"]) == BAD_INPUT
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("never").exists()


def test_calibration_and_plan_charge_each_way_to_ask_its_own_loss(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With other thresholds nobody knows what a lossy codec costs: none is used, and that is said."""
    files = {host: tmp_path / f"{host}.json" for host in ("device", "cloud")}
    for host, file in files.items():
        file.write_text(Path(f"{host}.json").read_text())
    given = ["--data", "noise.safetensors", "--codecs", "raw,int8,even1", "--count", "300"]
    profiles = [word for file in files.values() for word in ("--profile", str(file))]
    assert main(["calibrate", "early", *given, *profiles]) == 0
    assert "by the exits that are asked" in capsys.readouterr().out
    assert main(["exits", "early", "--data", "noise.safetensors", "--max-accuracy-drop", "9%", "-o",
                 str(tmp_path / "moved")]) == 0  # fmt: skip
    hosts = ("--device", str(files["device"]), "--cloud", str(files["cloud"]), "--link", "100kbps/1ms")
    asked = ("--codecs", "raw,int8,even1", "--max-accuracy-drop", "60%")
    found = answer(capsys, "plan", "early", *hosts, *asked)
    accuracy = open_profile(str(files["cloud"])).accuracy
    assert accuracy is not None and model.exits is not None
    for policy in found["policies"]:
        plan = Plan.parse(policy["line"], model.graph, model=model.digest)
        costs = policy_drops(accuracy, ("int8", "even1"), model.exits.only(*policy["exits"]))
        spent = sum(costs[t, c] for hop in plan.hops for t, c in hop.items() if c != "raw")
        assert spent + max(0.0, policy_drop(model.exits, policy["exits"]).high) <= 0.6 + 1e-9
    assert any(c != "raw" for hop in Plan.parse(found["line"], model.graph, model=model.digest).hops for c in
               hop.values()), "an allowance that nobody uses tests nothing"  # fmt: skip
    capsys.readouterr()
    assert main(["plan", str(tmp_path / "moved"), *hosts, *asked]) == 0
    said = capsys.readouterr()
    assert "only lossless codecs are used" in said.err


@pytest.fixture
def narrow(model: Model, tmp_path: Path) -> Path:
    """A version of the plain model that lost something, exits attached to that version, and profiles of both."""
    plain = open_model(MODEL)
    lost = Recipe(method="made up", base=plain.digest, drop=Drop(0.01, 0.0, 0.03), data="noise", samples=500)
    weights = {name: tensor * 1.01 if tensor.is_floating_point() else tensor for name, tensor in plain.weights.items()}
    save(replace(plain, weights=weights, recipe=lost), tmp_path / "version")
    layer = next(layer.name for layer in plain.graph.layers if layer.name.startswith("features.1"))
    given = ["exits", str(tmp_path / "version"), "--at", layer, "--data", "noise.safetensors"]
    assert main([*given, "--max-accuracy-drop", "25%", "-o", str(tmp_path / "both")]) == 0
    for name, of, slower in (("both", load(tmp_path / "both"), 1.0), ("plain", plain, 5.0)):
        for host, slowdown in (("device", 8.0), ("cloud", 1.0)):
            file = tmp_path / f"{name}-{host}.json"
            write_profile(file, of, host=host, slowdown=slowdown * slower, error=0.02)
            found = json.loads(file.read_text())
            found["layers"] |= {layer: [1e-6, 1e-6, 0] for layer in found["layers"] if layer.startswith("exit1")}
            file.write_text(json.dumps(found))  # a head that costs nothing is worth asking
    return tmp_path


def test_a_version_with_exits_is_planned_with_them_and_charged_for_both(
    narrow: Path, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    both, slow = load(narrow / "both"), "50kbps/20ms"
    assert both.recipe is not None and both.recipe.base == open_model(MODEL).digest and both.exits is not None
    hosts = ("--device", f"{narrow}/plain-device.json", "--cloud", f"{narrow}/plain-cloud.json", "--link", slow)
    version = ("--version", f"{narrow}/both={narrow}/both-device.json,{narrow}/both-cloud.json", "--codecs", "raw")
    early = max(0.0, policy_drop(both.exits, ["exit1", "final"]).high)
    found = answer(capsys, "plan", MODEL, *hosts, *version, "--max-accuracy-drop", f"{0.03 + early + 1e-6:.6f}")
    assert found["version"] == f"{narrow}/both"
    asked = found["policies"][0]["exits"]
    assert asked == ["exit1", "final"]
    assert found["lost_at_most"] == pytest.approx(0.03 + early)
    profiles = {host: open_profile(f"{narrow}/both-{host}.json") for host in ("device", "cloud")}
    placement = {name: found["plan"]["hosts"][tier] for name, tier in found["plan"]["layers"]}
    topology = Topology.chain(["device", "cloud"], [slow])
    cost = expected_cost(both.graph, placement, profiles, topology, exits=both.exits, codecs=("raw",))
    assert found["predicted"]["total_s"] == cost.latency_s

    least = answer(capsys, "plan", MODEL, *hosts, *version, "--max-accuracy-drop", f"{0.03 + early - 1e-4:.6f}")
    assert least["lost_at_most"] <= 0.03 + 1e-9, "with less to lose its exits do not answer early"
    assert least["predicted"]["total_s"] > found["predicted"]["total_s"]
    alone = ("plan", f"{narrow}/both", "--device", f"{narrow}/both-device.json", "--cloud", f"{narrow}/both-cloud.json")
    assert main([*alone, "--link", slow, "--max-accuracy-drop", "2%"]) == BAD_INPUT
    assert "loses up to 3.00%, more than 2.00%" in capsys.readouterr().err


def test_what_cannot_be_done_is_said_before_anything_takes_time_and_writes_nothing(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    profile = tmp_path / "device.json"
    profile.write_text(before := Path("device.json").read_text())
    noise = ("--data", "noise.safetensors")
    files = ("--device", "device.json", "--cloud", "cloud.json")
    for command, said in (
        (("exits", "early", "--data", "nowhere", "-o", str(tmp_path / "full")), "give a new folder"),
        (("calibrate", "early", *noise, "--profile", str(profile), "--codecs", "png,jpeg90", "--tensors",
          model.graph.layers[-1].outputs[0]), "takes any of the tensors"),
        (("envelope", "early", *files, "--deadline", "1us"), "nothing answers every sample within 0.001 ms"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main(list(command)) == BAD_INPUT
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said in error
    assert profile.read_text() == before
