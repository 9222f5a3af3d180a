"""How many bits small whole numbers will take, as a smooth function of them that training can go down along."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

_LEAST_MASS = 1e-6
_LEAST_SPREAD = 0.02
_LEAST_LIVELY = 0.2  # of a channel's usual size: the logarithm of nothing is no number
_FIRST_TRUST = 0.2  # in what is around, before anything was learned


class LogisticBits(nn.Module):
    """Bits of symbols (N, K, h, w), each logistic about a centre with a spread, both learned for each channel.

    Both follow what is around, as they do in the codec ``entropy``: the centre the mean of the neighbours in the plane,
    the spread their size and the mean size of what all channels hold at the same place. A codec sees but a part of that
    before it codes a symbol, and never the symbol itself, so the estimate is somewhat low; with few channels, too low.
    """

    _ring: torch.Tensor

    def __init__(self, spread: torch.Tensor) -> None:
        """``spread`` (K,): mean absolute value of each channel's symbols, from which the distributions start."""
        super().__init__()
        ring = torch.full((3, 3), 1 / 8)
        ring[1, 1] = 0.0
        self.register_buffer("_ring", ring[None, None])
        self.log_scale = nn.Parameter((spread.clamp(min=_LEAST_SPREAD) / (2 * math.log(2))).log()[:, None, None])
        self.centre = nn.Parameter(torch.zeros(len(spread), 1, 1))
        self.towards_near = nn.Parameter(torch.zeros(len(spread), 1, 1))
        self.by_near = nn.Parameter(torch.full((len(spread), 1, 1), _FIRST_TRUST))
        self.by_place = nn.Parameter(torch.full((len(spread), 1, 1), _FIRST_TRUST))

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        """The sum over everything but samples: (N,)."""
        usual = self.log_scale.exp().detach()
        size = symbols.abs() / usual
        near = (self._near(size) + _LEAST_LIVELY).log()
        place = (size.mean(1, keepdim=True) + _LEAST_LIVELY).log()
        scale = (self.log_scale + self.by_near * near + self.by_place * place).exp()
        distance = (symbols - self.centre - self.towards_near * self._near(symbols)).abs()
        # the mass between two points on one side of the centre: no difference of numbers near 1
        mass = torch.sigmoid((0.5 - distance) / scale) - torch.sigmoid((-0.5 - distance) / scale)
        bits: torch.Tensor = -mass.clamp(min=_LEAST_MASS).log2().sum((1, 2, 3))
        return bits

    def _near(self, planes: torch.Tensor) -> torch.Tensor:
        """Of each place the mean of the eight around it; beyond the border lies what lies at it."""
        padded = functional.pad(planes, (1, 1, 1, 1), mode="replicate").flatten(0, 1)
        return functional.conv2d(padded[:, None], self._ring).view_as(planes)


def rounded(scaled: torch.Tensor) -> torch.Tensor:
    """Whole numbers forwards, as if nothing had happened backwards."""
    clamped = scaled.clamp(-127, 127)
    return clamped + (clamped.round() - clamped).detach()
