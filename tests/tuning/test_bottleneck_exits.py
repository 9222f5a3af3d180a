"""A version with a bottleneck that gets exits: both stay what they were, at every cut, and are calibrated together."""

from __future__ import annotations

from pathlib import Path

import torch

from splitnn.graph.graft import tensor_values
from splitnn.graph.package import load, save
from splitnn.runtime.verify import check
from splitnn.transport.codec import CODECS
from splitnn.tuning.bottleneck import crossing_tensor
from splitnn.tuning.calibration import calibrate
from splitnn.tuning.exit_heads import attach_exits
from tests.tuning.test_bottleneck import smooth, versions


def test_exits_on_a_version_with_a_bottleneck_leave_its_answers_and_its_recipe(tmp_path: Path, seed: int) -> None:
    (version,) = versions([0.5])
    made = attach_exits(version, at=["tail.1"], train=smooth(200, 5), held_out=smooth(200, 6), max_drop=0.2)
    made = load(save(made, tmp_path / "both"))
    assert check(made, random_cuts=8, seed=seed).passed
    assert made.recipe == version.recipe and made.recipe is not None and made.exits is not None
    sent = crossing_tensor(made)
    assert sent == crossing_tensor(version)
    x = smooth(20, 9).inputs
    last = made.exits.exits[-1].output
    (own,) = tensor_values(version, list(version.graph.outputs), x).values()
    assert torch.equal(torch.as_tensor(tensor_values(made, [last], x)[last]), torch.as_tensor(own))

    codecs = {name: CODECS[name] for name in ("raw", "entropy")}
    found = calibrate(made, smooth(100, 7), codecs=codecs, tensors=[sent])
    assert found.exits is not None
    drops = found.exits.drops[sent]["entropy"]
    assert set(drops) == {("exit1",), ("final",), ("exit1", "final")}
    assert all(drop.high == 0 for drop in drops.values()), "its numbers arrive as they are"
    assert found.tensors[sent]["entropy"].median_bytes < found.tensors[sent]["raw"].median_bytes
