"""Exits as values: counting, choosing among them, JSON; and the order in which a host runs them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from splitnn.errors import PackageError
from splitnn.graph.exits import Exit, Exits, Tally, part_used, survival
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.graph.package import load, save
from splitnn.graph.segments import segments
from tests.models import captured
from tests.planner.random_exits import random_exit_problem

_LOGITS = TensorSpec((1, 10), "float32")
GRAPH = Graph(
    layers=(
        Layer("a", "op", ("x",), ("a",)),
        Layer("head1", "op", ("a",), ("logits1",)),
        Layer("b", "op", ("a",), ("b",)),
        Layer("head2", "op", ("b",), ("logits2",)),
        Layer("c", "op", ("b", "a"), ("c",)),
        Layer("head3", "op", ("c",), ("logits3",)),
    ),
    tensors=dict.fromkeys(("x", "a", "b", "c", "logits1", "logits2", "logits3"), _LOGITS),
    inputs=("x",),
    outputs=("logits3", "logits1", "logits2"),
)
EXITS = Exits.counted(
    [Exit("one", "logits1", 1.5, 0.8), Exit("two", "logits2", 1.2, 0.7), Exit("three", "logits3")],
    [
        ([True, False, False], [True, True, True]),
        ([False, True, False], [False, True, True]),
        ([False, True, False], [True, False, True]),
        ([False, False, False], [False, False, True]),
    ],
    against="labels",
    data="by hand",
)


def test_counts_by_hand() -> None:
    assert EXITS.left == (1, 2, 1)
    assert EXITS.right == (1, 1, 1)
    assert EXITS.arrived == (4, 3, 1)
    assert EXITS.right_alone == (2, 2, 4)
    assert EXITS.reach == (1.0, 0.75, 0.25)
    assert EXITS.accuracy == 0.75


def test_some_of_the_exits_count_as_if_only_they_had_been_asked(seed: int) -> None:
    rng = random.Random(seed)
    outcomes = [([rng.random() < 0.4 for _ in range(3)], [rng.random() < 0.7 for _ in range(3)]) for _ in range(50)]
    whole = Exits.counted(EXITS.exits, outcomes, against="labels", data="random")
    for kept in ([0], [1], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        names = [EXITS.exits[at].name for at in kept]
        asked = [([sure[at] for at in kept], [right[at] for at in kept]) for sure, right in outcomes]
        expected = Exits.counted(whole.only(*names).exits, asked, against="labels", data="random")
        assert whole.only(*names) == expected
        assert whole.only(*names).exits[-1].threshold == 0


def test_layer_runs_for_the_samples_that_reach_the_first_exit_that_needs_it() -> None:
    assert survival(GRAPH, EXITS) == {"a": 1.0, "head1": 1.0, "b": 0.75, "head2": 0.75, "c": 0.25, "head3": 0.25}
    assert survival(GRAPH, EXITS.only("two"))["c"] == 0
    assert [layer.name for layer in part_used(GRAPH, EXITS.only("two")).layers] == ["a", "b", "head2"]


def test_host_runs_to_its_exits_and_then_to_what_it_sends() -> None:
    device = segments(GRAPH, EXITS, ("x",), layers={"a", "head1", "b"})
    assert [(step.exit and step.exit.name, step.given, step.wanted) for step in device.steps] == [
        ("one", ("x",), ("a", "logits1")),
        (None, ("a",), ("b",)),
    ]
    assert device.frontier == ("a", "b")
    cloud = segments(GRAPH, EXITS, device.frontier, first=1)
    assert [(step.exit and step.exit.name, step.given, step.wanted) for step in cloud.steps] == [
        ("two", ("b",), ("logits2",)),
        ("three", ("a", "b"), ("logits3",)),
    ]
    assert cloud.frontier == ()


def test_every_layer_runs_once_at_most_and_all_that_the_exits_need_do() -> None:
    for seed in range(150):
        print(f"seed {seed}")
        problem, exits = random_exit_problem(random.Random(seed), layers=7, tiers=2)
        ran: list[str] = []
        found = segments(problem.graph, exits, problem.graph.inputs)
        for step in found.steps:
            ran += [layer.name for layer in problem.graph.between(step.given, step.wanted)]
        assert found.frontier == ()
        assert sorted(ran) == sorted(layer.name for layer in part_used(problem.graph, exits).layers)


def test_segments_of_tensors_that_do_not_suffice_are_refused() -> None:
    with pytest.raises(ValueError, match="do not suffice: 'x' is needed too"):
        segments(GRAPH, EXITS, ("b",), first=2)


def test_json_reads_back_equal() -> None:
    assert Exits.from_json(EXITS.to_json()) == EXITS


@pytest.mark.parametrize(
    ("key", "lie"),
    [
        ("format", "splitnn-exits-9"),
        ("exits", []),
        ("exits", [{"name": "a", "output": "x", "temperature": 0, "threshold": 0}]),
        ("exits", [{"name": "a", "output": "x", "temperature": float("nan"), "threshold": 0}]),
        ("exits", "one"),
        ("against", "hope"),
        ("tallies", []),
        ("tallies", [["11", "111", 1]]),
        ("tallies", [["111", "111", -1]]),
        ("tallies", [["111", "111", 2**60]]),
        ("tallies", [["11x", "111", 1]]),
        ("tallies", [["111", "111", 1.5]]),
    ],
)
def test_exits_that_lie_are_refused(key: str, lie: Any) -> None:
    with pytest.raises(ValueError, match=r"exit|tally|not"):
        Exits.from_json({**EXITS.to_json(), key: lie})


def test_exit_that_could_refuse_everything_is_no_last_one() -> None:
    with pytest.raises(ValueError, match="answers always"):
        Exits((Exit("one", "logits1", threshold=0.5),), (Tally((True,), (True,), 1),), "labels", "none")


def test_exits_fit_a_graph_whose_outputs_they_are() -> None:
    EXITS.check_fits(GRAPH)
    with pytest.raises(ValueError, match="is no output that the model computes"):
        Exits.counted([Exit("one", "b")], [([True], [True])], against="labels", data="none").check_fits(GRAPH)


def test_exits_of_different_numbers_of_classes_fit_no_graph() -> None:
    graph = replace(GRAPH, tensors={**GRAPH.tensors, "logits2": TensorSpec((1, 7), "float32")})
    with pytest.raises(ValueError, match="different numbers of classes"):
        EXITS.check_fits(graph)


@pytest.mark.parametrize("name", ["", "all", "none", "one,two", " one"])
def test_exit_that_no_request_can_ask_for_has_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="no request can ask"):
        Exit(name, "logits1")


def test_package_keeps_exits_outside_the_digest_and_refuses_altered_ones(tmp_path: Path) -> None:
    chain = captured("chain")
    outcomes = [([True], [True]), ([True], [False])]
    exits = Exits.counted([Exit("only", chain.graph.outputs[0])], outcomes, against="labels", data="by hand")
    with_exits = replace(chain, exits=exits)
    assert with_exits.digest == chain.digest
    folder = save(with_exits, tmp_path / "package")
    assert load(folder).exits == exits
    (folder / "exits.json").write_text((folder / "exits.json").read_text().replace("by hand", "by hope"))
    with pytest.raises(PackageError, match=r"exits\.json is not the file that the manifest describes"):
        load(folder)
    assert load(save(chain, tmp_path / "plain")).exits is None


def test_package_whose_exits_are_no_outputs_is_refused(tmp_path: Path) -> None:
    chain = captured("chain")
    exits = Exits.counted([Exit("only", "nowhere")], [([True], [True])], against="labels", data="by hand")
    folder = save(replace(chain, exits=exits), tmp_path / "package")
    with pytest.raises(PackageError, match="is no output that the model computes"):
        load(folder)
