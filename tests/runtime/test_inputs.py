"""What a graph takes goes in unchanged; what it does not take is refused in words that name it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from splitnn.errors import InvalidInput
from splitnn.graph.graph import DATA_DEPENDENT, Graph, Layer, TensorSpec
from splitnn.runtime.inputs import admit, samples_of

GRAPH = Graph(
    layers=(
        Layer("tokens", "op", ("x",), ("y", "size", "picked")),
        Layer("end", "op", ("y", "size", "picked"), ("z",)),
    ),
    tensors={
        "x": TensorSpec((2, 3), "float32", (1, 0)),
        "y": TensorSpec((2, 3, 4), "float32", (1, 0, 0), (0, 2, 1)),
        "size": TensorSpec((), "int"),
        "picked": TensorSpec((5, 3), "int64", (DATA_DEPENDENT, 0)),
        "z": TensorSpec((5, 7), "float32", (2, 0)),
    },
    inputs=("x",),
    outputs=("z",),
    batch=2,
)
Y, PICKED = torch.zeros(2, 3, 4), torch.zeros(9, 3, dtype=torch.int64)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_any_batch_goes_in_where_the_graph_grows(batch: int) -> None:
    x = torch.randn(batch, 3)
    assert admit(GRAPH, {"x": x})["x"] is x
    z = torch.randn(1 + 2 * batch, 7)
    assert admit(GRAPH, {"z": z})["z"] is z


def test_values_are_not_looked_at() -> None:
    assert admit(GRAPH, {"x": torch.full((2, 3), torch.nan)})["x"].isnan().all()  # type: ignore[union-attr]


def test_sizes_that_depend_on_the_data_are_free() -> None:
    assert admit(GRAPH, {"picked": PICKED})["picked"] is PICKED


def test_plain_integers_go_in_as_such_or_as_one_element() -> None:
    assert admit(GRAPH, {"size": 6}) == {"size": 6}
    assert admit(GRAPH, {"size": torch.tensor([6])}) == {"size": 6}


def test_a_contiguous_tensor_is_laid_out_as_the_graph_has_it() -> None:
    y = torch.randn(2, 3, 4)
    laid = admit(GRAPH, {"y": y})["y"]
    assert isinstance(laid, torch.Tensor)
    assert torch.equal(laid, y)
    assert laid.stride() == (12, 1, 3)
    assert admit(GRAPH, {"y": laid})["y"] is laid


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"q": torch.zeros(1)}, ["'q'", "inputs are ['x']", "outputs ['z']"]),
        ({"x": torch.zeros(2, 3, dtype=torch.float64)}, ["'x'", "float64 [2, 3]", "float32 [N, 3]"]),
        ({"x": torch.zeros(2, 4)}, ["'x'", "[2, 4]", "[N, 3]"]),
        ({"x": torch.zeros(0, 3)}, ["'x'", "[0, 3]", "[N, 3]"]),
        ({"x": torch.zeros(3)}, ["'x'", "[3]", "[N, 3]"]),
        ({"z": torch.zeros(4, 7)}, ["'z'", "[4, 7]", "[2N+1, 7]"]),
        ({"picked": torch.zeros(4, 4, dtype=torch.int64)}, ["'picked'", "[4, 4]", "[?, 3]"]),
        ({"x": torch.zeros(4, 3), "y": Y}, ["'y'", "batch of 2", "'x'", "batch of 4"]),
        ({"x": 3}, ["'x'", "plain integer", "float32 [N, 3]"]),
        ({"size": 2**63}, ["'size'", str(2**63), "64 bits"]),
        ({"size": True}, ["'size'", "True", "plain integer"]),
        ({"size": torch.zeros(2, dtype=torch.int64)}, ["'size'", "int64 [2]", "one plain integer"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tensors: Mapping[str, torch.Tensor | int], words: list[str]) -> None:
    with pytest.raises(InvalidInput) as refusal:
        admit(GRAPH, tensors)
    for word in words:
        assert word in str(refusal.value)


def test_the_batch_is_what_the_tensors_say() -> None:
    assert samples_of(GRAPH, {"picked": PICKED, "z": torch.zeros(13, 7)}) == 6
    assert samples_of(GRAPH, {"size": 3}) == GRAPH.batch
