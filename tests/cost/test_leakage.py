"""Leakage on a network whose tensors are known to tell everything, something, and nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitnn.cost.leakage import Leakage, measure_leakage, too_revealing
from splitnn.graph.capture import capture
from splitnn.graph.model import Model


class Net(nn.Module):
    """A rescaled image, a convolution that sees it all, one number of it, and what does not depend on it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.narrow = nn.Conv2d(12, 1, 4, stride=4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scaled = image * 2 - 1
        wide = self.conv(scaled)
        narrow = torch.relu(self.narrow(wide))
        nothing = narrow.sum(dim=(1, 2, 3)) * 0 + 1
        return (nothing + 1) + narrow.mean(dim=(1, 2, 3))


@pytest.fixture(scope="module")
def found() -> dict[str, Leakage]:
    model = capture(Net(), (torch.rand(1, 3, 16, 16),))
    return measure_leakage(model, _samples(40))


@pytest.fixture(scope="module")
def model() -> Model:
    return capture(Net(), (torch.rand(1, 3, 16, 16),))


def _samples(count: int) -> list[torch.Tensor]:
    """Smooth random images: noise has nothing to reconstruct."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    return list(nn.functional.interpolate(coarse, 16, mode="bilinear").split(1))


def test_a_rescaled_image_tells_everything(found: dict[str, Leakage]) -> None:
    for tensor in ("image", "mul", "sub"):
        assert found[tensor].distance_correlation == pytest.approx(1.0, abs=1e-6)
        assert found[tensor].explained > 0.99


def test_a_wide_convolution_gives_the_image_away_to_the_attack(found: dict[str, Leakage]) -> None:
    assert found["conv"].explained > 0.9


def test_what_has_fewer_numbers_tells_less(found: dict[str, Leakage]) -> None:
    wide, narrow = found["conv"], found["narrow"]
    assert narrow.explained < wide.explained and narrow.distance_correlation < wide.distance_correlation


def test_what_is_constant_tells_nothing(found: dict[str, Leakage]) -> None:
    assert min(each.score for each in found.values()) == 0.0


def test_independent_noise_is_not_taken_for_leakage() -> None:
    from splitnn.cost.leakage import _distance_correlation, _distances

    generator = torch.Generator().manual_seed(2)
    scores = [
        _distance_correlation(
            *(_distances(torch.randn(40, 200, generator=generator, dtype=torch.float64)) for _ in range(2))
        )
        for _ in range(20)
    ]
    assert sum(scores) / len(scores) < 0.2, "the plain estimate is above 0.9 here"


def test_a_threshold_names_the_tensors_above_it(found: dict[str, Leakage]) -> None:
    named = too_revealing(found, threshold=0.9)
    assert {"image", "mul", "sub", "conv"} <= set(named) and "narrow" not in named
    with pytest.raises(ValueError, match="between 0 and 1"):
        too_revealing(found, threshold=1.5)


def test_leakage_needs_enough_images_of_the_right_shape(model: Model) -> None:
    with pytest.raises(ValueError, match="8 samples or more"):
        measure_leakage(model, _samples(3))
    with pytest.raises(ValueError, match="a sample has shape"):
        measure_leakage(model, [torch.rand(1, 3, 8, 8) for _ in range(10)])
