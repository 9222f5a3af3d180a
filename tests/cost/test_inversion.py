"""The trained inverse on what can be undone, what cannot, and what a linear attack fails at."""

from __future__ import annotations

import torch

from splitnn.cost.inversion import explained_by_network
from splitnn.cost.leakage import _explained_by_ridge

PIXELS = 48
TRAIN = 600


def _images(count: int = 800) -> torch.Tensor:
    """Uniform random pixels: nothing to know about them but themselves."""
    return torch.rand(count, PIXELS, generator=torch.Generator().manual_seed(5))


def _explained(features: torch.Tensor, images: torch.Tensor, *, seed: int = 0) -> float:
    return explained_by_network(
        features[:TRAIN], images[:TRAIN], x_held=features[TRAIN:], y_held=images[TRAIN:], seed=seed
    )


def test_the_input_itself_is_reconstructed() -> None:
    assert _explained(_images(), _images()) > 0.9


def test_a_permutation_of_the_pixels_is_undone() -> None:
    order = torch.randperm(PIXELS, generator=torch.Generator().manual_seed(6))
    assert _explained(_images()[:, order] * 3 - 7, _images()) > 0.9


def test_nothing_is_learnt_from_a_constant_or_from_noise() -> None:
    noise = torch.rand(800, PIXELS, generator=torch.Generator().manual_seed(7))
    assert _explained(torch.ones(800, PIXELS), _images()) == 0.0
    assert _explained(noise, _images()) < 0.05


def test_a_constant_input_has_nothing_to_reconstruct() -> None:
    assert _explained(_images(), torch.ones(800, PIXELS)) == 0.0


def test_a_bend_that_a_linear_attack_cannot_undo_is_undone() -> None:
    generator = torch.Generator().manual_seed(8)
    hidden = torch.rand(4000, 2, generator=generator) * 2 - 1
    folded = torch.stack([hidden[:, 0], hidden[:, 1].abs()], 1)  # the fold of the second is what the image shows
    shown = hidden[:, :1].abs()
    linear = _explained_by_ridge(
        folded[:3000].double(), shown[:3000].double(), x_held=folded[3000:].double(), y_held=shown[3000:].double()
    )
    network = explained_by_network(folded[:3000], shown[:3000], x_held=folded[3000:], y_held=shown[3000:])
    assert linear < 0.1 and network > 0.9


def test_the_same_seed_finds_the_same_and_leaves_other_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    bent = torch.relu(_images() - 0.5)
    first = _explained(bent, _images(), seed=1)
    assert torch.equal(torch.rand(4), expected)
    assert _explained(bent, _images(), seed=1) == first
