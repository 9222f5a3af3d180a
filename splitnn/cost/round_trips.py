"""How long a small message and its answer take on a link. Knows no rates, no torch and no transport."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence

from splitnn.cost.runs import STEP, Run

_WINDOW_S = 30.0  # a ping counts for so long,
_BOUNDS_S = 10.0  # and a transfer for so long that was no shorter than a round trip
_SLACK_S = 0.002  # beyond a step, what a processor may add
_SAMPLE = 3  # pings say how far they spread;
_UNKNOWN = 0.1  # of the round trip is taken where there are fewer
_HIDDEN = 5  # transfers: three also happen where queues come and go
_CLEAR = 3.0  # times the spread; a sample within it is nothing unusual
BUSY_S = 0.03
"""What other work of this host, under a quota too, may add to a ping."""


class RoundTrips:
    """The typical round trip: the median of the latest pings.

    Jitter is part of it, as of every transfer: the least ping would charge it to the rate. A sample that is clearly
    shorter than every ping is believed at once, since no message outruns its link; three in a row that are clearly
    longer show a change, and so do five transfers too short for their bytes. Older pings are then forgotten.
    """

    def __init__(self, guess_s: float, *, clock: Callable[[], float]) -> None:
        """``guess_s`` is believed until a sample comes."""
        self._guess_s = guess_s
        self._clock = clock
        self._pings: deque[tuple[float, float]] = deque(maxlen=64)  # when, seconds
        self._whole: deque[tuple[float, float]] = deque(maxlen=64)  # of transfers: no round trip is longer than one
        self._longer: Run[tuple[float, float]] = Run()
        self._shorter: Run[tuple[float, float]] = Run(_HIDDEN)
        self.usual_at_s = -math.inf  # when a sample last was not clearly longer than believed
        self.unusual_at_s = -math.inf  # when one last was

    @property
    def seconds(self) -> float:
        """The median ping of the last 30 s; the latest when there was none; before the first, guess and bounds."""
        pings = self._lately()
        return statistics.median(pings) if pings else min(self._guess_s, self._least_whole_s())

    @property
    def spread_s(self) -> float:
        """Half of the pings are no farther than that from the typical one; a tenth of it where too few say."""
        pings = self._lately()
        if len(pings) < _SAMPLE:
            return self.seconds * _UNKNOWN if pings else 0.0
        return statistics.median(abs(ping - statistics.median(pings)) for ping in pings)

    @property
    def is_sampled(self) -> bool:
        """Whether enough pings came lately to see how far they spread."""
        return len(self._lately()) >= _SAMPLE

    def is_longer(self, seconds: float) -> bool:
        """Whether that is clearly longer than what is believed."""
        return seconds > max(self._step_above(self.seconds), self.seconds + _CLEAR * self.spread_s)

    def is_shorter(self, seconds: float) -> bool:
        """Whether that is clearly shorter than what is believed."""
        return self.seconds > max(self._step_above(seconds), seconds + _CLEAR * self.spread_s)

    def observe(self, seconds: float, *, is_alone: bool = True) -> bool:
        """A ping; beside other work of this host it may be shorter. Whether it shows that round trips are longer."""
        if not is_alone and self._pings and self.is_longer(seconds):
            return self.is_longer(seconds - BUSY_S) and self.observe_rest(seconds - BUSY_S)
        self._shorten(seconds)
        is_change = self.observe_rest(seconds)
        if not is_change:
            self._pings.append((self._clock(), seconds))
        return is_change

    def observe_rest(self, seconds: float) -> bool:
        """What bytes leave of a transfer's time: counts in a run only. Whether it shows that round trips are longer."""
        now_s = self._clock()
        is_longer = bool(self._pings) and self.is_longer(seconds)
        run = self._longer.add((now_s, seconds), holds=is_longer)
        if is_longer:
            self.unusual_at_s = now_s
        else:
            self.usual_at_s = now_s
        if run:  # whatever lengthened some of them still more, bytes on a link that is slower now perhaps
            least_s = min(sample_s for _, sample_s in run)
            self.believe([(at_s, sample_s) for at_s, sample_s in run if sample_s <= self._step_above(least_s)])
        return bool(run)

    def observe_hidden(self, seconds: float) -> None:
        """What expected bytes leave of a transfer that was hardly longer than a round trip: counts in a run only."""
        run = self._shorter.add((self._clock(), seconds), holds=self.is_shorter(seconds))
        if run:
            self.believe(run)

    def end_shorter(self) -> None:
        """A transfer's bytes did lengthen it: round trips need not be shorter than believed."""
        self._shorter.end()

    def observe_whole(self, seconds: float) -> None:
        """A transfer of that many seconds: the round trip is no longer, whatever the rate is and whoever shared it."""
        now_s = self._clock()
        if not self.is_longer(seconds):
            self.usual_at_s = now_s
            self._longer.end()
        self._whole.append((now_s, seconds))
        if self._pings and self._shorten(seconds):
            self._pings.append((now_s, seconds))

    def believe(self, samples: Sequence[tuple[float, float]]) -> None:
        """Only these, when and how long, count from now on."""
        self._pings = deque(samples, maxlen=64)
        self._whole.clear()
        self._longer.end()
        self._shorter.end()

    def _shorten(self, seconds: float) -> bool:
        """Whether that is clearly shorter than every ping, which are forgotten then."""
        if self._step_above(seconds) >= min(self._lately(), default=-math.inf):
            return False
        self._pings.clear()
        return True

    @staticmethod
    def _step_above(seconds: float) -> float:
        return seconds * (1 + STEP) + _SLACK_S

    def _lately(self) -> list[float]:
        since = self._clock() - _WINDOW_S
        return [seconds for at, seconds in self._pings if at >= since] or [s for _, s in list(self._pings)[-1:]]

    def _least_whole_s(self) -> float:
        since = self._clock() - _BOUNDS_S
        return min((seconds for at, seconds in self._whole if at >= since), default=math.inf)
