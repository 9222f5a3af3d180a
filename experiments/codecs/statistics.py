"""Intervals, fronts and ratios of what codecs cost and what they leave of the answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from experiments.codecs.measure import Point

_RESAMPLES = 1000
_Z = 1.959964


def wilson(right: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of a share of independent samples (Wilson 1927)."""
    count, share = len(right), float(right.mean())
    centre = share + _Z**2 / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    whole = 1 + _Z**2 / count
    return (centre - half) / whole, (centre + half) / whole


def by_origin(right: NDArray[np.bool_], origins: Sequence[str]) -> tuple[float, float]:
    """95 % interval of a share where samples of one origin are alike: a bootstrap over origins."""
    names = sorted(set(origins))
    place = {name: number for number, name in enumerate(names)}
    group = np.array([place[origin] for origin in origins])
    hits = np.bincount(group, weights=right, minlength=len(names))
    counts = np.bincount(group, minlength=len(names))
    drawn = np.random.default_rng(0).integers(0, len(names), (_RESAMPLES, len(names)))
    shares = hits[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)


def between_resamples(
    points: Sequence[Point], origins: Sequence[str], statistic: Callable[[Sequence[Point]], float | None]
) -> tuple[float, float] | None:
    """95 % interval of what is computed of several points on the same samples: a bootstrap over origins, the same ones
    for all points. Each sample was encoded alone. None where nothing can be computed of some resample."""
    names = sorted(set(origins))
    rows = [np.flatnonzero(np.array(origins) == name) for name in names]
    chance = np.random.default_rng(0)
    found = []
    for _ in range(_RESAMPLES):
        drawn = np.concatenate([rows[number] for number in chance.integers(0, len(names), len(names))])
        value = statistic(
            [replace(each, right=each.right[drawn], sample_bytes=each.sample_bytes[drawn]) for each in points]
        )
        if value is None:
            return None
        found.append(value)
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def differs(right: NDArray[np.bool_], before: NDArray[np.bool_]) -> bool:
    """Whether fewer answers are right than before by more than chance explains (McNemar's test, 95 %)."""
    lost, won = int((before & ~right).sum()), int((~before & right).sum())
    return lost - won > _Z * math.sqrt(lost + won)


def bytes_at(points: Iterable[Point], share: float) -> float | None:
    """The fewest bytes that reach a share of right answers, between two points of the front on a line through their
    logarithms; None where nothing reaches it."""
    best = None
    front = pareto(points)
    for lower, upper in zip([None, *front], front, strict=False):
        if upper.share_right < share:
            continue
        if lower is None or upper.share_right == share:
            best = upper.mean_bytes
        else:
            part = (share - lower.share_right) / (upper.share_right - lower.share_right)
            best = lower.mean_bytes ** (1 - part) * upper.mean_bytes**part
        break
    return best


def pareto(points: Iterable[Point]) -> list[Point]:
    """Points that no other one beats in bytes and in right answers, the cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.mean_bytes, -each.share_right)):
        if not front or point.share_right > front[-1].share_right:
            front.append(point)
    return front
