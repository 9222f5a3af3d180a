"""EfficientNet-Lite0 with the bottleneck that comes with splitnn: what it is made of, and what it answers and sends."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from splitnn.runtime.stage import stage
from splitnn.runtime.verify import check
from splitnn.transport.codec import CODECS
from splitnn.tuning.answers import answer_of
from splitnn.tuning.bottleneck import crossing_tensor, cut_tensor, insert
from splitnn.zoo.autoencoder import Bottleneck, Decoder, Encoder
from splitnn.zoo.catalogue import recipe
from splitnn.zoo.datasets import part_of
from splitnn.zoo.pictures import crops
from splitnn.zoo.squeezed import BASE, NOTES, WEIGHTS, notes, trained_bottleneck
from tests.models import captured_real

NAMES = ("efficientnet_lite0_bottleneck", "efficientnet_lite0_bottleneck_x2", "efficientnet_lite0_bottleneck_x4")


@pytest.fixture(scope="module")
def versions() -> dict[str, Model]:
    return {name: captured_real(name) for name in NAMES}


@pytest.fixture(scope="module")
def base() -> Model:
    return captured_real(BASE)


def test_weights_stay_below_half_a_megabyte_and_notes_say_how_to_make_them_again() -> None:
    files = resources.files("splitnn.zoo")
    assert len((files / WEIGHTS).read_bytes()) < 5e5
    assert tuple(notes().rates) == NAMES
    for rate in notes().rates.values():
        assert {"step", "batches", "seed", "patch", "crops", "factor"} <= rate.recipe.settings.keys()
        assert rate.recipe.settings["factor"] == rate.factor


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


@pytest.mark.parametrize("name", NAMES)
def test_it_is_lite0_with_the_bottleneck_grown_in_and_every_cut_leaves_it_alone(
    versions: dict[str, Model], base: Model, name: str, seed: int
) -> None:
    version = versions[name]
    grown = insert(base, cut_tensor(base, notes().tensor), trained_bottleneck(name))
    photo = {base.graph.inputs[0]: torch.from_numpy(zoo.photos(224)["coffee"]).unsqueeze(0)}
    found, wanted = (
        tensor_values(each, [answer_of(each).output], photo)[answer_of(each).output] for each in (version, grown)
    )
    assert torch.equal(found, wanted)  # type: ignore[arg-type]
    # one graph for all, and the same weights but for the step: of the coarser ones some cuts will do
    assert check(version, random_cuts=6, seed=seed, budget_s=120 if name == NAMES[0] else 2).passed
    assert version.recipe is not None and version.recipe.drop is not None
    assert version.recipe.settings["tensor"] == cut_tensor(base, notes().tensor)
    assert version.recipe.base == base.digest


def test_agreement_and_bytes_on_unseen_photos_are_as_they_were_measured(
    versions: dict[str, Model], base: Model
) -> None:
    judged = json.loads((resources.files("splitnn.zoo") / NOTES).read_text(encoding="utf-8"))["judged"]["rates"]
    photos = unseen_photos(notes().trained_on)
    origins, pixels = crops(photos, height=224, width=224, count=4 * len(photos), seed=3)
    answer = answered(base)
    whole = [answer(part)[0].argmax(1) for part in pixels.split(1)]
    for name, version in versions.items():
        measured = judged[name]["learned"]
        answer = answered(version, crossing_tensor(version))
        same, sizes = [], []
        for part, wanted in zip(pixels.split(1), whole, strict=True):
            logits, symbols = answer(part)
            same.append(bool(logits.argmax(1) == wanted))
            sizes.append(len(memoryview(CODECS["entropy"].encode(symbols))))
        low, high = by_origin(np.array(same), origins)
        assert low <= measured["agreement_high"] and high >= measured["agreement_low"], (name, low, high, measured)
        assert float(np.mean(same)) > measured["agreement"] - 0.15, name
        assert float(np.mean(sizes)) == pytest.approx(measured["bytes"], rel=0.25), name


def answered(model: Model, *others: str) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """What makes the model's logits, and other tensors of it, from pixels."""
    wanted = [answer_of(model).output, *others]
    whole = stage(model, model.graph.inputs, wanted)

    def answer(pixels: torch.Tensor) -> list[torch.Tensor]:
        values = whole.run({model.graph.inputs[0]: pixels})
        return [torch.as_tensor(values[name]) for name in wanted]

    return answer


def test_wider_steps_send_fewer_bytes_and_agree_less_often() -> None:
    judged = json.loads((resources.files("splitnn.zoo") / NOTES).read_text(encoding="utf-8"))["judged"]["rates"]
    for figure in ("bytes", "agreement"):
        found = [judged[name]["learned"][figure] for name in NAMES]
        assert sorted(found, reverse=True) == found


def test_a_name_that_is_no_rate_is_none() -> None:
    assert recipe("efficientnet_lite0_bottleneck_x3") is None
    assert recipe(BASE) is None
    with pytest.raises(KeyError):
        trained_bottleneck("efficientnet_lite0_bottleneck_x3")


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("seed", range(3))
def test_a_coarser_bottleneck_is_the_same_at_wider_steps(seed: int, hidden: int) -> None:
    torch.manual_seed(seed)
    made = Bottleneck(Encoder(6, 5, patch=(2, 2), hidden=hidden), Decoder(5, 6, patch=(2, 2), hidden=3 * hidden)).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 6, 8, 8)
    for factor in (0.5, 2.0, 3.3):
        coarse = made.coarser(factor)
        torch.testing.assert_close(coarse.encoder.scaled(x) * factor, made.encoder.scaled(x))
        symbols = torch.randint(-20, 20, (2, 5, 4, 4))
        found, wanted = coarse.decoder(symbols), made.decoder(symbols * factor)
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert made.coarser(2.0).encoder(x).abs().sum() < made.encoder(x).abs().sum()
    with pytest.raises(ValueError, match="factor above 0"):
        made.coarser(0.0)
