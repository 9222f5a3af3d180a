"""How much slower a host is at the moment than its profile says, and what a run costs beside. Knows no torch."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, combinations
from typing import Literal

_KEPT = 15
_RECENT = 9
_NEEDED = 3  # one run that the machine held up must not send all layers elsewhere, where nothing contradicts it
_SHORTEST_S = 0.5e-3  # below it the ratio is noise of the scheduler
_SIZE_RATIO = 1.5  # of two runs whose difference tells a ratio by itself
_PAIRS = 10
_GRAINS = 3  # of fixed time that a pair may tell: its own, and what each of the two runs was given
_LONG_GRAINS = 10
_LEAST_PART = 0.05  # of what was observed, that is not fixed

_Run = tuple[float, float]  # profiled and observed seconds


class SlowdownEstimator:
    """Observed seconds as ``fixed_s + factor * profiled seconds``, whatever layers ran; long runs count more.

    ``grain_s`` is what the scheduler may give to any run or take from it: under a quota of 1 ms in 10, a short run fits
    into one slice and goes at full speed, and one that comes late waits for the next. Within that grain a fixed time
    explains what was seen, beyond it the factor: the fixed time is the median remainder of a Theil-Sen line where runs
    of different lengths tell one, else, by ``untold``, none or the least that leaves the factor nearest to 1. Pairs
    that need far more fixed time than the grain do not count: one of the two was held up, and the only long run is in
    all that weigh most. The factor is the median ratio of what is left, each with the weight of the root of its
    profiled seconds: one long outlier must not outvote all. Runs of less than ten grains have no say where there are
    three others, and never make it less than 1: they go at full speed in the slice that they begin with, and longer
    ones will not.

    Load passes: observations count for ``fresh_s`` seconds after the latest, then the profile is believed again.
    """

    def __init__(
        self,
        *,
        grain_s: float = 0.0,
        untold: Literal["fixed", "factor"] = "fixed",
        fresh_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``untold``: what explains runs that are too much alike to tell a fixed time from a factor."""
        self._runs: deque[_Run] = deque(maxlen=_KEPT)
        self._grain_s = grain_s
        self._untold = untold
        self._fresh_s = fresh_s
        self._clock = clock
        self._observed_s = -math.inf
        self._fit: tuple[float, float] | None = None  # of the runs as they are

    def observe(self, seconds: float, *, profiled_s: float) -> None:
        """A stage took so long; work that the profile calls shorter than half a millisecond tells nothing."""
        if profiled_s >= _SHORTEST_S and 0 < seconds < math.inf:
            if self.age_s > self._fresh_s:
                self._runs.clear()
            self._runs.append((profiled_s, seconds))
            self._observed_s = self._clock()
            self._fit = None

    @property
    def is_known(self) -> bool:
        """Whether enough was observed lately."""
        return len(self._runs) >= _NEEDED and self.age_s <= self._fresh_s

    @property
    def factor(self) -> float:
        """What ``Host.slowdown`` takes; 1 while it is not known."""
        return self._fitted()[1] if self.is_known else 1.0

    @property
    def fixed_s(self) -> float:
        """Seconds that each run takes beside; 0 while it is not known. Below 0 where short runs go at full speed."""
        return self._fitted()[0] if self.is_known else 0.0

    @property
    def age_s(self) -> float:
        """Seconds since the last observation; infinite before the first."""
        return self._clock() - self._observed_s

    def _fitted(self) -> tuple[float, float]:
        if self._fit is None:
            fixed_s = _fixed_s(list(self._runs), self._grain_s, untold=self._untold) if self._grain_s else 0.0
            kept = list(self._runs)
            long = [run for run in kept if run[0] >= _LONG_GRAINS * self._grain_s]
            telling = (long if len(long) >= _NEEDED else kept)[-_RECENT:]
            factor = _weighted_median((_ratio(run, fixed_s), math.sqrt(run[0])) for run in telling)
            least = min((_ratio(run, fixed_s) for run in long), default=1.0)
            factor = max(factor, min(1.0, least))
            self._fit = fixed_s, factor
        return self._fit


class MedianEstimator:
    """The median of the last few observations of something that costs the same each time, seconds."""

    def __init__(self, *, fresh_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # when, and how long
        self._fresh_s = fresh_s
        self._clock = clock

    def observe(self, seconds: float) -> None:
        """It took so long."""
        self._seconds.append((self._clock(), seconds))

    @property
    def seconds(self) -> float | None:
        """None while fewer than three observations are fresh."""
        since_s = self._clock() - self._fresh_s
        fresh = [seconds for at_s, seconds in self._seconds if at_s >= since_s]
        return statistics.median(fresh) if len(fresh) >= _NEEDED else None


def _fixed_s(runs: Sequence[_Run], grain_s: float, *, untold: Literal["fixed", "factor"]) -> float:
    """What every run took beside the factor's part, at most the grain either way."""
    pairs = [sorted(pair) for pair in combinations(runs, 2)]
    lines = [_line(short, long) for short, long in pairs if long[0] >= _SIZE_RATIO * short[0]]
    if len(lines) >= _PAIRS:
        likely = [line for line in lines if abs(line[0]) <= _GRAINS * grain_s]
        # Where few are, it is the fixed time that is beyond the grain.
        factor = _weighted_median(line[1:] for line in (likely if len(likely) >= _PAIRS else lines))
        fixed_s = statistics.median(seconds - factor * profiled_s for profiled_s, seconds in runs)
    elif untold == "fixed":
        fixed_s = statistics.median(seconds - profiled_s for profiled_s, seconds in runs)
    else:
        return 0.0
    return max(-grain_s, min(grain_s, fixed_s))


def _ratio(run: _Run, fixed_s: float) -> float:
    """Observed by profiled seconds, without the fixed part."""
    profiled_s, seconds = run
    return max(seconds - fixed_s, seconds * _LEAST_PART) / profiled_s


def _line(short: _Run, long: _Run) -> tuple[float, float, float]:
    """Through both: fixed seconds, factor and the weight of the factor."""
    longer_s = long[0] - short[0]
    factor = (long[1] - short[1]) / longer_s
    return short[1] - factor * short[0], factor, longer_s


def _weighted_median(values: Iterable[tuple[float, float]]) -> float:
    """Of values with their weights."""
    ordered = sorted(values)
    half = sum(weight for _, weight in ordered) / 2
    behind = accumulate(weight for _, weight in ordered)
    return next(value for (value, _), weight in zip(ordered, behind, strict=True) if weight >= half)
