"""Exits that are attached and calibrated: the model's own answer stays, and what is promised holds on the samples."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splitnn.cost.accuracy import policy_drop
from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.cascade import cascade
from splitnn.graph.exits import Exit, Exits
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.graph.package import load, save
from splitnn.graph.recipe import NO_DROP
from splitnn.runtime.exits import confidences
from splitnn.runtime.verify import check
from splitnn.transport.codec import CODECS
from splitnn.tuning.calibration import calibrate
from splitnn.tuning.confidence import calibrate_exits, recounted, temperature
from splitnn.tuning.drops import drop_of
from splitnn.tuning.evaluation import values_on
from splitnn.tuning.exit_heads import attach_exits
from splitnn.zoo.datasets import Samples


class Stripes(nn.Module):
    """Ten classes of 8 x 8 pictures, decided by a picture's brightest of ten patterns; deeper layers see sharper."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        y = nn.functional.avg_pool2d(torch.relu(self.second(y)), 2)
        logits: Tensor = 8 * self.fc(y.flatten(1))
        return logits


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 20 * self.fc(x.flatten(1))
        return logits


def _stripes() -> Model:
    torch.manual_seed(1)
    return capture(Stripes(), (torch.randn(2, 1, 8, 8),))


def _pictures(count: int, seed: int) -> Samples:
    pictures = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Samples({"x": pictures}, None, tuple(str(number) for number in range(count)), "noise")


@pytest.fixture(scope="module")
def attached() -> Model:
    model = _stripes()
    return attach_exits(
        model, at=["first", "second"], train=_pictures(1500, 2), held_out=_pictures(400, 3), max_drop=0.1
    )


def test_attached_exits_leave_the_models_own_answer_as_it_is(attached: Model) -> None:
    model, pictures = _stripes(), _pictures(4, 9)
    (own,) = (tensor_values(model, [name], pictures.inputs)[name] for name in model.graph.outputs)
    assert attached.exits is not None
    last = attached.exits.exits[-1].output
    found = tensor_values(attached, [last], pictures.inputs)[last]
    assert isinstance(own, Tensor) and isinstance(found, Tensor)
    assert torch.equal(own, found)


def test_attached_exits_are_an_ordinary_model(attached: Model, tmp_path: Path, seed: int) -> None:
    assert check(attached, random_cuts=5, seed=seed).passed
    again = load(save(attached, tmp_path / "package"))
    assert again.exits == attached.exits
    assert again.digest == attached.digest


def test_heads_agree_with_the_model_far_more_often_than_chance(attached: Model) -> None:
    assert attached.exits is not None
    assert attached.exits.against == "model"
    first, second, last = (right / attached.exits.samples for right in attached.exits.right_alone)
    assert first > 0.3
    assert second > 0.5
    assert last == 1


def test_tallies_are_what_the_samples_do(attached: Model) -> None:
    exits = attached.exits
    assert exits is not None
    assert exits.accuracy >= 0.9
    held_out = _pictures(400, 3)
    values = values_on(attached, held_out, [each.output for each in exits.exits])
    logits = list(values.values())
    truth = logits[-1].argmax(1)
    left, right = [0] * 3, 0
    for sample in range(400):
        for at, each in enumerate(exits.exits):
            if confidences(logits[at][sample : sample + 1], each.temperature).item() >= each.threshold:
                left[at] += 1
                right += int(logits[at][sample].argmax() == truth[sample])
                break
    assert tuple(left) == exits.left
    assert right == sum(exits.right)
    assert left[0] + left[1] > 20


def test_temperature_is_that_from_which_the_labels_were_drawn() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(20_000, 10, generator=generator) * 6
    labels = torch.multinomial((logits / 2.5).softmax(1), 1, generator=generator)[:, 0]
    assert temperature(logits, labels) == pytest.approx(2.5, rel=0.03)


def test_cascade_is_the_pair_of_both_models() -> None:
    torch.manual_seed(6)
    large, small = _stripes(), capture(Small(), (torch.randn(2, 1, 8, 8),))
    both, outputs = cascade(small, large)
    pictures = _pictures(300, 5)
    values = tensor_values(both, list(outputs.values()), pictures.inputs)
    for model, output in zip((small, large), outputs.values(), strict=True):
        alone = tensor_values(model, model.graph.outputs, pictures.inputs)[model.graph.outputs[0]]
        found = values[output]
        assert isinstance(alone, Tensor) and isinstance(found, Tensor)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-5)
    exits = calibrate_exits(both, outputs, pictures, max_drop=1.0)
    assert exits.left == (300, 0)


class Photo(nn.Module):
    """Mean colours of an image to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(image.permute(0, 3, 1, 2).float().mean((2, 3)) / 255)
        return logits


def test_small_model_of_a_cascade_sees_the_image_in_its_own_size(seed: int) -> None:
    torch.manual_seed(8)
    small, large = (
        capture(Photo(), (torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8),)) for side in (12, 30)
    )
    both, outputs = cascade(small, large)
    image = torch.randint(0, 256, (4, 30, 30, 3), dtype=torch.uint8)
    smaller = nn.functional.interpolate(image.permute(0, 3, 1, 2), (12, 12), mode="bilinear", antialias=True)
    name = small.graph.inputs[0]
    alone = tensor_values(small, small.graph.outputs, {name: smaller.permute(0, 2, 3, 1).contiguous()})
    found = tensor_values(both, [outputs["small"]], {large.graph.inputs[0]: image})[outputs["small"]]
    wanted = alone[small.graph.outputs[0]]
    assert isinstance(found, Tensor) and isinstance(wanted, Tensor)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.005)  # a byte here and there is rounded otherwise
    assert len(both.graph.outputs) == 2
    assert check(both, random_cuts=5, seed=seed).passed


def test_loss_on_other_samples_is_rarely_above_the_limit_though_few_chose_the_thresholds(attached: Model) -> None:
    assert attached.exits is not None
    outputs = {each.name: each.output for each in attached.exits.exits}
    limit, answering, above = 0.08, 0, 0
    for seed in range(12):
        print(f"seed {seed}")
        chosen = calibrate_exits(attached, outputs, _pictures(150, 60 + seed), max_drop=limit)
        assert policy_drop(chosen, list(outputs)).high <= limit
        elsewhere = recounted(replace(attached, exits=chosen), _pictures(2000, 51))
        assert elsewhere is not None
        print(f"lost elsewhere {1 - elsewhere.accuracy}")
        answering += any(chosen.left[:-1])
        above += 1 - elsewhere.accuracy > limit
    assert answering == 12, "exits that never answer test nothing"
    assert above <= 2  # of point estimates, most


def test_crops_of_few_photos_prove_less_than_as_many_photos(attached: Model) -> None:
    assert attached.exits is not None
    outputs = {each.name: each.output for each in attached.exits.exits}
    apart = _pictures(100, 70)
    crops = Samples({"x": apart.inputs["x"].repeat(4, 1, 1, 1)}, None, apart.origins * 4, "crops")
    found = calibrate_exits(attached, outputs, crops, max_drop=0.15)
    alone = calibrate_exits(attached, outputs, apart, max_drop=0.15)
    assert policy_drop(found, list(outputs)).high <= 0.15
    assert sum(found.left[:-1]) / 4 <= sum(alone.left[:-1]) + 10
    assert found.design_effect > 2 or not any(found.left[:-1])


def test_policy_drop_is_that_of_the_samples_one_by_one(seed: int) -> None:
    rng = random.Random(seed)
    flags = [[rng.random() < 0.5 for _ in range(3)] for _ in range(400)]
    rows = list(zip(flags[:200], flags[200:], strict=True))
    exits = [Exit("a", "a", 1.0, 0.5), Exit("b", "b", 1.0, 0.5), Exit("c", "c")]
    counted = Exits.counted(exits, rows, against="labels", data="made up")
    for names in (["a"], ["b"], ["a", "b"], ["a", "c"], ["a", "b", "c"]):
        kept = ["abc".index(name) for name in names]
        changed = []
        for sure, right in rows:
            leaves = next((at for at in kept if sure[at]), kept[-1])
            changed.append(int(right[2]) - int(right[leaves]))
        found, wanted = policy_drop(counted, names), drop_of(changed, tuple(map(str, range(200))))
        assert found.estimate == wanted.estimate
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.001)  # of 200 origins, not 199
    assert policy_drop(counted, ["c"]) == NO_DROP


def test_few_samples_and_limits_that_are_no_shares_are_refused(attached: Model) -> None:
    assert attached.exits is not None
    outputs = {each.name: each.output for each in attached.exits.exits}
    with pytest.raises(InvalidInput, match="fewer than 100 say nothing"):
        calibrate_exits(attached, outputs, _pictures(3, 1), max_drop=0.5)
    with pytest.raises(ValueError, match="a drop is a share"):
        calibrate_exits(attached, outputs, _pictures(200, 1), max_drop=-0.1)


def test_nothing_is_lost_where_nothing_may_be(attached: Model) -> None:
    assert attached.exits is not None
    outputs = {each.name: each.output for each in attached.exits.exits}
    assert calibrate_exits(attached, outputs, _pictures(200, 1), max_drop=0.0).left == (0, 0, 200)


def test_layers_and_answers_that_no_head_fits_are_refused() -> None:
    model = _stripes()
    train, held_out = _pictures(8, 1), _pictures(8, 2)
    with pytest.raises(InvalidInput, match="no tensor, layer or module is called 'nowhere'"):
        attach_exits(model, at=["nowhere"], train=train, held_out=held_out)
    with pytest.raises(InvalidInput, match="is no output of the model"):
        attach_exits(model, at=[], answer="nothing", train=train, held_out=held_out)
    with pytest.raises(InvalidInput, match="'second' lies behind 'first'"):
        attach_exits(model, at=["second", "first"], train=train, held_out=held_out)
    with pytest.raises(InvalidInput, match="would be the same"):
        attach_exits(model, at=["first", "first"], train=train, held_out=held_out)
    (logits,) = model.graph.outputs
    for last in (logits, model.graph.producer[logits]):
        with pytest.raises(InvalidInput, match=f"nothing lies behind '{last}' but the model's answer"):
            attach_exits(model, at=["first", last], train=train, held_out=held_out)


def test_nan_is_refused_and_no_threshold_is_made_of_it(attached: Model) -> None:
    assert attached.exits is not None
    outputs = {each.name: each.output for each in attached.exits.exits}
    data = _pictures(200, 1)
    data.inputs["x"][17, 0, 3, 3] = torch.nan
    with pytest.raises(InvalidInput, match=r"'x' holds NaN \(sample 17\)"):
        calibrate_exits(attached, outputs, data, max_drop=0.5)


def test_heads_learn_nothing_from_a_model_that_answers_nan() -> None:
    train = _pictures(40, 1)
    train.inputs["x"][5] = torch.inf
    with pytest.raises(InvalidInput, match=r"what the model answers holds NaN \(sample 5\)"):
        attach_exits(_stripes(), at=["first"], train=train, held_out=_pictures(200, 2))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.arange(200) % 10 + 100, "the model has 10 classes"),
        (torch.arange(200) % 10 - 1, "must be from 0"),
        (torch.arange(200) % 10 + 0.5, "labels are int64"),
        (torch.zeros(200, 1, dtype=torch.int64), "labels are int64"),
        (torch.zeros(100, dtype=torch.int64), "labels are int64"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: Tensor, said: str) -> None:
    model = _stripes()
    data = replace(_pictures(200, 1), labels=labels)
    for outputs in ({"only": model.graph.outputs[0]},):
        with pytest.raises(InvalidInput, match=said):
            calibrate_exits(model, outputs, data)
    with pytest.raises(InvalidInput, match=said):
        calibrate(model, data, codecs={"raw": CODECS["raw"]})
