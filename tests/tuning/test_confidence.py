"""Exits that are attached and calibrated: the model's own answer stays, and what is promised holds on the samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.cascade import cascade
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.graph.package import load, save
from splitnn.runtime.verify import check
from splitnn.tuning.confidence import calibrate_exits, confidences, temperature
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


def test_accuracy_that_nothing_meets_is_refused() -> None:
    model = _stripes()
    with pytest.raises(ValueError, match="no thresholds give"):
        calibrate_exits(model, {"only": model.graph.outputs[0]}, _pictures(50, 1), max_drop=-0.1)


def test_layers_and_answers_that_no_head_fits_are_refused() -> None:
    model = _stripes()
    train, held_out = _pictures(8, 1), _pictures(8, 2)
    with pytest.raises(ValueError, match="no layer or module is called 'nowhere'"):
        attach_exits(model, at=["nowhere"], train=train, held_out=held_out)
    with pytest.raises(InvalidInput, match="is no output of the model"):
        attach_exits(model, at=[], answer="nothing", train=train, held_out=held_out)
