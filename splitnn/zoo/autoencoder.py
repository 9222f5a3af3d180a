"""An encoder to few small whole numbers and a decoder back, which lie between two layers of a model.

``splitnn.tuning`` fits and trains such pairs; the zoo holds a trained one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

_LARGEST = 127

Size = tuple[int, int]
"""Height and width."""


class Encoder(nn.Module):
    """Patches of (N, C, H, W) to whole numbers, int8 (N, K, H / patch, W / patch): linear, and what may be learned.

    What is learned looks at ``around`` places. A value within ``dead_zone`` of half a step counts as none: zeros are
    what a lossless codec makes smallest.
    """

    def __init__(
        self,
        channels: int,
        symbols: int,
        *,
        patch: Size,
        dead_zone: float = 0.0,
        hidden: int = 0,
        around: Size = (3, 3),
    ) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, symbols, patch, stride=patch)
        self.dead_zone = dead_zone
        self.residual: nn.Module | None = None
        if hidden:
            kernel = patch[0] + around[0] - 1, patch[1] + around[1] - 1
            first = nn.Conv2d(channels, hidden, kernel, stride=patch, padding=_half(around))
            self.residual = nn.Sequential(first, nn.ReLU(), _silent_at_first(hidden, symbols))

    def scaled(self, x: Tensor) -> Tensor:
        """What is about to be rounded, in steps: (N, K, H / patch, W / patch)."""
        y: Tensor = self.project(x)
        if self.residual is not None:
            y = y + self.residual(x)
        return y - y.clamp(-self.dead_zone, self.dead_zone) if self.dead_zone else y

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(x).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)


class Decoder(nn.Module):
    """Whole numbers (N, K, h, w) back to (N, C, h * patch, w * patch): linear, and a residual that may be learned."""

    def __init__(
        self,
        symbols: int,
        channels: int,
        *,
        patch: Size,
        kernel: Size = (3, 3),
        hidden: int = 0,
        around: Size = (3, 3),
    ) -> None:
        super().__init__()
        terms = channels * patch[0] * patch[1]
        self.linear = nn.Conv2d(symbols, terms, kernel, padding=_half(kernel))
        self.spread = _spread(patch)
        self.residual: nn.Module | None = None
        if hidden:
            self.residual = nn.Sequential(
                nn.Conv2d(symbols, hidden, around, padding=_half(around)),
                nn.ReLU(),
                _Further(hidden, around),
                _Further(hidden, around),
                _silent_at_first(hidden, terms),
            )

    def forward(self, symbols: Tensor) -> Tensor:
        x = symbols.float()
        y = self.linear(x) if self.residual is None else self.linear(x) + self.residual(x)
        found: Tensor = self.spread(y)
        return found


def _half(size: Size) -> Size:
    return size[0] // 2, size[1] // 2


def _spread(patch: Size) -> nn.Module:
    if patch == (1, 1):
        return nn.Identity()
    return nn.PixelShuffle(patch[0]) if patch[0] == patch[1] else SpreadRows(patch[0])


class SpreadRows(nn.Module):
    """(N, C * rows, h, w) to (N, C, h * rows, w), as ``nn.PixelShuffle`` does it in both directions."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1] // self.rows, x.shape[2], x.shape[3]
        parts = x.view(-1, channels, self.rows, height, width).transpose(2, 3)  # (N, C, h, rows, w)
        return parts.reshape(-1, channels, height * self.rows, width)


class _Further(nn.Module):
    """Adds what the places around say (He et al., arXiv 1512.03385)."""

    def __init__(self, channels: int, around: Size) -> None:
        super().__init__()
        groups = max(1, channels // 24)
        self.around = nn.Conv2d(channels, channels, around, padding=_half(around), groups=groups)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = functional.relu(x + self.mix(functional.relu(self.around(x))))
        return y


def _ends(residual: nn.Module | None) -> list[nn.Module]:
    """The first and the last layer of what is learned, if there is any."""
    layers = [] if residual is None else list(residual.children())
    return [*layers[:1], *layers[-1:]]


def _silent_at_first(hidden: int, channels: int) -> nn.Conv2d:
    """The last layer of what is learned: nothing comes of it before training, so that the linear part alone counts."""
    last = nn.Conv2d(hidden, channels, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return last


class Bottleneck(nn.Module):
    """Encoder and decoder, one after the other."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.decoder(self.encoder(x))
        return found

    def coarser(self, factor: float) -> Bottleneck:
        """The same bottleneck with steps so many times as wide: fewer bytes, answers further off.

        One training serves them all: the directions do not depend on the step, and what a decoder fitted to the other
        step would add was too little to measure (EfficientNet-Lite0, a factor of 3.4).

        Raises:
            ValueError: the factor is not above 0.
        """
        if not factor > 0:
            raise ValueError(f"a step is so many times as wide: a factor above 0, not {factor}")
        made = copy.deepcopy(self)
        encoder, decoder = made.encoder, made.decoder
        to_symbols: list[nn.Module] = [encoder.project, *_ends(encoder.residual)[-1:]]
        from_symbols: list[nn.Module] = [decoder.linear, *_ends(decoder.residual)[:1]]
        with torch.no_grad():
            for module in to_symbols:
                for parameter in module.parameters():
                    parameter.div_(factor)
            for module in from_symbols:
                module.get_parameter("weight").mul_(factor)
        return made

    @classmethod
    def of_weights(cls, weights: Mapping[str, Tensor], *, dead_zone: float) -> Bottleneck:
        """The bottleneck with these weights (its ``state_dict``), whose shapes say what it is made of.

        Raises:
            KeyError, RuntimeError: they are no bottleneck's.
        """
        projected, spread = weights["encoder.project.weight"], weights["decoder.linear.weight"]
        symbols, channels, *sides = projected.shape
        patch, kernel = (sides[0], sides[1]), (spread.shape[2], spread.shape[3])
        hidden = {part: len(weights.get(f"{part}.residual.0.bias", ())) for part in ("encoder", "decoder")}
        learned = weights["decoder.residual.0.weight"].shape if hidden["decoder"] else (0, 0, 3, 3)
        around = learned[2], learned[3]
        encoder = Encoder(channels, symbols, patch=patch, dead_zone=dead_zone, hidden=hidden["encoder"], around=around)
        decoder = Decoder(symbols, channels, patch=patch, kernel=kernel, hidden=hidden["decoder"], around=around)
        made = cls(encoder, decoder)
        made.load_state_dict(dict(weights))
        return made.eval()
