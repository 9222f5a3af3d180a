"""Makes a link follow a trace."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from experiments.emulation.shape import EmulatedLink, Shape
from experiments.emulation.traces import Trace

logger = logging.getLogger(__name__)

_LEAST_BPS = 8000.0  # slower is an outage: a frame would take 1.5 s


@contextlib.contextmanager
def replayed(
    trace: Trace, link: EmulatedLink, *, ways: Sequence[Literal["up_bps", "down_bps"]] = ("up_bps", "down_bps")
) -> Iterator[None]:
    """While the context lasts ``link`` has the rates of ``trace``, looped, from its start; then what it had before.

    A rate below 8 kbit/s is an outage, both ways. Changes come within 10 ms of their time (each calls ``tc`` twice);
    steps that are over before their turn are left out.

    Raises:
        RuntimeError: the link could not be changed; at the end of the context, and in the log at once.
    """
    before, was_blocked = link.shape, link.is_blocked
    stopped = threading.Event()
    failures: list[Exception] = []

    def run() -> None:
        try:
            follow(trace, link, ways=ways, stopped=stopped.wait, now=time.monotonic)
        except Exception as failure:  # noqa: BLE001 -- an unchanged link must not pass for one
            logger.error("the link %s follows its trace no longer: %s", link.shape, failure)
            failures.append(failure)

    follower = threading.Thread(target=run, name="trace replay", daemon=True)
    follower.start()
    try:
        yield
    finally:
        stopped.set()
        follower.join()
        unrestored = _restore(link, before, was_blocked=was_blocked)
    if failures:
        raise RuntimeError(f"the link stopped following its trace: {failures[0]}") from failures[0]
    if unrestored:
        raise RuntimeError(f"the link is not what it was before its trace: {unrestored[0]}") from unrestored[0]


def _restore(link: EmulatedLink, before: Shape, *, was_blocked: bool) -> list[Exception]:
    """What could not be undone. Raises nothing, since what the experiment raised says more."""
    failures: list[Exception] = []
    for undo in (
        link.block if was_blocked else link.heal,
        lambda: link.set(up_bps=before.up_bps, down_bps=before.down_bps),
    ):
        try:
            undo()
        except Exception as failure:  # noqa: BLE001 -- the next is undone all the same
            logger.error("the link %s is not what it was before its trace: %s", link.shape, failure)
            failures.append(failure)
    return failures


def follow(
    trace: Trace,
    link: EmulatedLink,
    *,
    ways: Sequence[Literal["up_bps", "down_bps"]],
    stopped: Callable[[float], bool],
    now: Callable[[], float],
) -> None:
    """Change the link at the trace's times until ``stopped``, which waits so many seconds, says so."""
    start_s = now()
    is_out = False
    for (time_s, rate_bps), (end_s, _) in itertools.pairwise(trace.looped()):
        if stopped(max(0.0, start_s + time_s - now())):
            return
        if now() - start_s >= end_s:
            continue  # changing the link takes longer than the step lasts
        if rate_bps >= _LEAST_BPS:
            link.set(**dict.fromkeys(ways, rate_bps))
        if is_out != (rate_bps < _LEAST_BPS):
            is_out = not is_out
            (link.block if is_out else link.heal)()
