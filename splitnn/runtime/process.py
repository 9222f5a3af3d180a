"""What a program of ours sets up around its event loop: allocator, loop, signals, log, and its last moment."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "2147483647"}
_LAST_WAIT_S = 1.0


def keep_large_blocks() -> None:
    """Start this program over with an allocator that keeps freed memory, once; anything set already is left alone.

    glibc otherwise maps and unmaps every block of some megabytes, which doubles the time of a request of 16 MB. It
    reads these variables when a process starts, so they cannot be set later. Does nothing where there is no glibc.
    """
    missing = {name: value for name, value in _ALLOCATOR.items() if name not in os.environ}
    if missing and sys.platform == "linux" and sys.orig_argv:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **missing})


def start_log(level: str) -> None:
    """One line an event on stderr, with the time."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run ``main`` to its exit status. The event that it is given is set by the first SIGTERM or SIGINT.

    On uvloop where that is installed (0.85 of the processor time a request), else on asyncio's own loop.
    """
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        return runner.run(_until_told(main))


def leave(status: int) -> int:
    """The status to exit with. Does not return when a thread is stuck in an operator: exits at once.

    The interpreter cannot end such a thread, and torch aborts when its own end meets one.
    """
    until_s = time.monotonic() + _LAST_WAIT_S
    # Not a subclass of Thread: those are libraries' own monitors, plain Python that the interpreter can end.
    ours = [thread for thread in threading.enumerate() if thread.daemon and type(thread) is threading.Thread]
    for thread in ours:
        thread.join(max(0.0, until_s - time.monotonic()))
    if any(thread.is_alive() for thread in ours):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


async def _until_told(main: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    return await main(told)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
