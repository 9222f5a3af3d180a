"""What is expected of each symbol of a plane of features, given what was decoded before it.

A symbol is expected where its known neighbours in the plane point. Its spread follows from three things: the scale of
its row (a channel of a sample), how far those neighbours are apart, and how lively the same place is in the channels
that came before. A plane is visited as four grids, coarse to fine, and the channels in four groups, so that all places
of one visit are coded at once.

Single-precision sums, products and quotients only, element by element: both sides must come to the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from splitnn.transport.distributions import QUARTERS, borders, mean_sizes, spreads

Integers = NDArray[np.int32]
Exchange = Callable[[Integers, NDArray[np.uint8]], Integers]
"""Gives the differences from what was expected for the symbols' differences (which only an encoder knows) and the
distributions that they have."""

ROW_SCALES = 20  # every other spread; row scale 0 has no symbols but its centre
GROUPS = 4
_UNIT = 256  # of liveliness
_SMALL_PLANE = 2**12  # elements; what is known of larger ones is not kept
_LEAST_SPREAD = np.float32(0.04)
_DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
_STRAIGHT = ((-1, 0), (1, 0), (0, -1), (0, 1))


@dataclass(frozen=True, slots=True)
class _Grid:
    """Every other place of every other line, from (top, left) on, and what is made of its neighbours.

    The spread is scale * (own + lively * liveliness) + apart * mean distance of the neighbours from their mean. The
    numbers were fitted to the length of the code for EfficientNet-Lite0's features at two steps.
    """

    top: int
    left: int
    neighbours: tuple[tuple[int, int], ...]
    trust: tuple[float, float]  # the share of the neighbours' mean that is expected: first group, later ones
    own: tuple[float, float]
    lively: float
    apart: tuple[float, float]


_GRIDS = (
    _Grid(0, 0, (), (0.0, 0.0), (0.8, 0.22), 0.82 * 0.9, (0.0, 0.0)),
    _Grid(1, 1, _DIAGONAL, (0.64, 0.56), (0.55, 0.13), 0.71, (0.15, 0.095)),
    _Grid(0, 1, _STRAIGHT, (1.0, 0.98), (0.43, 0.07), 0.5, (0.23, 0.149)),
    _Grid(1, 0, _STRAIGHT, (1.0, 0.98), (0.43, 0.07), 0.5, (0.23, 0.149)),
)


TRUSTS = (0.0, 0.35, 0.7, 1.0)
"""How far the mean of the neighbours in the plane is believed, beside what the grids say."""
NARROWINGS = (0.0, 1.0, 0.5, 0.25)
"""What the spread that follows from neighbours is multiplied by; 0: it does not follow from them."""


def visit(differences: Integers, scales: Integers, exchange: Exchange, *, trust: float, narrowing: float) -> None:
    """Go through the planes in the order of coding and write what ``exchange`` gives into them.

    ``differences`` (samples, channels, height, width) are symbols less their row's centre; ``scales`` (samples,
    channels) are of 0 to ``ROW_SCALES``; ``trust`` is one of ``TRUSTS``,
    ``narrowing`` of ``NARROWINGS``. Rows of scale 0 are left as they are.
    """
    samples, channels, height, width = differences.shape
    activity = np.zeros((samples, height, width), dtype=np.int64)
    lively_rows = np.zeros(samples, dtype=np.int64)
    weights = np.concatenate(([0], np.round(_UNIT / (mean_sizes()[: 2 * ROW_SCALES : 2] + 0.1)))).astype(np.int64)
    for start, end in pairwise(sorted({channels * part // GROUPS for part in range(GROUPS + 1)})):
        sample, channel = np.nonzero(scales[:, start:end])
        if not len(sample):
            continue
        channel += start
        scale = scales[sample, channel]
        padded = np.zeros((len(sample), height + 2, width + 2), dtype=np.int32)
        padded[:, 1:-1, 1:-1] = differences[sample, channel]
        liveliness: NDArray[np.float32] | None = None
        if narrowing and lively_rows.all():
            per_row: NDArray[np.float32] = (_UNIT * lively_rows)[:, None, None].astype(np.float32)
            liveliness = (activity.astype(np.float32) / per_row)[sample]
        for grid in _GRIDS:
            _visit_grid(
                padded, grid, scale=scale, liveliness=liveliness, exchange=exchange, trust=trust, narrowing=narrowing
            )
        plane = padded[:, 1:-1, 1:-1]
        differences[sample, channel] = plane
        np.add.at(activity, sample, np.abs(plane) * weights[scale][:, None, None])
        lively_rows += np.bincount(sample, minlength=samples)


def nearest_trust(differences: Integers) -> int:
    """The place in ``TRUSTS`` that suits these planes: how much of a symbol its neighbours tell."""
    height, width = differences.shape[2:]
    rows, columns = slice(1, -1) if height > 2 else slice(None), slice(1, -1) if width > 2 else slice(None)
    around = np.zeros(differences[:, :, rows, columns].shape, dtype=np.float32)
    if height > 2:
        around += (differences[:, :, :-2, columns] + differences[:, :, 2:, columns]) / np.float32(2)
    if width > 2:
        around += (differences[:, :, rows, :-2] + differences[:, :, rows, 2:]) / np.float32(2)
    around /= max(1, (height > 2) + (width > 2))
    power = float(np.square(around).sum())
    told = float((around * differences[:, :, rows, columns]).sum()) / power if power else 0.0
    return int(np.abs(np.array(TRUSTS) - told).argmin())


def _visit_grid(
    padded: Integers,
    grid: _Grid,
    *,
    scale: Integers,
    liveliness: NDArray[np.float32] | None,
    trust: float,
    narrowing: float,
    exchange: Exchange,
) -> None:
    """Visit one grid of (rows, height + 2, width + 2) differences with a border of zeros."""
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    here = padded[:, 1 + grid.top : 1 + height : 2, 1 + grid.left : 1 + width : 2]  # (rows, h, w)
    if not here.size:
        return
    is_later = liveliness is not None
    share: NDArray[np.float32] | np.float32 = np.float32(grid.own[is_later])
    if liveliness is not None:
        share = share + np.float32(grid.lively) * liveliness[:, grid.top :: 2, grid.left :: 2]
    spread = (spreads()[2 * scale - 2] + _LEAST_SPREAD)[:, None, None] * (share if narrowing else np.float32(1))
    quarters: Integers | int = 0
    if grid.neighbours:
        around = _around(padded, grid)
        mean = around.mean()
        quarters = np.floor(mean * np.float32(QUARTERS * trust * grid.trust[is_later]) + np.float32(0.5)).astype(
            np.int32
        )
        if narrowing:
            apart = np.float32(grid.apart[is_later]) * around.mean_distance(mean)
            spread = (spread + apart) * np.float32(narrowing)
    expected = quarters // QUARTERS
    number = (np.searchsorted(borders(), spread) * QUARTERS + quarters % QUARTERS).astype(np.uint8)
    if number.shape != here.shape:
        number = np.broadcast_to(number, here.shape)
    found = exchange(_wrapped(here - expected).ravel(), number.ravel())
    here[:] = _wrapped(found.reshape(here.shape) + expected)


@dataclass(frozen=True, slots=True)
class _Around:
    """The neighbours of a grid's places: one array (rows, h, w) a direction, zero outside the plane."""

    values: tuple[Integers, ...]
    inside: tuple[NDArray[np.float32], ...]  # (h, w) each: 1 or, outside the plane, 0
    count: NDArray[np.float32]  # (h, w), at least 1

    def mean(self) -> NDArray[np.float32]:
        first, second, third, fourth = self.values
        total: NDArray[np.float32] = (first + second + third + fourth).astype(np.float32)
        total /= self.count
        return total

    def mean_distance(self, mean: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of the neighbours inside the plane from their mean."""
        apart = np.zeros(mean.shape, dtype=np.float32)
        for values, inside in zip(self.values, self.inside, strict=True):
            distance = values.astype(np.float32)
            distance -= mean
            np.abs(distance, out=distance)
            distance *= inside
            apart += distance
        apart /= self.count
        return apart


def _around(padded: Integers, grid: _Grid) -> _Around:
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    known = _known_borders if height * width <= _SMALL_PLANE else _borders
    inside, count = known(height, width, grid)
    return _Around(tuple(padded[:, *place] for place in _places(height, width, grid)), inside, count)


def _borders(height: int, width: int, grid: _Grid) -> tuple[tuple[NDArray[np.float32], ...], NDArray[np.float32]]:
    """Which neighbours lie inside the plane, and how many."""
    whole = np.zeros((height + 2, width + 2), dtype=np.float32)
    whole[1:-1, 1:-1] = 1
    inside = tuple(whole[place] for place in _places(height, width, grid))
    return inside, inside[0] + inside[1] + inside[2] + inside[3]


_known_borders = functools.lru_cache(4 * len(_GRIDS))(_borders)  # small symbols spend more on them than on coding


def _places(height: int, width: int, grid: _Grid) -> list[tuple[slice, slice]]:
    return [
        (slice(1 + grid.top + down, 1 + height + down, 2), slice(1 + grid.left + right, 1 + width + right, 2))
        for down, right in grid.neighbours
    ]


def _wrapped(numbers: Integers) -> Integers:
    """Modulo 256, from -128 to 127."""
    return numbers.astype(np.int8).astype(np.int32)
