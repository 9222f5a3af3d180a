"""The graph: what it refuses, what it answers about itself, and its JSON."""

from __future__ import annotations

import json
import random
from typing import Any

import networkx as nx
import pytest

from splitnn.errors import InvalidInput
from splitnn.graph.graph import Graph, Layer, TensorSpec
from tests.planner.random_problems import every_placement, random_graph

FORK = Graph(
    (
        Layer("stem", "op", ("x",), ("s", "aside")),
        Layer("left", "op", ("s",), ("a",), module="block.left", weights=("w",), flops=7),
        Layer("right", "op", ("s", "x"), ("b",), weights=("w",)),
        Layer("join", "op", ("a", "b"), ("y",)),
    ),
    {name: TensorSpec((2, 3), "float32", (1, 0), (1, 0)) for name in ("x", "s", "aside", "a", "b", "y")},
    ("x",),
    ("y", "s", "y"),
    {"w": 12},
    2,
)


def test_size_is_that_of_the_elements() -> None:
    assert TensorSpec((2, 3), "float32").size_bytes == 24
    assert TensorSpec((), "int64").size_bytes == 8
    assert TensorSpec((4, 0), "uint8").size_bytes == 0


def test_grown_shape_follows_the_batch() -> None:
    assert TensorSpec((2, 6, 5), "float32", (1, 3, 0)).grown(2) == (4, 12, 5)
    assert TensorSpec((2, 6), "float32").grown(2) == (2, 6)


def test_producer_and_consumers() -> None:
    assert FORK.producer == {"s": "stem", "aside": "stem", "a": "left", "b": "right", "y": "join"}
    assert FORK.consumers["s"] == ("left", "right")
    assert FORK.consumers["x"] == ("stem", "right")
    assert FORK.consumers["aside"] == ()


def test_crossing_tensors_are_those_that_the_rest_reads() -> None:
    assert FORK.crossing([]) == ("x",)
    assert set(FORK.crossing(["stem"])) == {"x", "s"}
    assert set(FORK.crossing(["stem", "left"])) == {"x", "s", "a"}
    assert FORK.crossing(["stem", "left", "right", "join"]) == ()


def test_closed_sets_are_the_heads_without_a_way_back(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        graph = random_graph(rng, rng.randint(0, 7))
        names = [layer.name for layer in graph.layers]
        heads = {
            frozenset(name for name, tier in zip(names, placement, strict=True) if tier == 0)
            for placement in every_placement(graph, 2, {})
        }
        for bits in range(2 ** len(names)):
            head = frozenset(name for i, name in enumerate(names) if bits >> i & 1)
            assert graph.is_closed(head) == (head in heads), f"seed {seed}"


def test_feeding_what_crosses_needs_exactly_the_rest(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        graph = random_graph(rng, rng.randint(1, 7))
        names = [layer.name for layer in graph.layers]
        for placement in every_placement(graph, 2, {}):
            tail = {name for name, tier in zip(names, placement, strict=True) if tier}
            wanted = [t for t in graph.outputs if graph.producer.get(t) in tail]
            needed = {graph.producer[t] for t in wanted}
            ancestors = nx.ancestors
            reached = needed.union(*(ancestors(graph.to_networkx(), name) for name in needed)) & tail
            given = {
                t
                for name in reached
                for t in graph.layer(name).inputs
                if t in graph.inputs or graph.producer[t] not in tail
            }
            assert {layer.name for layer in graph.between(given, wanted)} == reached, f"seed {seed}"


@pytest.mark.parametrize(
    ("given", "wanted", "complaint"),
    [
        (["nothing"], ["y"], "no tensor is called 'nothing'"),
        (["s"], ["y"], "'x' is needed too"),
        (["a", "b", "s"], ["y"], r"\['s'\] are not needed"),
        (["x"], ["z"], "no tensor is called 'z'"),
    ],
)
def test_tensors_that_are_no_cut_are_refused(given: list[str], wanted: list[str], complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        FORK.between(given, wanted)


def test_json_reads_back_to_an_equal_graph(seed: int) -> None:
    rng = random.Random(seed)
    for graph in [FORK, *(random_graph(rng, rng.randint(0, 12)) for _ in range(50))]:
        assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph, f"seed {seed}"


@pytest.mark.parametrize("key", ["layers", "tensors", "inputs", "outputs", "weight_bytes", "batch"])
def test_json_without_a_field_is_refused(key: str) -> None:
    broken = FORK.to_json()
    del broken[key]
    with pytest.raises(ValueError, match=r"not a graph.*" + key):
        Graph.from_json(broken)


def test_networkx_view_has_an_edge_for_each_pair_that_shares_tensors() -> None:
    view = FORK.to_networkx()
    assert list(view) == ["stem", "left", "right", "join"]
    assert {(u, v): tensors for u, v, tensors in view.edges(data="tensors")} == {
        ("stem", "left"): ("s",),
        ("stem", "right"): ("s",),
        ("left", "join"): ("a",),
        ("right", "join"): ("b",),
    }
    assert nx.is_directed_acyclic_graph(view)


SPEC = TensorSpec((1,), "float32")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"inputs": ("x", "x")}, "named twice"),
        ({"layers": (Layer("a", "op", ("x",), ("t",)), Layer("a", "op", ("t",), ("u",)))}, "two layers are called 'a'"),
        ({"layers": (Layer("a", "op", ("t",), ("u",)), Layer("b", "op", ("x",), ("t",)))}, "before anything produces"),
        ({"layers": (Layer("a", "op", ("x",), ("x",)),)}, "exists already"),
        ({"layers": (Layer("a", "op", ("x",), ("t",), weights=("w",)),)}, r"unknown weights \['w'\]"),
        ({"outputs": ("z",)}, r"\['z'\] are never produced"),
        ({"tensors": {}}, "no TensorSpec"),
    ],
)
def test_graph_that_is_none_is_refused(fields: dict[str, Any], complaint: str) -> None:
    good: dict[str, Any] = {
        "layers": (Layer("a", "op", ("x",), ("t",)),),
        "tensors": dict.fromkeys(("x", "t", "u"), SPEC),
        "inputs": ("x",),
        "outputs": ("x",),
    }
    Graph(**good)
    with pytest.raises(ValueError, match=complaint):
        Graph(**{**good, **fields})
