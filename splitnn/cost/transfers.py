"""What timed transfers say together of the link that they crossed. Knows no torch and no transport."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

_RECENT = 5  # of a series make the median
_AGREES = 0.25
_PAIRS = 10  # of different size that a line needs
_SIZE_RATIO = 1.5  # of such a pair
_APART = 4  # small and large transfers that a line must explain
_MISS = 0.1  # of a transfer's time, that a line which explains it may be off,
_MISSED = 0.2  # and of the transfers, that it may not explain

Meaning = Literal["rate", "at least", "at most"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes that took so long, and what rate they tell."""

    size_bytes: float  # upwards; what came down counts as what it would have been upwards
    seconds: float  # on the network
    rate_bps: float
    meaning: Meaning
    at_s: float = 0.0  # when it ended
    received_bytes: float = 0.0  # that came down

    @property
    def wire_s(self) -> float:
        """What its bytes took, by that rate."""
        return self.size_bytes * 8 / self.rate_bps

    def is_above(self, rate_bps: float) -> bool:
        """Whether it says that the link is faster than that."""
        return self.meaning == "at least" and self.rate_bps > rate_bps


@dataclass(frozen=True, slots=True)
class Line:
    """A transfer of n bytes takes ``round_trip_s`` and n * 8 / ``rate_bps``."""

    round_trip_s: float
    rate_bps: float

    def seconds(self, size_bytes: float) -> float:
        """What so many bytes take."""
        return self.round_trip_s + size_bytes * 8 / self.rate_bps


def rate_of(series: Sequence[Transfer]) -> float | None:
    """Bits a second; None when the series is empty.

    The median over the last five, or the Theil-Sen slope over those that told a rate, where their sizes differ and it
    agrees: it needs no round trip. Plain averages and least squares lose to one outlier.
    """
    if not series:
        return None
    median_bps = statistics.median(transfer.rate_bps for transfer in list(series)[-_RECENT:])
    line = _theil_sen([(t.size_bytes, t.seconds) for t in series if t.meaning == "rate"])
    return line.rate_bps if line is not None and abs(line.rate_bps / median_bps - 1) <= _AGREES else median_bps


def line_of(timed: Collection[tuple[float, float]]) -> Line | None:
    """The line through (bytes, seconds) that explains four in five of the small and of the large; None without one."""
    line = _theil_sen(list(timed))
    return line if line is not None and line.round_trip_s > 0 and _explains(line, sorted(timed)) else None


def _explains(line: Line, ordered: Sequence[tuple[float, float]]) -> bool:
    """Whether it does so for small and for large transfers: many of one size lie on any line through them."""
    apart = len(ordered) // 2
    while apart >= _APART and any(
        large < _SIZE_RATIO * small for (small, _), (large, _) in zip(ordered[:apart], ordered[-apart:], strict=True)
    ):
        apart -= 1
    return apart >= _APART and all(_is_on(line, part) for part in (ordered[:apart], ordered[-apart:]))


def _is_on(line: Line, timed: Sequence[tuple[float, float]]) -> bool:
    missed = sum(abs(line.seconds(size_bytes) - seconds) > _MISS * seconds for size_bytes, seconds in timed)
    return missed <= _MISSED * len(timed)


def _theil_sen(timed: Sequence[tuple[float, float]]) -> Line | None:
    """The Theil-Sen line of transfers of clearly different sizes; None when there are too few pairs of them."""
    slopes = [
        (a[1] - b[1]) / ((a[0] - b[0]) * 8)
        for a, b in combinations(timed, 2)
        if max(a[0], b[0]) >= _SIZE_RATIO * min(a[0], b[0])
    ]
    if len(slopes) < _PAIRS:
        return None
    seconds_per_bit = statistics.median(slopes)
    if seconds_per_bit <= 0:
        return None
    left_s = statistics.median(seconds - size_bytes * 8 * seconds_per_bit for size_bytes, seconds in timed)
    return Line(left_s, 1 / seconds_per_bit)
