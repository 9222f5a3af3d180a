"""When a link would deliver what is sent into it. Pure arithmetic: knows no sockets and never sleeps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

PAYLOAD_SHARE = 1448 / 1514  # TCP payload of a full Ethernet frame; the goodput of a link is its rate times this


class VirtualClock:
    """One direction of a link: bytes leave one after the other at ``rate_bps`` and arrive ``latency_s`` later.

    The clock counts when the link will be free (``busy``) apart from when its user wakes up, so that late wake-ups do
    not add up. Rates count Ethernet frames (as ``tc`` does): payload flows at ``rate_bps * PAYLOAD_SHARE``.

    Raises:
        ValueError: a rate that is not above 0, or a latency below 0.
    """

    def __init__(
        self,
        rate_bps: float,
        *,
        latency_s: float = 0.0,
        ahead_s: float = 0.02,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._busy_until_s = -math.inf
        self._ahead_s = ahead_s  # waiting until the link is idle loses 15-25 % of the rate to late wake-ups
        self.rate_bps = _checked_rate(rate_bps)
        self.latency_s = _checked_latency(latency_s)

    def wait_s(self) -> float:
        """Seconds until the link takes more: 0 while less than ``ahead_s`` of its time is queued."""
        return max(0.0, self._busy_until_s - self._now() - self._ahead_s)

    def admit(self, payload_bytes: int) -> float:
        """Queue a payload now; the time, on this clock's ``now``, at which its last byte arrives."""
        seconds_on_wire = payload_bytes * 8 / PAYLOAD_SHARE / self.rate_bps
        self._busy_until_s = max(self._busy_until_s, self._now()) + seconds_on_wire
        return self._busy_until_s + self.latency_s

    def change(self, *, rate_bps: float | None = None, latency_s: float | None = None) -> None:
        """From now on; what is queued leaves at the new rate, what has a time of arrival keeps it."""
        if latency_s is not None:
            self.latency_s = _checked_latency(latency_s)
        if rate_bps is not None:
            queued_s = max(0.0, self._busy_until_s - self._now())
            self._busy_until_s = self._now() + queued_s * self.rate_bps / _checked_rate(rate_bps)
            self.rate_bps = rate_bps

    def chunk_bytes(self) -> int:
        """How much to read at a time: about 5 ms of the rate, one frame at least, 16 KiB at most."""
        return min(16384, max(1448, int(self.rate_bps * 0.005 / 8)))


def _checked_rate(rate_bps: float) -> float:
    if not (math.isfinite(rate_bps) and rate_bps > 0):
        raise ValueError(f"a rate must be finite and above 0 bit/s, not {rate_bps}")
    return rate_bps


def _checked_latency(latency_s: float) -> float:
    if not (math.isfinite(latency_s) and latency_s >= 0):
        raise ValueError(f"a latency must be finite and 0 s or more, not {latency_s}")
    return latency_s
