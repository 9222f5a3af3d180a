"""The rate of a link from its latest transfers, warm and after a pause. Knows no torch and no transport."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from splitnn.cost.runs import STEP, Run
from splitnn.cost.transfers import Transfer, rate_of

IDLE_S = 1.0
"""A connection that was silent for so long starts slowly again."""

_KEPT = 20  # transfers


class Rates:
    """Payload bits per second upwards: what the last transfers say that were long enough to tell.

    After a pause TCP starts slowly and the link *is* slower for the next request: such transfers are kept apart.
    """

    def __init__(self, guess_bps: float, *, clock: Callable[[], float]) -> None:
        """``guess_bps`` is believed before the first transfer."""
        self._guess_bps = guess_bps
        self._clock = clock
        self._warm: deque[Transfer] = deque(maxlen=_KEPT)
        self._after_idle: deque[Transfer] = deque(maxlen=_KEPT)
        self._slower: Run[Transfer] = Run()
        self._faster: Run[Transfer] = Run()
        self.told_at_s = -math.inf  # when a transfer last said something new
        self.unusual_at_s = -math.inf  # when one was last far from what is believed

    def __iter__(self) -> Iterator[Transfer]:
        yield from self._warm
        yield from self._after_idle

    def _series(self, idle_s: float) -> deque[Transfer]:
        """The transfers that followed such a pause."""
        return self._after_idle if idle_s >= IDLE_S else self._warm

    def believed_bps(self, *, idle_s: float = 0.0) -> float:
        """For a transfer after a pause of ``idle_s``; the other kind's rate while only that is known."""
        return rate_of(self._series(idle_s)) or rate_of(self._warm) or rate_of(self._after_idle) or self._guess_bps

    def told_bps(self, *, idle_s: float) -> float | None:
        """The rate after a pause of ``idle_s``; None where only bounds are known."""
        return rate_of(self._series(idle_s)) if any(t.meaning == "rate" for t in self) else None

    def add(self, new: Transfer, *, idle_s: float) -> bool:
        """A transfer that ended now. Whether it was the third in a row that is off the same way: the link changed."""
        series = self._series(idle_s)
        believed_bps = self.believed_bps(idle_s=idle_s)
        is_no_news = new.meaning == "at least" and new.rate_bps <= believed_bps
        if not new.size_bytes or is_no_news or (new.meaning == "at most" and new.rate_bps >= believed_bps):
            return False
        self.told_at_s = self._clock()
        best_bps = max(rate_of(self._warm) or 0.0, rate_of(self._after_idle) or 0.0)
        own_bps = rate_of(series) or new.rate_bps
        if new.meaning == "rate":  # bounds say nothing beside it, but for lower ones above it
            _keep(series, [t for t in series if t.meaning == "rate" or t.is_above(new.rate_bps)])
        series.append(new)
        off = new.rate_bps / own_bps - 1
        if abs(off) > STEP or abs(new.rate_bps / believed_bps - 1) > STEP:
            self.unusual_at_s = self._clock()
        run = self._slower.add(new, holds=off < -STEP) or self._faster.add(new, holds=off > STEP)
        kept = [new] if _proves_change(new, best_bps) else run
        if kept:
            self._keep_only(kept, series)
        return bool(run)

    def tell_again(self, round_trip_s: float, *, since_s: float) -> None:
        """The round trip has been so long since then, which was not known."""
        self._slower.end()
        self._faster.end()
        for series in (self._warm, self._after_idle):
            told = [_with_longer_trip(t, round_trip_s) if t.at_s > since_s else t for t in series]
            _keep(series, [t for t in told if t is not None])

    def convert(self, upward: float) -> None:
        """Each byte that came down counts as that much more than before upwards."""
        self._slower.end()
        self._faster.end()
        for series in (self._warm, self._after_idle):
            _keep(series, [_converted(t, upward) for t in series])

    def _keep_only(self, run: list[Transfer], series: deque[Transfer]) -> None:
        self._slower.end()
        self._faster.end()
        self._warm.clear()
        self._after_idle.clear()
        series.extend(run)


def _keep(series: deque[Transfer], kept: list[Transfer]) -> None:
    series.clear()
    series.extend(kept)


def _proves_change(new: Transfer, best_bps: float) -> bool:
    """Whether one transfer is enough: no link is faster than its rate, and nobody waits three times in vain."""
    if new.meaning == "at most":
        return new.rate_bps < best_bps * (1 - STEP)
    return 0 < best_bps * (1 + STEP) < new.size_bytes * 8 / new.seconds


def _with_longer_trip(transfer: Transfer, round_trip_s: float) -> Transfer | None:
    """What a transfer says whose rate was told with a round trip that was too short; None for nothing."""
    wire_s = transfer.seconds - round_trip_s
    if transfer.meaning != "rate":
        return transfer
    return replace(transfer, rate_bps=transfer.size_bytes * 8 / wire_s) if wire_s > transfer.seconds / 5 else None


def _converted(transfer: Transfer, upward: float) -> Transfer:
    size = transfer.size_bytes + transfer.received_bytes * upward
    return replace(transfer, size_bytes=size, rate_bps=transfer.rate_bps * size / transfer.size_bytes)
