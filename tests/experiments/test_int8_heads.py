"""Heads in int8 beside heads in floats: every part is measured, and the last row has no head."""

from __future__ import annotations

import pytest

from experiments.int8_heads import row_of, said
from splitnn.graph.naming import tensor_named
from splitnn.zoo.datasets import Samples
from splitnn.zoo.fashion import sample_images
from splitnn.zoo.sources import open_model


def test_a_row_has_whole_and_head_in_both_precisions_and_the_last_one_the_whole_alone() -> None:
    pytest.importorskip("onnxruntime")
    model = open_model("experiments.fashion_models:backbone")
    (name,) = model.graph.inputs
    images, _ = sample_images()
    data = Samples({name: images[:8]}, None, tuple(map(str, range(8))), "fashion")
    until = tensor_named(model.graph, "stage2")
    part, whole = (row_of(model, data, each, engines=["onnxruntime"], rounds=1) for each in (until, ""))
    both = {f"{one} {precision} onnxruntime" for one in ("whole", "head") for precision in ("float", "int8")}
    assert isinstance(part["seconds"], dict) and isinstance(whole["seconds"], dict)
    assert part["seconds"].keys() == both
    assert whole["seconds"].keys() == {each for each in both if each.startswith("whole")}
    assert isinstance(part["flops"], float) and 0 < part["flops"] < 1 == whole["flops"]
    assert "head onnxruntime" in said(part) and "head" not in said(whole)
