"""Requests that are in a hurry: the most accurate exits, cut and codecs in which they are answered in time.

Ways to answer are found, priced and compiled beside the requests, once one has been in a hurry; from then on a request
looks its way up. They are priced anew whenever the plan is weighed anew, and found anew when the hosts' speeds or the
round trip have changed, or the bandwidth by more than ``_AROUND``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from device_agent.courses import Course, Courses
from device_agent.navigator import Navigator, differ
from device_agent.refusals import Refusals
from splitnn.errors import InvalidInput, SplitnnError
from splitnn.graph.exits import Exits
from splitnn.planner.timetable import Way
from splitnn.runtime.replan import Conditions
from splitnn.transport.base import Clock, Parameter, Request

_log = logging.getLogger(__name__)
_SURE = 0.9  # of the time that is left: what is predicted is a middle, and half of all requests take longer
_AROUND = 16.0  # times the present bandwidth, up and down, for which ways are found at once
_SHARE = 20  # between two searches lie at least so many times the time that one takes


class Reach(Protocol):
    """Whether the cloud can be used; ``Cloud`` is one."""

    @property
    def is_up(self) -> bool: ...

    @property
    def lost_because(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Open:
    """A way that requests can take at once."""

    way: Way
    course: Course


class Taken(NamedTuple):
    """What a request in a hurry follows; ``degraded`` is the reason when it must be the device alone."""

    course: Course
    exits: Exits
    degraded: str
    late: str  # that nothing is in time; "" where this is


class Timely:
    """Keeps ways ready for a model with these exits; ``run`` must run beside the agent."""

    def __init__(
        self,
        navigator: Navigator,
        courses: Courses,
        cloud: Reach,
        refusals: Refusals,
        *,
        exits: Exits | None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._navigator = navigator
        self._courses = courses
        self._cloud = cloud
        self._refusals = refusals
        self._exits = exits
        self._clock = clock
        self._news = asyncio.Event()
        self._is_wanted = False
        self._ways: list[Way] = []
        self._found_at: Conditions | None = None
        self._priced_at: Conditions | None = None
        self._not_before_s = -math.inf
        self.with_cloud: tuple[Open, ...] = ()
        self.alone: tuple[Open, ...] = ()

    def instead(
        self, course: Course, exits: Exits | None, request: Request, *, deadline_s: float, load: float
    ) -> Taken | None:
        """What a request follows that is to be over at ``deadline_s``, where that is not ``course``; microseconds.

        It is when the request says so itself (``asked_within``), or when ``course`` would take longer. None where it
        asks for a plan or for exits of its own, or no way is ready yet. ``load`` is in examples.
        """
        is_bound = exits is not self._exits or not self._navigator.is_free or "plan" in request.parameters
        if exits is None or is_bound:
            return None
        within_s = (deadline_s - self._clock()) * _SURE / max(1.0, load)
        if asked_within(request) is None and course.plan.predicted.latency_s <= within_s:
            return None
        self._is_wanted = True
        self.tell()
        lost_because = ""
        if self._navigator.uses_cloud and not self._cloud.is_up:
            lost_because = self._cloud.lost_because
        elif found := _most_accurate(self.with_cloud, within_s):
            lost_because = self._refusals.reason(found.course.plan.id, load=load)
            if found.course.plan.is_local or not lost_because:
                return self._taken(found, exits, within_s)
            lost_because = f"the cloud refuses this plan: {lost_because}"
        found = _most_accurate(self.alone, within_s)
        if found is None:
            return None
        return self._taken(found, exits, within_s, degraded=lost_because)

    def _taken(self, found: Open, exits: Exits, within_s: float, *, degraded: str = "") -> Taken:
        """This way. Where even the quickest is late and on the device, all exits there, as far as there is time.

        They begin as that way does, and predictions may be wrong; the last exit that is passed in time answers. Where
        the quickest is through the cloud, the device would pass no exit in time.
        """
        late = _late(found, within_s)
        if late and found.course.plan.is_local:
            return Taken(self._courses.on_device, exits, degraded, late)
        return Taken(found.course, found.way.exits, degraded, late)

    def tell(self) -> None:
        """Conditions may have changed."""
        self._news.set()

    async def run(self) -> None:
        """Keep the ways ready, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._exits is None or not self._is_wanted:
                continue
            now = self._navigator.conditions()
            is_same = self._priced_at is not None and not differ(self._priced_at, now)
            if is_same and not self._must_search(now):
                continue
            try:
                await self._renew(now, self._exits)
            except (SplitnnError, ValueError, RuntimeError):  # a report that makes no sense must not end the agent
                _log.exception("no new ways for requests with deadlines; those that are known stay")

    async def _renew(self, now: Conditions, exits: Exits) -> None:
        here = self._navigator.ways_here(exits)
        self.alone = await self._opened(here, now)
        if self._must_search(now):
            began_s = self._clock()
            self._ways = await self._courses.aside(lambda: self._navigator.ways(now, exits=exits, around=_AROUND))
            self._found_at, ended_s = now, self._clock()
            self._not_before_s = ended_s + _SHARE * (ended_s - began_s)
        self.with_cloud = await self._opened([*self._ways, *here], now)
        self._priced_at = now

    def _must_search(self, now: Conditions) -> bool:
        """Whether ways through the cloud are to be found anew, and may be."""
        if not self._navigator.uses_cloud or not self._cloud.is_up or self._clock() < self._not_before_s:
            return False
        return self._found_at is None or _is_elsewhere(self._found_at, now)

    async def _opened(self, ways: Sequence[Way], now: Conditions) -> tuple[Open, ...]:
        table = await self._courses.aside(lambda: self._navigator.timetable(ways, now))
        return tuple([Open(way, await self._courses.ready(way.plan, way.exits)) for way in table])


def _most_accurate(table: Sequence[Open], within_s: float) -> Open | None:
    """The first in which no sample is late; where there is none, the quickest."""
    return next((each for each in table if each.way.worst_s <= within_s), table[-1] if table else None)


def _late(taken: Open, within_s: float) -> str:
    """What the answer says where nothing is in time; "" where this is."""
    if taken.way.worst_s <= within_s:
        return ""
    return f"no way to answer is in time: the quickest is predicted at {taken.way.worst_s * 1e3:.1f} ms"


def asked_within(request: Request) -> float | None:
    """The request's parameter ``deadline_s``: in how many seconds it wants its answer; None where it does not say.

    Raises:
        InvalidInput: it is no such number.
    """
    asked: Parameter | None = request.parameters.get("deadline_s")
    if asked is None:
        return None
    try:
        seconds = math.nan if isinstance(asked, bool) else float(asked)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidInput(f"the request's parameter 'deadline_s' is a number of seconds above 0, not {asked!r}")
    return seconds


def _is_elsewhere(found_at: Conditions, now: Conditions) -> bool:
    """Whether ways that were found under those conditions may no longer be the best ones."""
    before, after = found_at.topology.up[0], now.topology.up[0]
    if not 1 / _AROUND <= after.bandwidth_bps / before.bandwidth_bps <= _AROUND:
        return True
    alike = replace(after, bandwidth_bps=before.bandwidth_bps)
    return differ(found_at, replace(now, topology=replace(now.topology, up=(alike, *now.topology.up[1:]))))
