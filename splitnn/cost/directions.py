"""How much faster a link is downwards than upwards. Knows no torch and no transport."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, replace
from itertools import permutations

_KEPT = 10  # transfers with few bytes downwards, and with many,
_WINDOW_S = 30.0  # for so long
_LEAST_BYTES = 16_384  # of a transfer: what else a few kB wait for would pass for a slow way down
_MIX_APART = 0.4  # of the bytes, more of which must have come down in one transfer of a pair than in the other
_LEAST = 3  # transfers on either side of the pairs, so that no outlier decides
_OFF = 0.15  # what the ratio that is believed may leave unexplained,
_BETTER = 0.5  # and another one must leave so much less
_MOST = 50.0  # times as fast one way as the other: beyond it nothing can be told


@dataclass(frozen=True, slots=True)
class Mix:
    """A transfer's bytes up and down, and what they took together: the round trip too, or without it."""

    sent_bytes: float
    received_bytes: float
    seconds: float
    at_s: float  # when it ended

    @property
    def down_share(self) -> float:
        """Of all its bytes."""
        return self.received_bytes / (self.sent_bytes + self.received_bytes)

    def rate_bps(self, down_over_up: float) -> float:
        """Upwards, if that is the ratio of the rates."""
        return (self.sent_bytes + self.received_bytes / down_over_up) * 8 / self.seconds


class Directions:
    """The ratio of the rates down and up: the first guess, until transfers of different mixes contradict it.

    Every pair of a transfer with many and one with few bytes downwards tells the seconds of a byte each way; the
    medians count, as in a Theil-Sen line. Where all answers are small, or all requests alike, the ratio stays.
    """

    def __init__(self, down_over_up: float) -> None:
        self.down_over_up = down_over_up
        self._mostly_up: deque[Mix] = deque(maxlen=_KEPT)
        self._mostly_down: deque[Mix] = deque(maxlen=_KEPT)

    def observe(self, mix: Mix, *, round_trip_s: float, sure_s: float) -> bool:
        """A transfer that was alone on a warm link. Whether the ratio changed.

        Those count that took ``sure_s`` longer than the round trip, and are not small.
        """
        if mix.sent_bytes + mix.received_bytes < _LEAST_BYTES:
            return False
        (self._mostly_up if mix.down_share < _MIX_APART else self._mostly_down).append(mix)
        lately = [kept for kept in (*self._mostly_up, *self._mostly_down) if kept.at_s > mix.at_s - _WINDOW_S]
        on_wire = [replace(kept, seconds=kept.seconds - round_trip_s) for kept in lately]
        sure = [kept for kept in on_wire if kept.seconds > sure_s]
        pairs = [(a, b) for a, b in permutations(sure, 2) if a.down_share - b.down_share >= _MIX_APART]
        if min(len({id(pair[side]) for pair in pairs}) for side in (0, 1)) < _LEAST:
            return False
        ratio = _ratio(pairs)
        is_better = _misfit(pairs, self.down_over_up) > max(_OFF, _misfit(pairs, ratio) / _BETTER)
        if is_better:
            self.down_over_up = ratio
        return is_better

    def forget(self) -> None:
        """The link has changed: transfers from before cannot be compared to those that follow."""
        self._mostly_up.clear()
        self._mostly_down.clear()


def _ratio(pairs: list[tuple[Mix, Mix]]) -> float:
    up_s, down_s = [], []  # of a byte
    for a, b in pairs:
        determinant = a.received_bytes * b.sent_bytes - a.sent_bytes * b.received_bytes
        up_s.append((a.received_bytes * b.seconds - b.received_bytes * a.seconds) / determinant)
        down_s.append((b.sent_bytes * a.seconds - a.sent_bytes * b.seconds) / determinant)
    up, down = statistics.median(up_s), statistics.median(down_s)
    least_s = max(up, down) / _MOST
    return max(up, least_s) / max(down, least_s)


def _misfit(pairs: list[tuple[Mix, Mix]], down_over_up: float) -> float:
    """How far apart the rates are that the two of a pair tell, in the median; 0 when all tell the same."""
    return statistics.median(abs(math.log(a.rate_bps(down_over_up) / b.rate_bps(down_over_up))) for a, b in pairs)
