"""Where stages execute: one worker thread beside the event loop, with a bounded queue that forgets what nobody wants.

torch releases the interpreter while an operator runs, so the loop stays responsive; one thread, because two stages at
once on the same cores only slow each other down. What runs is any function: the engine knows no torch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from splitnn.errors import DeadlineExceeded, Overloaded, PayloadTooLarge, Unavailable, is_out_of_memory

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_LONGEST_S = 7 * 86400.0  # a deadline may be infinite, an event loop's timer not
_SMOOTHING = 0.2  # weight of the latest run in the typical one
_WINDOW_S = 10.0  # over which utilisation is observed


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an engine admits before it refuses. Bytes count from admission until the work is done."""

    waiting: int = 64  # calls in the queue, without the one that runs
    admitted_bytes: int = 512 * 2**20

    def __post_init__(self) -> None:
        if self.waiting < 1 or self.admitted_bytes < 1:
            raise ValueError(f"an engine must admit at least one call of one byte, not {self}")


@dataclass(frozen=True, slots=True)
class Executed(Generic[_T]):
    """What the function returned, and the seconds before and while it ran."""

    result: _T
    queue_s: float
    compute_s: float


class Engine:
    """Runs functions one at a time, first come first served, on a thread of its own.

    Used from one event loop. ``clock`` is ``time.monotonic`` or a test's own.
    """

    def __init__(
        self, name: str = "engine", *, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits or Limits()
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._running: _Call | None = None
        self._admitted_bytes = 0
        self._ends = False
        self._typical_s = 0.0
        self._busy: deque[tuple[float, float]] = deque()  # from, until, of the runs inside the window
        self._born_s = clock()
        # A daemon: a function that never returns must not keep the process alive after its grace.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], _T], *, deadline_s: float, size_bytes: int = 0) -> Executed[_T]:
        """Call the function on the thread. Cancelled or expired before its turn, it is never called.

        ``deadline_s`` is an instant of the clock, ``size_bytes`` the memory that the call holds on to. What the
        function raises is raised here; too little memory as ``Overloaded``.

        Raises:
            PayloadTooLarge: it would not fit even alone.
            Overloaded: too much waits already.
            DeadlineExceeded: there is no result at the deadline.
            Unavailable: the engine was closed.
        """
        call = _Call(function, size_bytes, deadline_s, self._clock(), asyncio.get_running_loop())
        self._admit(call)
        left_s = min(max(0.0, deadline_s - self._clock()), _LONGEST_S)
        alarm = call.loop.call_later(left_s, self._expire, call)
        try:
            result, started_s, ended_s = await call.outcome
        finally:
            alarm.cancel()
            self._forget(call)
        return Executed(cast(_T, result), started_s - call.admitted_s, ended_s - started_s)

    @property
    def waiting(self) -> int:
        """Calls in the queue, without the one that runs."""
        return len(self._waiting)

    @property
    def admitted_bytes(self) -> int:
        """Bytes of all calls that wait or run."""
        return self._admitted_bytes

    def utilisation(self) -> float:
        """The share of the last ten seconds in which something ran."""
        with self._changed:
            now = self._clock()
            since = max(now - _WINDOW_S, self._born_s)
            runs = [*self._busy, (self._running.started_s, now)] if self._running else list(self._busy)
        busy_s = sum(max(0.0, until - max(start, since)) for start, until in runs)
        return min(1.0, busy_s / (now - since)) if now > since else 0.0

    def close(self) -> None:
        """End the thread after the call that runs; those that wait fail with ``Unavailable``. Does not block."""
        with self._changed:
            self._ends = True
            dropped = list(self._waiting)
            self._waiting.clear()
            for call in dropped:
                self._admitted_bytes -= call.size_bytes
            self._changed.notify_all()
        for call in dropped:
            call.settle_soon(Unavailable("the engine was closed before the request had its turn"))

    def _admit(self, call: _Call) -> None:
        with self._changed:
            if self._ends:
                raise Unavailable("this host is shutting down")
            if call.deadline_s <= call.admitted_s:
                raise DeadlineExceeded("the deadline had passed when the request came to its queue")
            if call.size_bytes > self._limits.admitted_bytes:
                raise PayloadTooLarge(
                    f"the request holds {call.size_bytes} bytes; this host admits {self._limits.admitted_bytes} at once"
                )
            if len(self._waiting) >= self._limits.waiting:
                raise Overloaded(f"{len(self._waiting)} requests wait already", self._retry_after_s())
            if self._admitted_bytes + call.size_bytes > self._limits.admitted_bytes:
                raise Overloaded(
                    f"{self._admitted_bytes} bytes are admitted already and {call.size_bytes} more would exceed "
                    f"{self._limits.admitted_bytes}",
                    self._retry_after_s(),
                )
            self._waiting.append(call)
            self._admitted_bytes += call.size_bytes
            self._changed.notify_all()

    def _retry_after_s(self) -> float:
        """Half the queue will be gone by then."""
        return max(0.05, self._typical_s * (len(self._waiting) + 1) / 2)

    def _expire(self, call: _Call) -> None:
        if not call.outcome.done():
            call.outcome.set_exception(DeadlineExceeded("the deadline passed before there was a result"))

    def _forget(self, call: _Call) -> None:
        """Take a call that is still waiting out of the queue: its caller has gone."""
        with self._changed:
            if call in self._waiting:
                self._waiting.remove(call)
                self._admitted_bytes -= call.size_bytes
                self._changed.notify_all()

    def _work(self) -> None:
        while (call := self._next()) is not None:
            if call.started_s < call.deadline_s:
                outcome = call.execute(self._clock)
            else:
                outcome = DeadlineExceeded("the deadline passed while the request waited")
            self._finish(call, outcome)
            call.settle_soon(outcome)
            del call, outcome  # the thread must not keep the last request's tensors alive while it waits

    def _next(self) -> _Call | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ends)
            if not self._waiting:
                return None
            call = self._waiting.popleft()
            call.started_s = self._clock()
            self._running = call
            return call

    def _finish(self, call: _Call, outcome: _Outcome) -> None:
        with self._changed:
            self._running = None
            self._admitted_bytes -= call.size_bytes
            now = self._clock()
            self._busy.append((call.started_s, now))
            while self._busy[0][1] < now - _WINDOW_S:
                self._busy.popleft()
            if isinstance(outcome, tuple):
                took_s = now - call.started_s
                self._typical_s += (took_s - self._typical_s) * (_SMOOTHING if self._typical_s else 1.0)
            self._changed.notify_all()


_Outcome = tuple[object, float, float] | BaseException  # result, started and ended


class _Call:
    """One admitted function and the future that its caller awaits."""

    def __init__(
        self,
        function: Callable[[], object],
        size_bytes: int,
        deadline_s: float,
        admitted_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._function = function
        self.size_bytes = size_bytes
        self.deadline_s = deadline_s
        self.admitted_s = admitted_s
        self.started_s = admitted_s
        self.loop = loop
        self.outcome: asyncio.Future[tuple[object, float, float]] = loop.create_future()

    def execute(self, clock: Callable[[], float]) -> _Outcome:
        try:
            return self._function(), self.started_s, clock()
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller, and the thread must live on
            return _as_overload(error)

    def settle_soon(self, outcome: _Outcome) -> None:
        """Hand the outcome to the caller's loop; nobody hears it when the loop has ended."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: _Outcome) -> None:
        if self.outcome.done():
            if isinstance(outcome, BaseException):
                _log.debug("a request that nobody waits for failed: %s", outcome)
        elif isinstance(outcome, BaseException):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


def _as_overload(error: BaseException) -> BaseException:
    """Too little memory is this host's state and not the request's fault."""
    if not is_out_of_memory(error):
        return error
    overload = Overloaded(f"this host has too little memory for the request: {str(error)[:200]}", 1.0)
    overload.__cause__ = error
    return overload
