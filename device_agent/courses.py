"""The plans that requests follow, compiled: the current one, the device alone, and those that were used last."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from device_agent.navigator import Navigator, Pin
from splitnn.errors import Overloaded
from splitnn.graph.exits import Exits
from splitnn.instrument import Instrument
from splitnn.planner.plan import Plan
from splitnn.runtime.pipeline import Pipeline

_KEPT = 32  # all ways that an experiment weighs against each other; their weights are shared
_MOST_ASKING = 32
_T = TypeVar("_T")


class Aside(Protocol):
    """Runs a function that takes milliseconds without holding up requests: ``asyncio.to_thread``."""

    def __call__(self, function: Callable[[], _T], /) -> Awaitable[_T]: ...


@dataclass(frozen=True, slots=True)
class Course:
    """A plan as it was priced last, and the stages that carry it out."""

    plan: Plan
    pipeline: Pipeline


class Courses:
    """Compiles plans with ``compile`` (some 60 ms, beside the loop) and switches from one to the next.

    The current course, and the one on the device alone, use the exits given; others are to be had for the asking.
    """

    def __init__(
        self,
        navigator: Navigator,
        *,
        exits: Exits | None = None,
        compile: Callable[[Plan, Exits | None], Pipeline],
        aside: Aside,
        instrument: Instrument,
    ) -> None:
        self._navigator = navigator
        self._compile = compile
        self.aside = aside
        self._instrument = instrument
        self._exits = exits
        self._pipelines: OrderedDict[tuple[str, ...], Pipeline] = OrderedDict()
        self._compiling = asyncio.Lock()
        self._asking = 0  # requests that wait for a plan of their own
        self.on_device = Course(navigator.on_device, compile(navigator.on_device, exits))
        self.current = self.on_device

    async def replan(self) -> None:
        """Decide again if conditions have moved, and switch: requests that have begun keep the course that they have.

        Raises:
            SplitnnError, ValueError, RuntimeError: there is no plan under these conditions; the current one stays.
        """
        now = self._navigator.conditions()
        if not self._navigator.has_moved(now):
            return
        before = self.current.plan
        decision = await self.aside(lambda: self._navigator.decide(now))
        course = Course(decision.plan, await self._compiled(decision.plan, self._exits))
        self._navigator.follow(decision, now)
        self.current = course
        if decision.is_change:
            self._instrument.plan_changed(old=str(before), new=str(decision.plan), reason=decision.reason)

    async def alone(self, exits: Exits | None) -> Course:
        """The course on the device alone, with these exits."""
        if exits is self._exits:
            return self.on_device
        return Course(self.on_device.plan, await self._compiled(self.on_device.plan, exits))

    async def ready(self, plan: Plan, exits: Exits) -> Course:
        """A course with these exits, for later."""
        return Course(plan, await self._compiled(plan, exits))

    async def asked_for(self, pin: Pin, exits: Exits | None = None) -> Course:
        """The course of one request that says where it wants to run, and which exits may answer it.

        Raises:
            Overloaded: many such requests wait for their plans to be compiled already.
        """
        if pin == "auto" and exits is self._exits:
            return self.current
        if self._asking >= _MOST_ASKING:
            raise Overloaded(f"{self._asking} requests with plans of their own wait for them to be compiled already")
        self._asking += 1
        try:
            now = self._navigator.conditions()
            plan = await self.aside(lambda: self._navigator.priced(pin, now))
            return Course(plan, await self._compiled(plan, exits))
        finally:
            self._asking -= 1

    async def _compiled(self, plan: Plan, exits: Exits | None) -> Pipeline:
        key = plan.id, *(each.name for each in (exits.exits if exits else ()))
        if key not in self._pipelines:
            async with self._compiling:  # one after the other: each takes a core from the requests
                if key not in self._pipelines:
                    self._pipelines[key] = await self.aside(lambda: self._compile(plan, exits))
                    if len(self._pipelines) > _KEPT:
                        self._pipelines.popitem(last=False)
        self._pipelines.move_to_end(key)
        return self._pipelines[key]
