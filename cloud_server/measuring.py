"""Profiles of the models that came without one, measured while the server serves."""

from __future__ import annotations

import asyncio
import logging
import math
import threading

from cloud_server.service import CloudService
from splitnn.cost.profile import Profile
from splitnn.cost.profiler import profile
from splitnn.graph.model import Model
from splitnn.runtime.engine import Engine
from splitnn.runtime.engines.serving import compile_on
from splitnn.runtime.handling import with_handling
from splitnn.transport.codec import USUAL

_log = logging.getLogger(__name__)
HOST = "cloud"
"""What a profile calls this machine; who plans may call it otherwise."""


class _Stopped(Exception):
    """The server ends."""


class Measuring:
    """Profiles models in the background, one after the other; stops between two readings."""

    def __init__(self, service: CloudService, engine: Engine, *, threads: int, stages_on: str = "torch") -> None:
        """``stages_on`` names what will run the stages."""
        self._service, self._engine, self._threads, self._stages_on = service, engine, threads, stages_on
        self._ends = threading.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """No more measurements; the one under way ends with its next reading."""
        self._ends.set()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        for name, model in self._service.unprofiled():
            try:
                measured = (await self._engine.run(lambda: self._measure(model), deadline_s=math.inf)).result  # noqa: B023
            except _Stopped:
                return
            except Exception:  # noqa: BLE001 -- whatever one model does, the others are to be measured
                _log.exception("%s could not be measured; agents cannot plan with it", name)
                continue
            self._service.adopt(measured)
            error = "" if measured.error is None else f", predictions within {measured.error:.0%}"
            _log.info("measured %s: %.1f ms a request%s", name, measured.whole.wall_s * 1e3, error)

    def _measure(self, model: Model) -> Profile:
        def progress(done: float, what: str) -> None:
            if self._ends.is_set():
                raise _Stopped

        return with_handling(
            profile(
                model,
                host=HOST,
                codecs=USUAL,
                threads=self._threads,
                engine=self._stages_on,
                compile=compile_on(self._stages_on),
                progress=progress,
            )
        )
