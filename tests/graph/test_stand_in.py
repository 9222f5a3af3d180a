"""A model in another one's place: the oracle is the model itself, on what it would have been given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.exits import Exit, Exits
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.graph.package import load, save
from splitnn.graph.stand_in import stand_in
from splitnn.runtime.verify import check


class Photo(nn.Module):
    """Mean colours of an image to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(image.permute(0, 3, 1, 2).float().mean((2, 3)) / 255)
        return logits


class Rows(nn.Module):
    """Two answers of a row, a layer of which has the name that another model gives to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.early, self.late = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        y = self.x(rows).relu()
        return self.early(y), self.late(y)


class Row(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 4)

    def forward(self, *, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(x)
        return logits


def photo(side: int) -> Model:
    torch.manual_seed(8)
    return capture(Photo(), (torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8),))


def answer(model: Model, given: Tensor) -> Tensor:
    (entry,) = model.graph.inputs
    found = tensor_values(model, model.graph.outputs[-1:], {entry: given})[model.graph.outputs[-1]]
    assert isinstance(found, Tensor)
    return found


def test_images_of_another_size_are_resized_by_the_program_and_names_are_the_originals(
    tmp_path: Path, seed: int
) -> None:
    small, large = photo(12), photo(30)
    made = stand_in(small, large, answer=small.graph.outputs[0], original_answer=large.graph.outputs[0])
    image = torch.randint(0, 256, (4, 30, 30, 3), dtype=torch.uint8)
    smaller = nn.functional.interpolate(image.permute(0, 3, 1, 2), (12, 12), mode="bilinear", antialias=True)
    wanted = answer(small, smaller.permute(0, 2, 3, 1).contiguous())
    torch.testing.assert_close(answer(made, image), wanted, rtol=0, atol=0.005)  # a byte here and there
    assert (made.graph.inputs, made.graph.outputs) == (large.graph.inputs, large.graph.outputs)
    assert made.graph.tensors[made.graph.inputs[0]] == large.graph.tensors[large.graph.inputs[0]]
    assert made.name_inputs(image).keys() == large.name_inputs(image).keys()
    assert check(made, random_cuts=5, seed=seed).passed
    assert load(save(made, tmp_path / "made")).digest == made.digest


def test_taken_names_move_aside_and_exits_stay_exits(seed: int) -> None:
    torch.manual_seed(3)
    model, original = capture(Rows(), (torch.randn(2, 6),)), capture(Row(), {"x": torch.randn(2, 6)})
    early, late = model.graph.outputs
    exits = [Exit("early", early, 1.0, 0.5), Exit("late", late)]
    model = replace(model, exits=Exits.counted(exits, [((True, True), (True, True))], against="model", data="rows"))
    assert "x" in model.graph.index
    made = stand_in(model, original, answer=late, original_answer=original.graph.outputs[0])
    rows = torch.randn(5, 6)
    torch.testing.assert_close(answer(made, rows), answer(model, rows), rtol=0, atol=0)
    assert made.graph.inputs == ("x",) and "model.x" in made.graph.index
    assert made.exits is not None
    assert [each.output for each in made.exits.exits] == list(made.graph.outputs) == [early, *original.graph.outputs]
    assert made.name_inputs(x=rows).keys() == {"x"}
    assert check(made, random_cuts=5, seed=seed).passed


def test_another_input_is_refused_in_words() -> None:
    narrow, wide = (capture(Row(width), {"x": torch.randn(2, width)}) for width in (6, 7))
    with pytest.raises(InvalidInput, match=r"reads the same: x float32 \(2, 7\), not x float32 \(2, 6\)"):
        stand_in(narrow, wide, answer=narrow.graph.outputs[0], original_answer=wide.graph.outputs[0])
