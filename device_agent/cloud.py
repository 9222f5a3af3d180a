"""The way to the cloud, with what is known of it: whether it can be used, what the link is like, how busy it is.

Requests pass through here, so that each one tells something. What they do not tell is asked in the background: whether
a lost cloud is back, and what a link that nobody uses has become.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from device_agent.pings import Pings
from device_agent.probing import probe_link
from device_agent.reports import Control, Reports
from splitnn.cost.bandwidth import LinkEstimator
from splitnn.errors import (
    CodecError,
    DeadlineExceeded,
    DigestMismatch,
    Overloaded,
    RequestError,
    SplitnnError,
    TransportError,
    Unavailable,
    UnknownModel,
)
from splitnn.graph.graph import Graph
from splitnn.transport.base import Answer, Clock, HostReport, Probe, Request, Transport

_log = logging.getLogger(__name__)
_REPORT_SHARE = 100  # requests wait behind a report,
_PROBE_SHARE = 20  # and behind probes: so many times longer than they took the link is left alone
_MOST_ALONE_S = 60.0  # whatever the cloud asks for
_MOST_UNDER_WAY = 64  # requests;
_MOST_BYTES = 512 * 2**20  # of their tensors


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often the background work runs."""

    first_retry_s: float = 0.25  # after a loss; doubled with each failure
    last_retry_s: float = 5.0
    steady_s: float = 10.0  # up for so long, a cloud is trusted like a new one
    ping_every_s: float = 2.0
    unsettled_ping_s: float = 0.3  # while transfers disagree with what is believed of the link
    ping_timeout_s: float = 1.5
    report_every_s: float = 10.0
    measuring_every_s: float = 2.0  # while it measures its profile
    report_timeout_s: float = 20.0
    stale_s: float = 5.0  # no transfer told the rate for so long: probe; and the least time between two trains


class Cloud:
    """A ``Transport`` to the cloud that refuses at once while the cloud is lost; ``watch`` brings it back.

    Callbacks given to ``subscribe`` are called whenever it is lost or found, its report is new or probes told of the
    link.
    """

    def __init__(
        self,
        transport: Transport,
        control: Control,
        estimator: LinkEstimator,
        *,
        name: str,
        digest: str,
        graph: Graph,
        rhythm: Rhythm = Rhythm(),
        chance: random.Random | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self.estimator = estimator
        self.report: HostReport | None = None
        self.lost_because = "the cloud was not reached yet"  # "" while it can be used
        self._subscribers: list[Callable[[], None]] = []
        self._transport = transport
        self._reports = Reports(control, name=name, digest=digest, graph=graph)
        self._rhythm = rhythm
        self._pings = Pings(transport, estimator, timeout_s=rhythm.ping_timeout_s, clock=clock)
        self._chance = chance or random.Random()
        self._clock = clock
        self._is_verified = False  # it serves this very model
        self._must_probe = True  # before it is used: requests that are small on a fast link would never tell
        self._probe_not_before_s = self._probed_s = clock()
        self._found_s = self._reported_s = clock()
        self._report_took_s = 0.0
        self._retry_s = rhythm.first_retry_s
        self._not_before_s = clock()  # the next attempt to find it
        self._busy_until_s = clock()
        self._under_way = 0
        self._begun = 0
        self._held_bytes = 0
        self._woken = asyncio.Event()
        self._is_calm: Callable[[], bool] = lambda: True

    @property
    def is_up(self) -> bool:
        """Whether requests are sent there."""
        return not self.lost_because

    @property
    def under_way(self) -> int:
        """Requests that wait for an answer now; they share the link."""
        return self._under_way

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call it after every change; it must return quickly."""
        self._subscribers.append(callback)

    async def infer(self, request: Request) -> Answer:
        """See ``Transport.infer``. Refuses at once while the cloud is lost, or wants to be left alone, or is full."""
        if not self.is_up:
            raise Unavailable(self.lost_because)
        if (busy_s := self._busy_until_s - self._clock()) > 0:
            raise Overloaded("the cloud asked to be left alone for a while", busy_s)
        held_bytes = sum(value.nbytes for value in request.tensors.values() if not isinstance(value, int))
        if self._under_way >= _MOST_UNDER_WAY or (self._under_way and self._held_bytes + held_bytes > _MOST_BYTES):
            raise Overloaded(f"{self._under_way} requests of {self._held_bytes} bytes wait for the cloud already")
        self._under_way += 1
        self._begun += 1
        number = self._begun if self._under_way == 1 else 0
        self._held_bytes += held_bytes
        try:
            if self._under_way == 1:
                await self._pings.ahead()
            answer = await self._transport.infer(request)
        except Overloaded as error:
            alone_s = error.retry_after_s or self._rhythm.first_retry_s
            self._busy_until_s = self._clock() + min(alone_s, _MOST_ALONE_S)
            raise
        except (DigestMismatch, UnknownModel) as error:
            self._is_verified = False
            self.lose(f"the cloud serves something else: {error}")
            raise
        except DeadlineExceeded:
            self._must_probe = True  # the link may have become too slow for the plan
            raise  # whether the time was enough is known to who gave it: ``lose`` is theirs to call
        except TransportError as error:
            self._is_verified = False  # it may be another process that comes back, with its models not loaded yet
            self.lose(_in_words(error))
            raise
        finally:
            self._under_way -= 1
            self._held_bytes -= held_bytes
        self.estimator.observe(
            answer.sent_bytes,
            answer.elapsed_s,
            received_bytes=answer.received_bytes,
            far_s=answer.timings.total_s,
            is_alone=number == self._begun,
        )
        return answer

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        """See ``Transport.probe``."""
        return await self._transport.probe(size_bytes, timeout_s=timeout_s)

    async def close(self) -> None:
        """See ``Transport.close``."""
        self._pings.close()
        await self._transport.close()

    def lose(self, reason: str) -> None:
        """Send nothing there until a check in the background succeeds."""
        if not self.is_up:
            return
        self.lost_because = reason
        self._must_probe = True
        if self._clock() - self._found_s >= self._rhythm.steady_s:
            self._retry_s = self._rhythm.first_retry_s
        else:  # it answers checks and fails requests: no request may pay for finding that out again and again
            self._put_off()
        _log.warning("the cloud is lost: %s", reason)
        self._woken.set()
        self._tell()

    async def watch(self, *, is_calm: Callable[[], bool] = lambda: True) -> None:
        """Look after the cloud until cancelled. ``is_calm`` tells whether this host has nothing else to do."""
        self._is_calm = is_calm
        while True:
            if self.is_up:
                is_unsettled = self.estimator.is_unsettled
                await self._wait(self._rhythm.unsettled_ping_s if is_unsettled else self._rhythm.ping_every_s)
                if self.is_up:
                    await self._look()
            elif (early_s := self._not_before_s - self._clock()) > 0:
                await self._wait(early_s)
            elif not await self._find():
                self._put_off()

    def _put_off(self) -> None:
        """Try again later, and later still the next time."""
        self._not_before_s = self._clock() + self._retry_s * self._chance.uniform(0.8, 1.2)
        self._retry_s = min(self._retry_s * 2, self._rhythm.last_retry_s)

    async def _find(self) -> bool:
        """Whether the cloud answers and serves this model."""
        try:
            await self._ping()
            if not self._is_verified:
                await self._ask_report()
                self._is_verified = True
            if self._must_probe and self._may_probe():
                await self._probe_link()
        except (TransportError, RequestError, CodecError) as error:
            reason = _in_words(error)
            if reason != self.lost_because:
                _log.warning("the cloud cannot be used: %s", reason)
                self.lost_because = reason
                self._tell()
            return False
        self.lost_because = ""
        self._found_s = self._clock()
        _log.info("the cloud answers")
        self._tell()
        return True

    async def _look(self) -> None:
        """What is worth knowing of a cloud that is up. Only reports, which are small, are asked for beside requests."""
        try:
            if self._is_free():  # else it would wait behind the requests' own bytes, and time those
                await self._ping()
                doubtful = self._must_probe or self.estimator.is_bound or self.estimator.age_s > self._rhythm.stale_s
                if doubtful and self._may_probe():
                    await self._probe_link()
                    self._tell()
            is_measuring = self.report is None or not self.report.profile_id
            every_s = self._rhythm.measuring_every_s if is_measuring else self._rhythm.report_every_s
            every_s = max(every_s, self._report_took_s * _REPORT_SHARE)
            if self._clock() - self._reported_s > every_s:
                await self._ask_report()
                self._tell()
        except (TransportError, RequestError, CodecError) as error:
            if not self._under_way:  # else it may only have waited
                self.lose(_in_words(error))

    def _is_free(self) -> bool:
        return not self._under_way

    def _may_probe(self) -> bool:
        """Whether the link was left alone for long enough; less will do for one that has just shown to be faster."""
        now_s = self._clock()
        is_faster = self.estimator.is_at_least and now_s >= self._probed_s + self._rhythm.stale_s
        return is_faster or now_s >= self._probe_not_before_s

    async def _probe_link(self) -> None:
        began_s = self._clock()
        try:
            if await probe_link(self._transport, self.estimator, is_free=self._is_free, clock=self._clock):
                self._must_probe = False
        finally:
            now_s = self._probed_s = self._clock()
            self._probe_not_before_s = now_s + max(self._rhythm.stale_s, (now_s - began_s) * _PROBE_SHARE)

    async def _ping(self) -> None:
        await self._pings.between(is_free=self._is_free, is_calm=self._is_calm)

    async def _ask_report(self) -> None:
        """Raises DigestMismatch: the cloud serves another model under this name."""
        asked_s = self._clock()
        news = await self._reports.ask(known=self.report, timeout_s=self._rhythm.report_timeout_s)
        self._reported_s = self._clock()
        # A profile comes once, however long a slow link takes for it; what comes again and again is the load.
        self._report_took_s = 0.0 if news.has_profile else self._reported_s - asked_s
        self.report = news.report

    def _tell(self) -> None:
        for callback in self._subscribers:
            callback()

    async def _wait(self, seconds: float) -> None:
        """Until the time is over or the cloud is lost."""
        self._woken.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return


def _in_words(error: SplitnnError) -> str:
    return f"{type(error).__name__}: {error}"
