"""EfficientNet-Lite0 with the bottleneck that comes with splitnn: what it is made of, and what it answers and sends."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_weights

from experiments.codecs.statistics import by_origin
from experiments.train_bottleneck.unseen_photos import unseen_photos
from splitnn import zoo
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.runtime.verify import check
from splitnn.transport.codec import CODECS
from splitnn.tuning.bottleneck import crossing_tensor, cut_tensor, insert
from splitnn.tuning.drops import answers_of
from splitnn.zoo.autoencoder import Bottleneck
from splitnn.zoo.datasets import part_of
from splitnn.zoo.pictures import crops
from splitnn.zoo.sources import open_model
from splitnn.zoo.squeezed import BASE, NOTES, WEIGHTS, notes, trained_bottleneck

NAME = "efficientnet_lite0_bottleneck"


@pytest.fixture(scope="module")
def version() -> Model:
    return open_model(NAME)


@pytest.fixture(scope="module")
def base() -> Model:
    return open_model(BASE)


def test_weights_stay_below_half_a_megabyte_and_notes_say_how_to_make_them_again() -> None:
    files = resources.files("splitnn.zoo")
    assert len((files / WEIGHTS).read_bytes()) < 5e5
    assert {"step", "batches", "seed", "patch", "crops"} <= notes().recipe.settings.keys()


def test_no_photo_that_it_is_judged_by_was_trained_on() -> None:
    assert notes().trained_on
    assert all(part_of(photo) == "train" for photo in notes().trained_on)
    assert not set(unseen_photos(notes().trained_on)) & set(notes().trained_on)


def test_weights_of_another_shape_are_no_bottleneck() -> None:
    weights = load_weights((resources.files("splitnn.zoo") / WEIGHTS).read_bytes())
    assert torch.equal(
        Bottleneck.of_weights(weights, dead_zone=0.1).encoder.project.bias,  # type: ignore[arg-type]
        trained_bottleneck().encoder.project.bias,  # type: ignore[arg-type]
    )
    with pytest.raises(KeyError):
        Bottleneck.of_weights({}, dead_zone=0.1)
    weights["decoder.linear.bias"] = weights["decoder.linear.bias"][1:]
    with pytest.raises(RuntimeError, match=r"decoder\.linear\.bias"):
        Bottleneck.of_weights(weights, dead_zone=0.1)


def test_it_is_lite0_with_the_bottleneck_grown_in_and_every_cut_leaves_it_alone(version: Model, base: Model) -> None:
    grown = insert(base, cut_tensor(base, notes().tensor), trained_bottleneck())
    photo = {base.graph.inputs[0]: torch.from_numpy(zoo.photos(224)["coffee"]).unsqueeze(0)}
    found, wanted = (tensor_values(each, [answers_of(each)], photo)[answers_of(each)] for each in (version, grown))
    assert torch.equal(found, wanted)  # type: ignore[arg-type]
    assert check(version, random_cuts=2, seed=0).passed
    assert version.recipe is not None and version.recipe.drop is not None
    assert version.recipe.settings["tensor"] == cut_tensor(base, notes().tensor)
    assert version.recipe.base == base.digest


def test_agreement_and_bytes_on_unseen_photos_are_as_they_were_measured(version: Model, base: Model) -> None:
    measured = json.loads((resources.files("splitnn.zoo") / NOTES).read_text(encoding="utf-8"))["judged"]["learned"]
    photos = unseen_photos(notes().trained_on)
    origins, pixels = crops(photos, height=224, width=224, count=4 * len(photos), seed=3)
    crossing = crossing_tensor(version)
    same, sizes = [], []
    for part in pixels.split(1):
        values = tensor_values(version, [crossing, answers_of(version)], {version.graph.inputs[0]: part})
        whole = tensor_values(base, [answers_of(base)], {base.graph.inputs[0]: part})[answers_of(base)]
        symbols, logits = values[crossing], values[answers_of(version)]
        assert (
            isinstance(symbols, torch.Tensor) and isinstance(logits, torch.Tensor) and isinstance(whole, torch.Tensor)
        )
        same.append(int(logits.argmax()) == int(whole.argmax()))
        sizes.append(len(memoryview(CODECS["entropy"].encode(symbols))))
    low, high = by_origin(np.array(same), origins)
    assert low <= measured["agreement_high"] and high >= measured["agreement_low"], (low, high, measured)
    assert float(np.mean(same)) > measured["agreement"] - 0.15
    assert float(np.mean(sizes)) == pytest.approx(measured["bytes"], rel=0.25)
