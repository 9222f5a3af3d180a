"""The network that comes with splitnn: its answers on the test images that come with it, and its exits' policy."""

from __future__ import annotations

from importlib import resources

import pytest
import torch

import splitnn
from splitnn import zoo
from splitnn.cost.accuracy import policy_drop
from splitnn.graph.model import Model
from splitnn.runtime.exits import confidences
from splitnn.runtime.verify import check
from splitnn.tuning.evaluation import values_on
from splitnn.zoo.datasets import Samples
from splitnn.zoo.fashion import WEIGHTS, sample_images


@pytest.fixture(scope="module")
def model() -> Model:
    return splitnn.open_model("fashion_exits")


def test_checkpoint_stays_below_a_megabyte() -> None:
    files = resources.files("splitnn.zoo")
    assert len((files / WEIGHTS).read_bytes()) < 1e6


def test_entry_says_what_goes_in(model: Model) -> None:
    entry = next(entry for entry in zoo.models() if entry.name == "fashion_exits")
    (name,) = model.graph.inputs
    spec = model.graph.tensors[name]
    assert f"{spec.dtype} (1, {entry.side}, {entry.side}, 1)" in entry.input
    assert spec.shape[1:] == (entry.side, entry.side, 1)


def test_exits_are_right_on_images_they_were_not_trained_on(model: Model) -> None:
    assert model.exits is not None
    model.exits.check_fits(model.graph)
    images, labels = sample_images()
    given = Samples({model.graph.inputs[0]: images}, labels, tuple(map(str, range(len(labels)))), "the package")
    logits = list(values_on(model, given, [each.output for each in model.exits.exits]).values())
    right = [float((rows.argmax(1) == labels).float().mean()) for rows in logits]
    assert right[0] > 0.82
    assert right[1] > 0.88
    assert right[2] > 0.90
    answers = torch.full_like(labels, -1)
    for rows, each in zip(logits, model.exits.exits, strict=True):
        leaves = (answers < 0) & (confidences(rows, each.temperature) >= each.threshold)
        answers[leaves] = rows.argmax(1)[leaves]
    together = float((answers == labels).float().mean())
    assert together > right[2] - 0.015
    assert model.exits.reach[1] < 0.7


def test_cuts_between_exits_hold(model: Model, seed: int) -> None:
    assert check(model, random_cuts=5, seed=seed).passed


def test_shipped_thresholds_lose_at_most_what_their_script_allows(model: Model) -> None:
    assert model.exits is not None
    assert policy_drop(model.exits, [each.name for each in model.exits.exits]).high <= 0.0041
