"""How much slower a host is at the moment than its profile says. Knows no torch."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from itertools import accumulate

_KEPT = 9
_NEEDED = 3  # one run that the machine held up must not send all layers elsewhere, where nothing contradicts it
_SHORTEST_S = 0.5e-3  # below it the ratio is noise of the scheduler


class SlowdownEstimator:
    """The median of the last nine ratios of observed to profiled seconds of whatever layers ran; long runs count more.

    Each ratio has the weight of its profiled seconds: runs shorter than a time slice go at full speed or wait for one,
    and would otherwise move the prediction of long ones.

    Load passes: observations count for ``fresh_s`` seconds after the latest, then the profile is believed again.
    """

    def __init__(self, *, fresh_s: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._ratios: deque[tuple[float, float]] = deque(maxlen=_KEPT)  # with their weights
        self._fresh_s = fresh_s
        self._clock = clock
        self._observed_s = -math.inf

    def observe(self, seconds: float, *, profiled_s: float) -> None:
        """A stage took so long; work that the profile calls shorter than half a millisecond tells nothing."""
        if profiled_s >= _SHORTEST_S and seconds > 0:
            if self.age_s > self._fresh_s:
                self._ratios.clear()
            self._ratios.append((seconds / profiled_s, profiled_s))
            self._observed_s = self._clock()

    @property
    def is_known(self) -> bool:
        """Whether enough was observed lately."""
        return len(self._ratios) >= _NEEDED and self.age_s <= self._fresh_s

    @property
    def factor(self) -> float:
        """What ``Host.slowdown`` takes; 1 while it is not known."""
        if not self.is_known:
            return 1.0
        ordered = sorted(self._ratios)
        half_s = sum(weight_s for _, weight_s in ordered) / 2
        behind_s = accumulate(weight_s for _, weight_s in ordered)
        return next(ratio for (ratio, _), sum_s in zip(ordered, behind_s, strict=True) if sum_s >= half_s)

    @property
    def age_s(self) -> float:
        """Seconds since the last observation; infinite before the first."""
        return self._clock() - self._observed_s
