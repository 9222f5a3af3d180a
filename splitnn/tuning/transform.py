"""A bottleneck in closed form: the Karhunen-Loève transform of a tensor, weighted by what the answer feels.

Values x of a patch have covariance S, and a disturbance d of them costs d' F d / 2 nats of the answer, F the Fisher
information. In coordinates y = F^(1/2) x that cost is a plain square, so there the classical answer holds: decorrelate
(eigenvectors of F^(1/2) S F^(1/2)), round everything to one common step, and let an entropy coder do the rest; what
varies by less than the step costs nothing (reverse water-filling). The decoder is the linear one with the least
squared error from the rounded numbers around, which shrinks them towards the mean as Wiener's filter does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from splitnn.tuning.bottleneck import patches_of
from splitnn.zoo.autoencoder import Bottleneck, Decoder, Encoder, Size

_LEAST_FEELING = 1.0  # times the mean information, added to all directions: less would trust few photos too much
_MOST_TERMS = 2048  # of the linear decoder: beyond, it looks at one place only
_DEAD_ZONE = 0.1  # of a step on either side of zero
_RIDGE = 1e-4
_FIT_BATCH = 16


@dataclass(frozen=True)
class Basis:
    """Directions of a patch in which its values are independent and matter alike, the widest first."""

    patch: Size  # height and width
    mean: torch.Tensor  # (D,)
    directions: torch.Tensor  # (D, D): a row each
    spread: float  # root of the mean variance along them: the unit of a step
    nats: float  # what the answer changes by, for a squared disturbance of 1 along the directions


def basis(values: torch.Tensor, felt: torch.Tensor, *, patch: Size) -> Basis:
    """The basis for a tensor's ``values`` (N, C, H, W) with gradients ``felt`` (M, C, H, W) of the answers' likelihood.

    H and W are multiples of the patch's.
    """
    rows = _rows(values, patch)
    mean = rows.mean(0)
    rows = rows - mean
    covariance = (rows.T @ rows / len(rows)).double()
    information, scale = _information(_rows(felt, patch))
    size, axes = torch.linalg.eigh(information)
    root = axes @ torch.diag(size.sqrt()) @ axes.T
    variance, turn = torch.linalg.eigh(root @ covariance @ root)
    directions = (turn.T @ root).flip(0)
    return Basis(patch, mean, directions.float(), float(variance.clamp(min=0).mean().sqrt()), scale / 2)


def _information(rows: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Second moment of gradients (M, D), at a mean of one a direction and never near none, and what divided it."""
    moment = (rows.T @ rows / len(rows)).double()
    scale = moment.diagonal().mean()
    unit = torch.eye(len(moment), dtype=torch.float64)
    if not scale > 0:
        return unit, 0.0
    return (moment / scale + _LEAST_FEELING * unit) / (1 + _LEAST_FEELING), float(scale)


def _rows(values: torch.Tensor, patch: Size) -> torch.Tensor:
    """(N, C, H, W) to (patches, C * rows * columns)."""
    return patches_of(values, patch).permute(0, 2, 3, 1).flatten(0, 2)


def transform_bottleneck(values: torch.Tensor, found: Basis, *, step: float, kernel: Size = (3, 3)) -> Bottleneck:
    """The bottleneck that rounds to ``step`` times the basis's spread; its decoder is fitted to ``values``.

    Directions along which nothing in ``values`` reaches a step are left out.

    Raises:
        ValueError: the step is not above 0, or so large that nothing is left.
    """
    if not step > 0:
        raise ValueError(f"a step is above 0, not {step}")
    channels, patch = values.shape[1], found.patch
    unit = step * found.spread
    encoder = _encoder(found, found.directions / unit, channels)
    alive = torch.zeros(len(found.directions), dtype=torch.bool)
    with torch.inference_mode():
        for part in values.split(_FIT_BATCH):
            alive |= (encoder(part) != 0).any(0).flatten(1).any(1)
    if not bool(alive.any()):
        raise ValueError(f"a step of {step} leaves nothing of the tensor; take a smaller one")
    encoder = _encoder(found, found.directions[alive] / unit, channels)
    kept = int(alive.sum())
    if kept * kernel[0] * kernel[1] > _MOST_TERMS:
        kernel = (1, 1)
    decoder = Decoder(kept, channels, patch=patch, kernel=kernel)
    weight, bias = _least_squares(encoder, values, patch=patch, kernel=kernel)
    with torch.no_grad():
        decoder.linear.weight.copy_(weight)
        decoder.linear.bias.copy_(bias)  # type: ignore[union-attr]
    return Bottleneck(encoder, decoder).eval()


def _encoder(found: Basis, rows: torch.Tensor, channels: int) -> Encoder:
    patch = found.patch
    encoder = Encoder(channels, len(rows), patch=patch, dead_zone=_DEAD_ZONE)
    with torch.no_grad():
        encoder.project.weight.copy_(rows.view(-1, channels, *patch))
        encoder.project.bias.copy_(-rows @ found.mean)  # type: ignore[union-attr]
    return encoder


def _least_squares(
    encoder: Encoder, values: torch.Tensor, *, patch: Size, kernel: Size
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (C * rows * columns, K, *kernel) and bias of the best linear decoder, by normal equations."""
    terms = encoder.project.out_channels * kernel[0] * kernel[1] + 1
    outputs = values.shape[1] * patch[0] * patch[1]
    padding = kernel[0] // 2, kernel[1] // 2
    gram = torch.zeros(terms, terms, dtype=torch.float64)
    moment = torch.zeros(terms, outputs, dtype=torch.float64)
    with torch.inference_mode():
        for part in values.split(_FIT_BATCH):
            around = functional.unfold(encoder(part).float(), kernel, padding=padding)  # (N, terms - 1, h * w)
            seen = around.permute(0, 2, 1).flatten(0, 1)
            seen = torch.cat((seen, torch.ones(len(seen), 1)), 1)
            gram += (seen.T @ seen).double()
            moment += (seen.T @ _rows(part, patch)).double()
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(terms, dtype=torch.float64)
    ridge[-1, -1] = 0.0
    solution = torch.linalg.solve(gram + ridge, moment).float()
    weight = solution[:-1].T.reshape(outputs, -1, *kernel)
    return weight, solution[-1]
