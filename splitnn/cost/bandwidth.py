"""What a link is like, learnt from the transfers that were made anyway. Knows no torch and no transport.

A transfer takes a round trip (``round_trips``) and n * 8 / rate (``rates``), where n counts the bytes that came down
as what they would be upwards (``directions``).
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

from splitnn.cost.directions import Directions, Mix
from splitnn.cost.network import Link
from splitnn.cost.rates import IDLE_S, Rates
from splitnn.cost.round_trips import BUSY_S, RoundTrips
from splitnn.cost.runs import STEP
from splitnn.cost.transfers import Meaning, Transfer, line_of

_TELLING_S = 0.01  # beyond the round trip, or as long as it: what takes longer tells the rate,
_DOUBT = 6.0  # where it is so many spreads of the round trip, too: jitter lengthens what is sent packet by packet
_LIKELY = 3.0  # less will do where so much is expected,
_UNLIKELY = 9.0  # and where not it takes more, or the late ones of many short transfers would tell a rate
_SURE = 12.0  # to tell of the two directions
_LEAST_S = 1e-6
_LEAST_TRIP_S = 1e-4
_LATEST = 12
_UNSETTLED_S = 3.0
_GAPS = 5


class LinkEstimator:
    """The link between here and one other host.

    Requests that overlap share it, and the estimate is what one of them sees. ``clock`` is ``time.monotonic`` or a
    test's own.
    """

    def __init__(self, guess: tuple[Link, Link], *, clock: Callable[[], float] = time.monotonic) -> None:
        """``guess`` is what is believed before the first transfer, upwards and downwards."""
        up, down = guess
        self._clock = clock
        self._round_trips = RoundTrips(up.latency_s + down.latency_s, clock=clock)
        self._rates = Rates(up.bandwidth_bps, clock=clock)
        self._directions = Directions(down.bandwidth_bps / up.bandwidth_bps)
        self._latest: deque[tuple[float, float]] = deque(maxlen=_LATEST)  # bytes and seconds, whatever was forgotten
        self._gaps_s: deque[float] = deque(maxlen=_GAPS)
        self._last_end_s: float | None = None

    def observe(
        self, sent_bytes: int, elapsed_s: float, *, received_bytes: int = 0, far_s: float = 0.0, is_alone: bool = True
    ) -> None:
        """A request and its answer that ended now: ``elapsed_s`` in all, ``far_s`` of it inside the other host.

        One that was not alone on the link says nothing of a longer round trip: it waited for the others. Where the
        other host claims to have taken all of the time or more, nothing is known of the network.
        """
        gap_s = self._gap(elapsed_s)
        if not 0 <= far_s < elapsed_s < math.inf:
            return
        self._gaps_s.append(gap_s)
        network_s = max(elapsed_s - far_s, _LEAST_S)
        if is_alone and gap_s < IDLE_S:
            self._note_mix(Mix(sent_bytes, received_bytes, network_s, self._clock()))
            self._note_rest(self._upward(sent_bytes, received_bytes), network_s)
        self._add_timed(sent_bytes, network_s, received_bytes=received_bytes, gap_s=gap_s)

    def observe_probe(self, size_bytes: int, elapsed_s: float) -> None:
        """Bytes that mean nothing and their acknowledgement: tells of the link, not of when requests come."""
        gap_s, network_s = self._gap(elapsed_s), max(elapsed_s, _LEAST_S)
        if gap_s < IDLE_S:
            self._note_mix(Mix(size_bytes, 0, network_s, self._clock()))
        self._add_timed(size_bytes, network_s, gap_s=gap_s)

    def observe_round_trip(self, seconds: float, *, is_alone: bool = True) -> None:
        """A message of no size and its answer took so long; beside other work of this host it may take less."""
        usual_at_s, before_s = self._round_trips.usual_at_s, self.round_trip_s
        if self._round_trips.observe(seconds, is_alone=is_alone):
            self._follow(usual_at_s)
        self._note_shorter(before_s)

    def observe_unfinished(self, sent_bytes: int, elapsed_s: float) -> None:
        """A request was given up on after so long, though the other host lives: the rate is at most that."""
        rate_bps = sent_bytes * 8 / max(elapsed_s - self.round_trip_s, elapsed_s / 2, _LEAST_S)
        new = Transfer(sent_bytes, elapsed_s, rate_bps, "at most", self._clock())
        self._rates.add(new, idle_s=self._gap(elapsed_s))

    @property
    def round_trip_s(self) -> float:
        """What a small message and its answer take."""
        return self._round_trips.seconds

    def bandwidth_bps(self, *, idle_s: float = 0.0) -> float:
        """Payload bits per second upwards, for a transfer after a pause of ``idle_s``."""
        return self._rates.believed_bps(idle_s=idle_s)

    def links(self, *, idle_s: float = 0.0) -> tuple[Link, Link]:
        """Upwards and downwards, for a transfer after a pause of ``idle_s``."""
        rate_bps, latency_s = self.bandwidth_bps(idle_s=idle_s), self.round_trip_s / 2
        return Link(rate_bps, latency_s), Link(rate_bps * self._directions.down_over_up, latency_s)

    @property
    def typical_idle_s(self) -> float:
        """The median of the last few pauses before requests: what the next one will probably follow."""
        return statistics.median(self._gaps_s) if self._gaps_s else 0.0

    @property
    def is_unsettled(self) -> bool:
        """Whether the latest transfers or round trips disagree with what is believed: a few pings soon would tell."""
        if not self._round_trips.is_sampled:
            return True
        return self._clock() - max(self._rates.unusual_at_s, self._round_trips.unusual_at_s) < _UNSETTLED_S

    @property
    def measured(self) -> int:
        """Transfers that the estimate rests on; 0 while it is the guess."""
        return sum(1 for _ in self._rates)

    @property
    def is_bound(self) -> bool:
        """Whether transfers only bound the rate: small ones on a fast link, or hardly longer than pings spread."""
        told_s = [transfer.wire_s for transfer in self._rates if transfer.meaning == "rate"]
        return not told_s or statistics.median(told_s) < _DOUBT * self._round_trips.spread_s

    @property
    def is_at_least(self) -> bool:
        """Whether transfers only say that the link is not slower than believed."""
        return {transfer.meaning for transfer in self._rates} == {"at least"}

    @property
    def age_s(self) -> float:
        """Seconds since a transfer last told the rate; infinite before the first."""
        return self._clock() - self._rates.told_at_s

    def _add_timed(self, sent_bytes: int, network_s: float, *, gap_s: float, received_bytes: int = 0) -> None:
        before_s = self.round_trip_s
        self._round_trips.observe_whole(network_s)
        self._note_shorter(before_s)
        size, beyond_s = self._upward(sent_bytes, received_bytes), network_s - self.round_trip_s
        is_telling = self._is_telling(beyond_s, self._expected_s(size, idle_s=gap_s))
        rate_bps = size * 8 / (beyond_s if is_telling else network_s)  # what is too quick to time may be news, too
        meaning: Meaning = "rate" if is_telling else "at least"
        new = Transfer(size, network_s, rate_bps, meaning, self._clock(), received_bytes)
        if self._rates.add(new, idle_s=gap_s):
            self._directions.forget()
        expected_s = self._expected_s(size, idle_s=gap_s)
        if is_telling:
            self._round_trips.end_shorter()
        elif expected_s > self._telling_s(_DOUBT):  # its bytes seem to hide in the round trip
            self._round_trips.observe_hidden(max(_LEAST_TRIP_S, network_s - expected_s))
        if gap_s < IDLE_S and size:
            self._note_line(size, network_s)

    def _note_rest(self, size: float, network_s: float) -> None:
        """What the bytes leave of a request's time may be a round trip that has grown."""
        expected_s = self._expected_s(size, idle_s=0.0)
        if 0 < expected_s < self.round_trip_s:  # else what is longer may as well be the rate
            usual_at_s = self._round_trips.usual_at_s
            if self._round_trips.observe_rest(max(0.0, network_s - expected_s)):
                self._follow(usual_at_s)

    def _note_line(self, size: float, network_s: float) -> None:
        """Transfers of different sizes may tell a round trip that has grown, though no ping came alone."""
        self._latest.append((size, network_s))
        line = line_of(self._latest)
        if line is not None and self._round_trips.is_longer(line.round_trip_s - BUSY_S):
            usual_at_s = self._round_trips.usual_at_s
            self._round_trips.believe([(self._clock(), line.round_trip_s)])
            self._follow(usual_at_s)

    def _note_mix(self, mix: Mix) -> None:
        """What a transfer that was alone on a warm link says of the two directions."""
        before = self._directions.down_over_up
        if mix.sent_bytes and self._directions.observe(
            mix, round_trip_s=self.round_trip_s, sure_s=self._telling_s(_SURE)
        ):
            self._rates.convert(1 / self._directions.down_over_up - 1 / before)

    def _note_shorter(self, before_s: float) -> None:
        """What transfers took when the round trip was longer cannot be told apart by the one of now."""
        if self.round_trip_s * (1 + STEP) < before_s:
            self._directions.forget()

    def _follow(self, since_s: float) -> None:
        """The round trip has been longer since then."""
        self._rates.tell_again(self.round_trip_s, since_s=since_s)
        self._directions.forget()

    def _upward(self, sent_bytes: int, received_bytes: int) -> float:
        """As many bytes upwards as would take as long."""
        return sent_bytes + received_bytes / self._directions.down_over_up

    def _expected_s(self, size: float, *, idle_s: float) -> float:
        """What the bytes take where any transfer has told the rate, else 0."""
        rate_bps = self._rates.told_bps(idle_s=idle_s)
        return size * 8 / rate_bps if rate_bps else 0.0

    def _is_telling(self, beyond_s: float, expected_s: float) -> bool:
        """Whether a transfer's seconds beyond the round trip tell the rate."""
        if not expected_s:
            return beyond_s > self._telling_s(_DOUBT)
        return beyond_s > self._telling_s(_LIKELY if expected_s > self._telling_s(_DOUBT) else _UNLIKELY)

    def _telling_s(self, spreads: float) -> float:
        """Seconds beyond the round trip that are due to bytes, where it spreads so many times less."""
        round_trip_s = self.round_trip_s
        least_s = min(round_trip_s, max(_TELLING_S, round_trip_s * STEP))
        return max(least_s, spreads * self._round_trips.spread_s)

    def _gap(self, elapsed_s: float) -> float:
        """The silence before a transfer that ended now; a first one is preceded by a long silence."""
        end_s = self._clock()
        gap_s = IDLE_S if self._last_end_s is None else max(0.0, end_s - elapsed_s - self._last_end_s)
        self._last_end_s = end_s
        return gap_s
