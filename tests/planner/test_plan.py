"""A plan is a value: it prints on one line, reads back, and says what is wrong with a line that is none."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from splitnn.errors import InfeasiblePlan
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.planner.line import parse_line
from splitnn.planner.min_cut import plan
from splitnn.planner.plan import Plan
from tests.planner.random_problems import CODECS, Problem, random_problem

DIGEST = "0123456789abcdef" * 4


def _random_plans(seed: int, count: int) -> list[tuple[Problem, Plan]]:
    rng = random.Random(seed)
    found: list[tuple[Problem, Plan]] = []
    while len(found) < count:
        problem = random_problem(rng, layers=rng.randint(0, 15), tiers=rng.choice((1, 2, 3, 4)), pinned=True)
        try:
            made = plan(problem.graph, problem.profiles, problem.topology, codecs=CODECS, pins=problem.pins)
        except InfeasiblePlan:
            continue
        found.append(
            (
                problem,
                replace(made, model=DIGEST, mode="fast" if made.mode == "fast" else rng.choice(("exact", "fast"))),
            )
        )
    return found


def test_line_reads_back_to_the_same_decision(seed: int) -> None:
    for problem, made in _random_plans(seed, 300):
        line = str(made)
        assert "\n" not in line
        read = Plan.parse(line, problem.graph, model=DIGEST)
        assert replace(read, predicted=made.predicted) == made
        assert read.id == Plan.parse(line, problem.graph).id == made.id
        assert read.predicted.latency_s == pytest.approx(made.predicted.latency_s, rel=1e-3)
        assert str(read) == line


def test_json_reads_back_to_an_equal_plan(seed: int) -> None:
    for _, made in _random_plans(seed, 100):
        assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_plans_have_one_id_exactly_when_they_decide_alike(seed: int) -> None:
    decisions: dict[str, Plan] = {}
    for _, made in _random_plans(seed, 300):
        same = decisions.setdefault(made.id, made)
        assert (same.hosts, same.tiers, same.hops, same.mode) == (made.hosts, made.tiers, made.hops, made.mode)
        dearer = replace(made, predicted=replace(made.predicted, latency_ns=made.predicted.latency_ns + 1))
        assert dearer.id == made.id


GRAPH = Graph(
    tuple(Layer(f"layer{i}", "op", (f"t{i}",), (f"t{i + 1}",)) for i in range(4)),
    dict.fromkeys((f"t{i}" for i in range(5)), TensorSpec((1,), "uint8")),
    ("t0",),
    ("t4",),
)
LINE = "device 0-1 | t2=int8+zstd | cloud 2-3 | model 0123456789ab | fast | 41.2 ms"


def test_line_says_what_runs_where() -> None:
    read = Plan.parse(LINE, GRAPH)
    assert read.layers == (("layer0", "layer1"), ("layer2", "layer3"))
    assert read.codecs == {"t2": ("int8+zstd",)}
    assert read.hops == ({"t2": "int8+zstd"},)
    assert str(read) == LINE


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "0 fields|1 fields"),
        ("device 0-3 | exact | 1 ms", "3 fields"),
        (LINE.replace(" | ", " "), "1 fields"),
        (LINE.replace("0-1", "0-2"), "layer 2 runs on 'device' and on 'cloud'"),
        (LINE.replace("0-1", "0"), "no host for layer 1"),
        (LINE.replace("2-3", "2-4"), "it has 0 to 3"),
        (LINE.replace("0-1", "1-0"), "layers 1-0"),
        (LINE.replace("0-1", "0-99999999999999999999"), "no range"),
        (LINE.replace("0-1", "a-b"), "no range"),
        (LINE.replace("0-1", "2-3").replace("cloud 2-3", "cloud 0-1"), "flow back"),
        (LINE.replace("t2=int8+zstd", "t1=raw"), r"cross the tensors \['t2'\], not \['t1'\]"),
        (LINE.replace("t2=int8+zstd", "-"), r"\['t2'\], not \[\]"),
        (LINE.replace("t2=int8+zstd", "t2"), "TENSOR=CODEC"),
        (LINE.replace("t2=int8+zstd", "t2=raw t2=raw"), "twice"),
        (LINE.replace("cloud", "device"), "no new host"),
        (LINE.replace("fast", "perhaps"), "'perhaps'"),
        (LINE.replace("fast", "exact"), "is not exact"),
        (LINE.replace("41.2 ms", "1e999 ms"), "latency"),
        (LINE.replace("41.2 ms", "nan ms"), "ends in"),
        (LINE.replace("model 0123456789ab", "model"), "ends in"),
    ],
)
def test_line_that_is_no_plan_of_the_model_is_refused(line: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Plan.parse(line, GRAPH)


def test_line_of_another_model_is_refused() -> None:
    assert Plan.parse(LINE, GRAPH, model=DIGEST).model == DIGEST
    with pytest.raises(ValueError, match="belongs to model '0123456789ab'"):
        Plan.parse(LINE, GRAPH, model="f" * 64)


def test_tensor_with_an_odd_name_stays_one_word() -> None:
    name = "a | b=c%20\u00e9\n"
    graph = Graph(
        (Layer("make", "op", ("x",), (name,)), Layer("use", "op", (name,), ("y",))),
        dict.fromkeys(("x", name, "y"), TensorSpec((1,), "uint8")),
        ("x",),
        ("y",),
    )
    made = Plan(
        DIGEST, ("device", "cloud"), ("make", "use"), (0, 1), ({name: "raw"},), Plan.parse(LINE, GRAPH).predicted
    )
    assert len(str(made).splitlines()) == 1
    assert Plan.parse(str(made), graph, model=DIGEST) == made


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something"}, {"id": "000000000000"}, {"mode": "perhaps"}, {"layers": 3}, {"hosts": []},
        {"hops": []}, {"predicted": {}}, {"layers": [["layer0", 7]]},
    ],
)  # fmt: skip
def test_json_that_is_no_plan_is_refused(change: dict[str, object]) -> None:
    good = Plan.parse(LINE, GRAPH).to_json()
    with pytest.raises(ValueError, match=r"plan|hosts have"):
        Plan.from_json({**good, **change})


@pytest.mark.parametrize("key", ["format", "id", "model", "mode", "hosts", "layers", "hops", "predicted"])
def test_json_without_a_field_is_refused(key: str) -> None:
    good = Plan.parse(LINE, GRAPH).to_json()
    del good[key]
    with pytest.raises(ValueError, match="not a plan"):
        Plan.from_json(good)


def test_a_line_that_names_layers_again_and_again_is_refused_before_they_are_written_out() -> None:
    end = "| - | cloud - | model ab | exact | 1 ms"
    assert parse_line(f"device 2,0-1 {end}", 3).tiers == (0, 0, 0)
    with pytest.raises(ValueError, match="twice"):
        parse_line("device " + "0-999999," * 10 + "0 " + end, 1_000_000)
    with pytest.raises(ValueError, match="characters"):
        parse_line("device " + "0-160," * 100_000 + "0 " + end, 161)
