"""Exits trained together with their model: they learn, the version says how far, and stays the same on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.graph.package import load, save
from splitnn.runtime.verify import check
from splitnn.tuning.exit_heads import attach_exits
from splitnn.tuning.joint import train_jointly
from splitnn.tuning.learning import Lessons
from splitnn.zoo.datasets import Samples


class Rotated(nn.Module):
    """Classes lie in planes that the first layer folds away: what it keeps can only change if it learns itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 8)
        self.middle = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 32)
        self.third = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(torch.relu(self.first(x)))
        logits: Tensor = 4 * self.third(torch.relu(self.second(y)))
        return logits


def base() -> Model:
    torch.manual_seed(4)
    net = Rotated().eval()
    nn.init.normal_(net.third.weight, std=0.5)
    return capture(net, (torch.randn(2, 12),))


def points(count: int, *, seed: int) -> Samples:
    x = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))
    return Samples({"x": x}, None, tuple(str(number) for number in range(count)), "points")


@pytest.fixture(scope="module")
def both() -> tuple[Model, Model]:
    """With exits on a model that stays as it is, and trained on."""
    train, held_out = points(1500, seed=1), points(600, seed=2)
    frozen = attach_exits(base(), at=["middle"], train=train, held_out=held_out, max_drop=0.2)
    lessons = Lessons(steps=500, batch=64, rate=3e-3)
    return (
        frozen,
        train_jointly(frozen, train=train, held_out=held_out, base=base().digest, max_drop=0.2, lessons=lessons),
    )


def agreement(model: Model, exit: int, data: Samples) -> float:
    """How often an exit answers as the base does."""
    assert model.exits is not None
    output = model.exits.exits[exit].output
    (said,) = tensor_values(model, [output], data.inputs).values()
    (right,) = tensor_values(base(), list(base().graph.outputs), data.inputs).values()
    assert isinstance(said, Tensor) and isinstance(right, Tensor)
    return (said.argmax(1) == right.argmax(1)).float().mean().item()


def test_early_exit_answers_better_than_on_frozen_layers_on_data_never_seen(both: tuple[Model, Model]) -> None:
    frozen, joint = both
    unseen = points(3000, seed=77)
    assert agreement(frozen, -1, unseen) == 1.0, "the layers were frozen"
    before, after = agreement(frozen, 0, unseen), agreement(joint, 0, unseen)
    assert after > before + 0.02, (before, after)
    assert agreement(joint, -1, unseen) > 0.9, "the last exit forgot what it had to teach"


def test_recipe_says_what_each_exit_gained_and_the_last_one_lost(both: tuple[Model, Model]) -> None:
    frozen, joint = both
    held_out = points(600, seed=2)
    recipe = joint.recipe
    assert recipe is not None and recipe.drop is not None and joint.exits is not None
    assert recipe.base == base().digest and recipe.method == "joint"
    for at, name in enumerate(("exit1", "final")):
        assert recipe.figures[f"{name}_right"] == pytest.approx(agreement(joint, at, held_out))
        assert recipe.figures[f"{name}_right_frozen"] == pytest.approx(agreement(frozen, at, held_out))
        assert joint.exits.right_alone[at] / joint.exits.samples == pytest.approx(agreement(joint, at, held_out))
    assert recipe.drop.estimate == pytest.approx(1 - agreement(joint, -1, held_out))
    assert joint.exits.against == "model"


def test_version_is_another_one_that_answers_the_same_once_it_is_loaded(
    both: tuple[Model, Model], tmp_path: Path, seed: int
) -> None:
    frozen, joint = both
    again = load(save(joint, tmp_path / "joint"))
    assert again.digest == joint.digest != frozen.digest
    assert again.exits == joint.exits and again.recipe == joint.recipe
    x = {"x": torch.randn(40, 12)}
    for output, said in tensor_values(joint, list(joint.graph.outputs), x).items():
        assert torch.equal(torch.as_tensor(tensor_values(again, [output], x)[output]), torch.as_tensor(said))
    assert check(again, random_cuts=5, seed=seed).passed


def test_what_is_no_weight_stays_as_it_was(both: tuple[Model, Model]) -> None:
    frozen, joint = both
    kept = {name for name in joint.weights if torch.equal(joint.weights[name], frozen.weights[name])}
    assert any("running_mean" in name for name in kept)
    assert {name for name in joint.weights if "first" in name and "weight" in name}.isdisjoint(kept)


def test_models_without_exits_are_refused() -> None:
    with pytest.raises(InvalidInput, match="takes a model that has exits"):
        train_jointly(replace(base(), exits=None), train=points(8, seed=1), held_out=points(8, seed=2))
