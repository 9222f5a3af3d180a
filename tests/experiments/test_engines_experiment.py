"""The engines experiment: head and tail are the whole, and every way is measured against torch."""

from __future__ import annotations

import pytest
import torch

from experiments.engines.__main__ import compiled_ways, measured, parts_of, report
from tests.models import captured


def test_tail_of_the_heads_results_is_the_whole() -> None:
    (_, whole, example), (_, head, given), (_, tail, between) = parts_of(captured("chain"))
    with torch.inference_mode():
        made = head(*given)
        assert all(torch.equal(one, other) for one, other in zip(made, between, strict=True))
        assert all(torch.equal(one, other) for one, other in zip(tail(*between), whole(*example), strict=True))


def test_torch_is_its_own_measure_and_engines_that_are_there_are_near() -> None:
    pytest.importorskip("onnxruntime")
    _, (part, call, example), _ = parts_of(captured("chain"))
    ways, absent = compiled_ways(call, example)
    rows = {row.engine: row for row in measured("chain", part, call, example, ways, rounds=3)}
    assert rows["torch"].ratio == 1
    assert rows["torch"].difference == 0
    assert rows["onnxruntime"].difference < 1e-4
    assert rows.keys().isdisjoint(absent)


def test_headline_is_of_the_first_model() -> None:
    _, head, tail = (
        measured("chain", part, call, example, {"torch": call}, rounds=1)
        for part, call, example in parts_of(captured("chain"))
    )
    said = report([*head, *tail], {})["headline"]
    assert isinstance(said, dict)
    assert said["best_head_ratio"] == said["best_tail_ratio"] == 1
    assert said["largest_float32_difference"] == 0
