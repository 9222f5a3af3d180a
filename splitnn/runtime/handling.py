"""What a stage and a message cost a host however small they are: threads, Python and gRPC. Measured, not assumed."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from statistics import median

import torch

from splitnn.cost.profile import Profile
from splitnn.errors import UnknownModel
from splitnn.graph.graph import Graph, TensorSpec
from splitnn.runtime.engine import Engine
from splitnn.transport.base import Announcement, Answer, Description, Request, Timings
from splitnn.transport.open_inference import GrpcTransport
from splitnn.transport.server import build_server, listen

_REPEATS = 21
_WARM_UP = 3
_PAUSE_S = 0.02  # requests come after pauses, to cold caches and sleeping threads
_LIMIT_S = 10.0
_NAME, _TENSOR = "handling", "x"


def with_handling(measured: Profile) -> Profile:
    """The profile with what stages and messages cost on this machine, times its slowdown; takes about a second.

    CPU time of the whole process, threads of gRPC included; by the wall clock where that is the profile's. To be
    called while no event loop runs in this thread.
    """
    clock = time.process_time if measured.clock == "cpu" else time.perf_counter
    stage_s, message_s = asyncio.run(_measure(clock))
    return replace(measured, stage_s=stage_s * measured.slowdown, message_s=message_s * measured.slowdown)


class _Echo:
    """A ``Service`` that answers with what it was given."""

    def expect(self, announced: Announcement) -> None:
        """Everything."""

    async def infer(self, request: Request) -> Answer:
        return Answer(request.tensors, timings=Timings(queue_s=1e-9, compute_s=1e-9))

    async def describe(self, model: str, version: str = "") -> Description:
        if model != _NAME:
            raise UnknownModel(f"no model {model!r} here")
        spec = TensorSpec((1,), "float32")
        return Description(_NAME, "", Graph((), {_TENSOR: spec}, (_TENSOR,), (_TENSOR,)))

    def is_ready(self, model: str = "", version: str = "") -> bool:
        return True


async def _measure(clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds a stage and a message."""
    engine = Engine("handling")
    server, _ = build_server(_Echo())
    transport = GrpcTransport(f"127.0.0.1:{listen(server, '127.0.0.1:0')}")
    await server.start()
    tensors = {_TENSOR: torch.zeros(1)}
    try:
        stage_s = await _median_s(lambda: engine.run(lambda: None, deadline_s=math.inf), clock)
        exchange_s = await _median_s(
            lambda: transport.infer(Request(_NAME, tensors, deadline_s=time.monotonic() + _LIMIT_S)), clock
        )
    finally:
        await transport.close()
        await server.stop(0)
        engine.close()
    return stage_s, exchange_s / 2  # both ends are this process


async def _median_s(work: Callable[[], Awaitable[object]], clock: Callable[[], float]) -> float:
    taken = []
    for _ in range(_WARM_UP + _REPEATS):
        await asyncio.sleep(_PAUSE_S)
        started_s = clock()
        await work()
        taken.append(clock() - started_s)
    return median(taken[_WARM_UP:])
