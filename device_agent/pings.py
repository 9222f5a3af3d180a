"""Messages of no size that time the round trip: between requests, or in front of one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from splitnn.cost.bandwidth import LinkEstimator
from splitnn.errors import CodecError, RequestError, TransportError
from splitnn.transport.base import Clock, Transport

_UNSETTLED_S = 1.0  # without a ping, and one goes ahead of a request;
_SETTLED_S = 10.0  # where nothing contradicts what is believed


class Pings:
    """Sends them, and tells the estimator what they took."""

    def __init__(
        self, transport: Transport, estimator: LinkEstimator, *, timeout_s: float, clock: Clock = time.monotonic
    ) -> None:
        self._transport = transport
        self._estimator = estimator
        self._timeout_s = timeout_s
        self._clock = clock
        self._last_s = clock()
        self._ahead: asyncio.Future[None] | None = None

    async def between(self, *, is_free: Callable[[], bool], is_calm: Callable[[], bool]) -> None:
        """One that counts if no request was sent meanwhile; behind it a ping would time the request's bytes.

        ``is_calm`` tells whether this host has nothing else to do. What it computes takes processor time from the
        messages of a ping, most of all under a quota, and such a ping does not prove that the round trip has grown.

        Raises:
            TransportError, RequestError, CodecError: no answer, or none that makes sense.
        """
        was_calm = is_calm()
        took_s = await self._take()
        if is_free():
            self._estimator.observe_round_trip(took_s, is_alone=was_calm and is_calm())

    async def ahead(self) -> None:
        """Call it before a request that is alone: one goes in front of it where requests left no pause for any.

        Without it nobody could tell a slower link from a longer round trip. Nothing waits for its answer.
        """
        is_under_way = self._ahead is not None and not self._ahead.done()
        after_s = _UNSETTLED_S if self._estimator.is_unsettled else _SETTLED_S
        if is_under_way or self._clock() - self._last_s <= after_s:
            return
        self._ahead = asyncio.ensure_future(self._time_ahead())
        await asyncio.sleep(0)  # its bytes go first

    def close(self) -> None:
        """Wait for none any more."""
        if self._ahead is not None:
            self._ahead.cancel()

    async def _time_ahead(self) -> None:
        with contextlib.suppress(TransportError, RequestError, CodecError):  # the request behind it meets the same
            self._estimator.observe_round_trip(await self._take(), is_alone=False)

    async def _take(self) -> float:
        """Seconds of one."""
        probe = await self._transport.probe(0, timeout_s=self._timeout_s)
        self._last_s = self._clock()
        return probe.elapsed_s
