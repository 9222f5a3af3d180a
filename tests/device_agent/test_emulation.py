"""A device that is slower by time scaling computes the same, and its codecs take as much longer."""

from __future__ import annotations

import asyncio

import torch

from device_agent.emulation import SlowEngine, SlowTransport
from splitnn.transport.base import Answer, Probe, Request
from tests.device_agent.virtual_time import run_virtually


class Instant:
    async def infer(self, request: Request) -> Answer:
        return Answer(tensors={"y": torch.ones(2)}, encode_s=0.5, decode_s=0.25, elapsed_s=0.0)

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        return Probe(size_bytes, 0.0, 0.0)

    async def close(self) -> None:
        pass


def test_codecs_take_as_many_times_longer_and_say_so() -> None:
    async def test() -> None:
        now = asyncio.get_running_loop().time
        began_s = now()
        answer = await SlowTransport(Instant(), factor=4).infer(Request("m", {}, deadline_s=9))
        assert (answer.encode_s, answer.decode_s) == (2.0, 1.0)
        assert abs(now() - began_s - 2.25) < 1e-6  # what the real codecs had not taken already

    run_virtually(test())


def test_work_on_a_slow_engine_has_the_same_result_and_takes_longer_than_its_processor_time() -> None:
    def work() -> int:
        return sum(range(200_000))

    async def test() -> None:
        engine = SlowEngine("slow", factor=3.0)
        loop = asyncio.get_running_loop()
        executed = await engine.run(work, deadline_s=loop.time() + 60)
        assert executed.result == work()
        engine.close()

    asyncio.run(test())
