"""What a link is like, learnt from the transfers that were made anyway. Knows no torch and no transport.

A transfer of n bytes takes a round trip and n * 8 / rate. The round trip is the least that was seen lately, unless
three samples in a row, made while nothing else was under way, say that it has grown, or transfers of different sizes
do; the rate is what the last transfers say that were long enough to tell (``transfers.rate_of``). After a pause TCP
starts slowly and the link *is* slower for the next request: such transfers are kept apart.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from splitnn.cost.network import Link
from splitnn.cost.transfers import Transfer, line_of, rate_of

IDLE_S = 1.0
"""A connection that was silent for so long starts slowly again."""

_WINDOW_S = 10.0  # of the least round trip
_TELLING_S = 0.01  # on the wire, or as long as the round trip: what takes longer tells the rate
_TRIP_SLACK_S = 0.002  # beyond a step, what a processor may add to a round trip
_KEPT = 20  # transfers
_LATEST = 12
_STEP_RUN = 3  # transfers in a row that are off the same way mean that the link has changed
_STEP = 0.25
_UNSETTLED_S = 3.0
_LEAST_TRIP_S = 1e-4
_BUSY_S = 0.03  # what other work of this host, under a quota too, may add to a ping
_GAPS = 5


class LinkEstimator:
    """The link between here and one other host.

    The two directions' rates keep the ratio that the first guess gives them: answers are small and say nothing of
    their own. Requests that overlap share the link, and the estimate is what one of them sees. ``clock`` is
    ``time.monotonic`` or a test's own.
    """

    def __init__(self, guess: tuple[Link, Link], *, clock: Callable[[], float] = time.monotonic) -> None:
        """``guess`` is what is believed before the first transfer, upwards and downwards."""
        up, down = guess
        self._guess_bps = up.bandwidth_bps
        self._down_over_up = down.bandwidth_bps / up.bandwidth_bps
        self._guess_round_trip_s = up.latency_s + down.latency_s
        self._clock = clock
        self._warm: deque[Transfer] = deque(maxlen=_KEPT)
        self._after_idle: deque[Transfer] = deque(maxlen=_KEPT)
        self._latest: deque[tuple[float, float]] = deque(maxlen=_LATEST)  # bytes and seconds, whatever was forgotten
        self._pings: deque[tuple[float, float]] = deque(maxlen=64)  # when, seconds
        self._whole: deque[tuple[float, float]] = deque(maxlen=64)  # of transfers: no round trip is longer than one
        self._longer: list[tuple[float, float]] = []  # the latest round trips that are all longer than believed
        self._last_short_s = -math.inf  # when one was not
        self._hidden_s: list[float] = []  # what the latest transfers leave of a round trip that seems to hide them
        self._gaps_s: deque[float] = deque(maxlen=_GAPS)
        self._run: list[Transfer] = []  # the latest transfers that are off the same way,
        self._run_off = 0.0  # and which way
        self._last_end_s: float | None = None
        self._measured_s: float | None = None
        self._unsettled_s = -math.inf  # when something last came that what is believed does not explain

    def observe(
        self, sent_bytes: int, elapsed_s: float, *, received_bytes: int = 0, far_s: float = 0.0, is_alone: bool = True
    ) -> None:
        """A request and its answer that ended now: ``elapsed_s`` in all, ``far_s`` of it inside the other host.

        One that was not alone on the link says nothing of a longer round trip: it waited for the others. Where the
        other host claims to have taken all of the time or more, nothing is known of the network.
        """
        if not 0 <= far_s < elapsed_s < math.inf:
            self._gap(elapsed_s)
            return
        network_s = max(elapsed_s - far_s, 1e-6)
        size = sent_bytes + received_bytes / self._down_over_up
        gap_s = self._gap(elapsed_s)
        self._gaps_s.append(gap_s)
        rate_bps = rate_of(self._warm)
        if is_alone and gap_s < IDLE_S and rate_bps and not self.is_bound:
            wire_s = size * 8 / rate_bps
            if wire_s < self.round_trip_s:  # else what is longer may as well be the rate
                self._note_round_trip(max(0.0, network_s - wire_s))
        self._add_timed(size, network_s, gap_s)

    def observe_probe(self, size_bytes: int, elapsed_s: float) -> None:
        """Bytes that mean nothing and their acknowledgement: tells of the link, not of when requests come."""
        self._add_timed(size_bytes, max(elapsed_s, 1e-6), self._gap(elapsed_s))

    def observe_round_trip(self, seconds: float, *, is_alone: bool = True) -> None:
        """A message of no size and its answer took so long; beside other work of this host it may take less."""
        if is_alone or not self._pings or not self._is_longer(seconds):
            self._note_round_trip(seconds)
            self._pings.append((self._clock(), seconds))
        elif self._is_longer(seconds - _BUSY_S):
            self._note_round_trip(seconds - _BUSY_S)

    def observe_unfinished(self, sent_bytes: int, elapsed_s: float) -> None:
        """A request was given up on after so long, though the other host lives: the rate is at most that."""
        rate_bps = sent_bytes * 8 / max(elapsed_s - self.round_trip_s, elapsed_s / 2, 1e-6)
        series = self._series_of(self._gap(elapsed_s))
        self._add(series, Transfer(sent_bytes, elapsed_s, rate_bps, "at most", self._clock()))

    @property
    def round_trip_s(self) -> float:
        """The least that was seen in the last 10 s; the latest when none was; the guess before that."""
        since = self._clock() - _WINDOW_S
        bounds = [seconds for at, seconds in self._whole if at >= since]
        pings = [seconds for at, seconds in self._pings if at >= since]
        latest = self._pings[-1][1] if self._pings else self._guess_round_trip_s
        return min(*(pings or [latest]), *bounds, math.inf)

    def bandwidth_bps(self, *, idle_s: float = 0.0) -> float:
        """Payload bits per second upwards, for a transfer after a pause of ``idle_s``."""
        own, other = self._warm, self._after_idle
        if idle_s >= IDLE_S:
            own, other = other, own
        return rate_of(own) or rate_of(other) or self._guess_bps

    def links(self, *, idle_s: float = 0.0) -> tuple[Link, Link]:
        """Upwards and downwards, for a transfer after a pause of ``idle_s``."""
        rate_bps, latency_s = self.bandwidth_bps(idle_s=idle_s), self.round_trip_s / 2
        return Link(rate_bps, latency_s), Link(rate_bps * self._down_over_up, latency_s)

    @property
    def typical_idle_s(self) -> float:
        """The median of the last few pauses before requests: what the next one will probably follow."""
        return statistics.median(self._gaps_s) if self._gaps_s else 0.0

    @property
    def is_unsettled(self) -> bool:
        """Whether the latest transfers or round trips disagree with what is believed: a few pings soon would tell."""
        return self._clock() - self._unsettled_s < _UNSETTLED_S

    @property
    def measured(self) -> int:
        """Transfers that the estimate rests on; 0 while it is the guess."""
        return len(self._warm) + len(self._after_idle)

    @property
    def is_bound(self) -> bool:
        """Whether no transfer has told the rate: small ones on a fast link only say that it is not slower."""
        return not any(transfer.meaning == "rate" for transfer in (*self._warm, *self._after_idle))

    @property
    def is_at_least(self) -> bool:
        """Whether transfers only say that the link is not slower than believed."""
        meanings = {transfer.meaning for transfer in (*self._warm, *self._after_idle)}
        return meanings == {"at least"}

    @property
    def age_s(self) -> float:
        """Seconds since a transfer last told the rate; infinite before the first."""
        return math.inf if self._measured_s is None else self._clock() - self._measured_s

    def _add_timed(self, size: float, network_s: float, gap_s: float) -> None:
        self._note_bound(network_s)
        round_trip_s = self.round_trip_s
        series = self._series_of(gap_s)
        if network_s - round_trip_s > min(round_trip_s, max(_TELLING_S, round_trip_s * _STEP)):
            self._add(series, Transfer(size, network_s, size * 8 / (network_s - round_trip_s), "rate", self._clock()))
            self._hidden_s.clear()
        else:  # too quick to time, which may be news in itself
            self._add(series, Transfer(size, network_s, size * 8 / network_s, "at least", self._clock()))
            self._note_hidden(size, network_s, rate_of(series))
        if series is self._warm and size:
            self._latest.append((size, network_s))
            line = line_of(self._latest)
            if line is not None and self._is_longer(line.round_trip_s - _BUSY_S):  # though no ping came alone
                self._believe_longer([(self._clock(), line.round_trip_s)])

    def _note_round_trip(self, seconds: float) -> None:
        """A sample; the third in a row that is clearly longer than believed means that the round trip has grown."""
        if not self._pings or not self._is_longer(seconds):
            self._note_short_trip()
            return
        now_s = self._unsettled_s = self._clock()
        self._longer.append((now_s, seconds))
        if len(self._longer) >= _STEP_RUN:
            self._believe_longer(self._longer)

    def _believe_longer(self, pings: Sequence[tuple[float, float]]) -> None:
        """The round trip has grown: only these, when and how long, count from now on."""
        kept = list(pings)
        self._pings.clear()
        self._pings.extend(kept)
        self._whole.clear()
        self._longer.clear()
        self._run.clear()
        self._tell_rates_again()

    def _note_hidden(self, size: float, network_s: float, rate_bps: float | None) -> None:
        """A transfer no longer than the round trip that its bytes should have lengthened; the third shortens it."""
        if self.is_bound or rate_bps is None or size * 8 / rate_bps <= max(_TELLING_S, self.round_trip_s * _STEP):
            return
        self._hidden_s.append(max(_LEAST_TRIP_S, network_s - size * 8 / rate_bps))
        if len(self._hidden_s) == _STEP_RUN:
            self._pings.clear()
            self._pings.append((self._clock(), statistics.median(self._hidden_s)))
            self._hidden_s.clear()

    def _is_longer(self, seconds: float) -> bool:
        """Whether that is clearly longer than the round trip that is believed."""
        return seconds > self.round_trip_s * (1 + _STEP) + _TRIP_SLACK_S

    def _note_bound(self, seconds: float) -> None:
        """The round trip is no longer than that, whatever the rate is and whoever shared the link."""
        if not self._is_longer(seconds):
            self._note_short_trip()
        self._whole.append((self._clock(), seconds))

    def _note_short_trip(self) -> None:
        self._longer.clear()
        self._last_short_s = self._clock()

    def _tell_rates_again(self) -> None:
        """The rates of transfers since the round trip was last as short as believed: it was longer."""
        for series in (self._warm, self._after_idle):
            kept = [self._with_longer_trip(t) if t.at_s > self._last_short_s else t for t in series]
            series.clear()
            series.extend(t for t in kept if t is not None)

    def _with_longer_trip(self, transfer: Transfer) -> Transfer | None:
        """What a transfer says whose rate was told with a round trip that was too short; None for nothing."""
        wire_s = transfer.seconds - self.round_trip_s
        if transfer.meaning != "rate":
            return transfer
        return replace(transfer, rate_bps=transfer.size_bytes * 8 / wire_s) if wire_s > transfer.seconds / 5 else None

    def _gap(self, elapsed_s: float) -> float:
        """The silence before a transfer that ended now; a first one is preceded by a long silence."""
        end_s = self._clock()
        gap_s = IDLE_S if self._last_end_s is None else max(0.0, end_s - elapsed_s - self._last_end_s)
        self._last_end_s = end_s
        return gap_s

    def _series_of(self, gap_s: float) -> deque[Transfer]:
        return self._after_idle if gap_s >= IDLE_S else self._warm

    def _add(self, series: deque[Transfer], new: Transfer) -> None:
        if not new.size_bytes:
            return  # tells of no rate
        own_bps = rate_of(series)
        believed_bps = own_bps or rate_of(self._warm) or rate_of(self._after_idle) or self._guess_bps
        if new.meaning == "at least" and new.rate_bps <= believed_bps:
            return
        if new.meaning == "at most" and new.rate_bps >= believed_bps:
            return
        self._measured_s = self._clock()
        best_bps = max(rate_of(self._warm) or 0.0, rate_of(self._after_idle) or 0.0)
        if new.meaning == "rate":  # lower bounds below it say nothing that it does not, and must not outvote it
            known = [t for t in series if t.meaning != "at least" or t.rate_bps > new.rate_bps]
            series.clear()
            series.extend(known)
        series.append(new)
        if self._proves_change(new, best_bps):
            self._run = [new]
            self._forget_before(series)
            return
        off = 0.0 if own_bps is None else new.rate_bps / own_bps - 1
        if abs(off) <= _STEP or off * self._run_off < 0:
            self._run = []
        if abs(off) > _STEP:
            self._unsettled_s = self._clock()
            self._run.append(new)
            self._run_off = off
        if len(self._run) >= _STEP_RUN:
            self._forget_before(series)

    def _proves_change(self, new: Transfer, best_bps: float) -> bool:
        """Whether one transfer is enough: no link is faster than its rate, and nobody waits three times in vain."""
        if new.meaning == "at most":
            return new.rate_bps < best_bps * (1 - _STEP)
        return 0 < best_bps * (1 + _STEP) < new.size_bytes * 8 / new.seconds

    def _forget_before(self, series: deque[Transfer]) -> None:
        """The link has changed: only the run that shows it still counts, in this series and in the other."""
        run, self._run = self._run, []
        believed_s = self.round_trip_s
        self._warm.clear()
        self._after_idle.clear()
        series.extend(run)
        began_s = self._clock() - sum(transfer.seconds for transfer in run)
        while len(self._pings) > 1 and self._pings[0][0] < began_s:
            self._pings.popleft()
        if self._longer and self.round_trip_s > believed_s:  # it was the round trip that changed
            self._longer.clear()
            self._tell_rates_again()
