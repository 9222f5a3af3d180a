"""``splitnn explain`` of a model with exits: its figures add up, and its thresholds are where other plans begin to win.

The oracle of a threshold plans at single bandwidths on either side of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from splitnn.cli.main import BAD_INPUT, main
from splitnn.cli.sources import open_profile
from splitnn.cost.expected import expected_cost
from splitnn.cost.network import Link, Topology, parse_link
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model
from splitnn.graph.package import save
from splitnn.planner.constraints import Constraints
from splitnn.planner.exits import plan_exits, weigh
from tests.cli.two_host_files import write_profile
from tests.planner.random_problems import every_placement
from tests.runtime.exit_models import ThreeExits, captured

RATES_BPS = (15e3, 60e3, 3e6)
ROUND_TRIP = "20ms"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The package ``three``, a deeper exit of which is right more often, with profiles of both hosts."""
    place = tmp_path_factory.mktemp("explained")
    plain = captured(ThreeExits)
    assert plain.exits is not None
    outcomes = [([at < 45, at < 70, True], [at < 60, at < 85, at < 95]) for at in range(100)]
    exits = Exits.counted(plain.exits.exits, outcomes, against="labels", data="made up")
    made = replace(plain, exits=exits)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        save(made, "three")
        for host, slowdown in (("device", 3.0), ("cloud", 1.0)):
            write_profile(place / f"{host}.json", made, host=host, slowdown=slowdown, error=0.02)
        cloud = json.loads((place / "cloud.json").read_text())
        heads = {name: [6e-3, 6e-3, 0] for name in cloud["layers"] if name.startswith("exit1")}
        assert heads, "asking there must cost more than it saves, so that another way is quicker over a good link"
        (place / "cloud.json").write_text(json.dumps(cloud | {"layers": cloud["layers"] | heads}))
        yield made


def link_at(bandwidth_bps: float) -> str:
    return f"{bandwidth_bps!r}bps/{ROUND_TRIP}"


def arguments(bandwidth_bps: float, *more: str) -> list[str]:
    return ["three", "--device", "device.json", "--cloud", "cloud.json", "--link", link_at(bandwidth_bps), *more]


def explained(capsys: pytest.CaptureFixture[str], bandwidth_bps: float, *more: str) -> Any:
    capsys.readouterr()
    assert main(["explain", *arguments(bandwidth_bps, *more), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


class At:
    """The planning problem at one bandwidth."""

    def __init__(self, model: Model, bandwidth_bps: float) -> None:
        up, down = parse_link(link_at(bandwidth_bps))
        assert isinstance(up, Link)
        self.model, self.profiles = model, {host: open_profile(f"{host}.json") for host in ("device", "cloud")}
        self.topology = replace(Topology.chain(["device", "cloud"], ["1Mbps"]), up=(up,), down=(down,))

    def policy(self, names: list[str]) -> Exits:
        assert self.model.exits is not None
        return self.model.exits.only(*names)

    def least_mean_s(self, names: list[str]) -> float:
        exits = self.policy(names)
        return plan_exits(
            self.model.graph, self.profiles, self.topology, exits=exits, codecs=("raw",)
        ).predicted.latency_s

    def means_s(self, names: list[str]) -> list[float]:
        """Of every placement."""
        exits, found = self.policy(names), []
        for tiers in every_placement(self.model.graph, 2, {}):
            placement = {
                layer.name: ("device", "cloud")[tier]
                for layer, tier in zip(self.model.graph.layers, tiers, strict=True)
            }
            try:
                cost = expected_cost(self.model.graph, placement, self.profiles, self.topology, exits=exits)
            except ValueError:
                continue
            found.append(cost.latency_s)
        return found


@pytest.mark.parametrize("bandwidth_bps", RATES_BPS)
def test_shares_and_latencies_of_the_exits_add_up_to_the_mean_which_no_placement_is_below(
    model: Model, capsys: pytest.CaptureFixture[str], bandwidth_bps: float
) -> None:
    found = explained(capsys, bandwidth_bps)
    asked = found["asked"]
    assert [each["exit"] for each in asked] == ["exit1", "exit2", "exit3"]
    assert [(each["arrive"], each["answered"]) for each in asked] == [(1, 0.45), (0.55, 0.25), (0.3, 0.3)]
    assert [each["right"] for each in asked] == [1, pytest.approx(25 / 25), pytest.approx(25 / 30)]
    mean_s = sum(each["answered"] * each["latency_s"] for each in asked)
    assert found["mean_s"] == pytest.approx(mean_s, abs=1e-7)  # terms are rounded to nanoseconds one by one
    assert found["worst_s"] == asked[-1]["latency_s"] == max(each["latency_s"] for each in asked)
    assert found["mean_s"] == min(At(model, bandwidth_bps).means_s(["exit1", "exit2", "exit3"]))


def test_an_exit_is_decided_where_its_logits_are_made(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    hosts = set()
    for bandwidth_bps in RATES_BPS:
        found = explained(capsys, bandwidth_bps)
        tiers = dict(found["plan"]["layers"])
        for each, output in zip(found["asked"], model.graph.outputs, strict=True):
            assert each["host"] == found["plan"]["hosts"][tiers[model.graph.producer[output]]]
        hosts.add(tuple(each["host"] for each in found["asked"]))
    assert len(hosts) > 1, "a single answer tests nothing"


def test_other_ways_to_ask_are_those_of_plan_and_the_nearest_come_first(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    found = explained(capsys, 60e3)
    assert main(["plan", *arguments(60e3), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (found["line"], found["plan"]) == (planned["line"], planned["plan"])
    keys = ("accuracy", "mean_s", "worst_s", "sent_bytes", "line")
    there = {tuple(each["exits"]): [each[key] for key in keys] for each in planned["policies"]}
    here = {tuple(each["exits"]): [each[key] for key in keys] for each in (found, *found["others"])}
    assert here == there and len(here) == 7
    steps = [len(each["less"]) + len(each["more"]) for each in found["others"]]
    assert steps == sorted(steps) and steps.count(1) == 3
    for each in found["others"]:
        assert {*each["exits"], *each["less"]} - {*each["more"]} == {"exit1", "exit2", "exit3"}


def test_where_the_plan_is_said_to_change_another_begins_to_win(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    choices = explained(capsys, 60e3)["choices"]
    assert len(choices) > 1, "a plan that never changes tests nothing"
    assert (choices[0]["low_bps"], choices[-1]["high_bps"]) == (1e4, 1e10)
    names = ["exit1", "exit2", "exit3"]
    for near, far in pairwise(choices):
        edge = near["high_bps"]
        assert edge == far["low_bps"]
        for choice, other, bandwidth_bps in ((near, far, edge / 1.01), (far, near, edge * 1.01)):
            least_s = At(model, bandwidth_bps).least_mean_s(names)
            its_s, others_s = (
                (each["mean"]["fixed_ns"] + each["mean"]["slope"] / bandwidth_bps) * 1e-9 for each in (choice, other)
            )
            assert its_s == pytest.approx(least_s, abs=3e-8)
            assert others_s > least_s + 5e-8


def test_another_way_is_quicker_just_where_it_is_said_to_be(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, 60e3)
    some = 0
    for other in found["others"]:
        inner = {edge for stretch in other["quicker"] for edge in stretch} - {1e4, 1e10}
        some += len(inner)
        for bandwidth_bps in [*(edge * by for edge in inner for by in (1 / 1.01, 1.01)), 1.1e4, 1e6, 9e9]:
            at = At(model, bandwidth_bps)
            is_quicker = at.least_mean_s(other["exits"]) < at.least_mean_s(found["exits"])
            assert is_quicker == any(low <= bandwidth_bps <= high for low, high in other["quicker"])
    assert some, "without a threshold nothing is tested"


def test_with_a_deadline_the_choice_at_each_bandwidth_is_what_is_planned_there(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    deadline_s = 0.05
    in_time = Constraints(deadline_s=deadline_s)
    found = explained(capsys, 3e6, "--deadline", "50ms")
    assert found["deadline_s"] == deadline_s and found["worst_s"] <= deadline_s
    assert len({tuple(each["exits"]) for each in found["choices"]}) > 1, "one way for all tests nothing"
    for choice in found["choices"]:
        for bandwidth_bps in (choice["low_bps"] * 1.01, choice["high_bps"] / 1.01):
            at = At(model, bandwidth_bps)
            policies = [at.policy(each["exits"]) for each in (found, *found["others"])]
            best = weigh(model.graph, at.profiles, at.topology, policies=policies, constraints=in_time)[0]
            assert [each.name for each in best.exits.exits] == choice["exits"]
    for other in found["others"]:
        assert other["late"] == (other["worst_s"] > deadline_s)
        assert other["late"] or other["accuracy"] <= found["accuracy"]
        if other["late"] and other["in_time_from_bps"] is not None:
            for by, is_in_time in ((1.01, True), (1 / 1.01, False)):
                at = At(model, other["in_time_from_bps"] * by)
                (each,) = weigh(
                    model.graph, at.profiles, at.topology,
                    policies=[at.policy(other["exits"])], constraints=in_time,
                )  # fmt: skip
                assert (each.worst.latency_s <= deadline_s) == is_in_time
    assert main(["explain", *arguments(3e6, "--deadline", "1us")]) == BAD_INPUT
    assert "no choice of exits keeps the deadline for every sample" in capsys.readouterr().err


def test_report_has_a_line_for_each_exit_each_other_way_and_each_choice(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ((), ("--deadline", "50ms")):
        found = explained(capsys, 3e6, *more)
        assert main(["explain", *arguments(3e6, *more)]) == 0
        said = capsys.readouterr().out
        lines = [line.strip("* ") for line in said.splitlines()]
        for each in found["asked"]:
            assert any(line.startswith(each["exit"]) and f"{each['latency_s'] * 1e3:.2f} ms" in line for line in lines)
        for each in found["others"]:
            gap_s = each["mean_s"] - found["mean_s"]
            assert any(line.startswith(" ".join(each["exits"])) and f"{gap_s * 1e3:+.2f} ms" in line for line in lines)
        assert said.count("\n* ") == 1
        assert "left out" not in said and "not used" not in said
    assert "every sample is answered within 50 ms" in said


def test_for_other_goals_exits_are_left_out_and_that_is_said(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (("--objective", "energy"), ("--max-bytes", "1MB")):
        assert explained(capsys, 3e6, *more)["leaves_exits_out"]
        assert main(["explain", *arguments(3e6, *more)]) == 0
        assert "its exits are not used" in capsys.readouterr().out
