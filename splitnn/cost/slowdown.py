"""How much slower a host is at the moment than its profile says. Knows no torch."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

_KEPT = 9
_SHORTEST_S = 0.5e-3  # below it the ratio is noise of the scheduler


class SlowdownEstimator:
    """The median of the last nine ratios of observed to profiled seconds of whatever layers ran."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ratios: deque[float] = deque(maxlen=_KEPT)
        self._clock = clock
        self._observed_s = -math.inf

    def observe(self, seconds: float, *, profiled_s: float) -> None:
        """A stage took so long; work that the profile calls shorter than half a millisecond tells nothing."""
        if profiled_s >= _SHORTEST_S and seconds > 0:
            self._ratios.append(seconds / profiled_s)
            self._observed_s = self._clock()

    @property
    def factor(self) -> float:
        """What ``Host.slowdown`` takes; 1 before the first observation."""
        return statistics.median(self._ratios) if self._ratios else 1.0

    @property
    def age_s(self) -> float:
        """Seconds since the last observation; infinite before the first."""
        return self._clock() - self._observed_s
