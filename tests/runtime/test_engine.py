"""The engine runs what is wanted, once, in order, and nothing that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from splitnn.errors import DeadlineExceeded, Overloaded, PayloadTooLarge, Unavailable
from splitnn.runtime.engine import Engine, Executed, Limits

FAR_S = 60.0


def soon() -> float:
    return time.monotonic() + FAR_S


class Gate:
    """A function that blocks its thread until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.opened.wait(FAR_S)
        return "through"


@asynccontextmanager
async def blocked(engine: Engine) -> AsyncIterator[Gate]:
    """The engine's thread is busy inside."""
    gate = Gate()
    task = asyncio.create_task(engine.run(gate, deadline_s=soon()))
    await asyncio.to_thread(gate.entered.wait, FAR_S)
    try:
        yield gate
    finally:
        gate.opened.set()
        assert (await task).result == "through"


async def queued(engine: Engine, function: Callable[[], object], size_bytes: int = 0) -> asyncio.Task[Executed[object]]:
    """A call that waits in the queue now."""
    before = engine.waiting
    task = asyncio.create_task(engine.run(function, deadline_s=soon(), size_bytes=size_bytes))
    while engine.waiting == before:
        await asyncio.sleep(0)
    return task


def test_results_come_back_to_their_callers_in_the_order_of_arrival() -> None:
    async def scenario() -> None:
        engine = Engine()
        order: list[int] = []

        def work(number: int) -> Callable[[], int]:
            def function() -> int:
                order.append(number)
                return number

            return function

        async with blocked(engine):
            tasks = [await queued(engine, work(number)) for number in range(20)]
        assert [(await task).result for task in tasks] == list(range(20))
        assert order == list(range(20))
        engine.close()

    asyncio.run(scenario())


def test_everything_runs_on_one_thread_that_is_not_the_loops() -> None:
    async def scenario() -> None:
        engine = Engine("worker")
        threads = {(await engine.run(threading.current_thread, deadline_s=soon())).result for _ in range(5)}
        assert len(threads) == 1
        assert threads.pop() is not threading.current_thread()
        engine.close()

    asyncio.run(scenario())


def test_cancelled_work_is_never_executed_and_gives_its_place_back() -> None:
    async def scenario() -> None:
        engine = Engine()
        ran: list[str] = []
        async with blocked(engine):
            task = await queued(engine, lambda: ran.append("cancelled"), size_bytes=100)
            assert (engine.waiting, engine.admitted_bytes) == (1, 100)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (engine.waiting, engine.admitted_bytes) == (0, 0)
        await engine.run(lambda: ran.append("good"), deadline_s=soon())
        assert ran == ["good"]
        engine.close()

    asyncio.run(scenario())


def test_expired_work_is_never_executed_and_its_caller_hears_at_the_deadline() -> None:
    async def scenario() -> None:
        engine = Engine()
        ran: list[str] = []
        async with blocked(engine):
            with pytest.raises(DeadlineExceeded):  # while the thread is still busy: nobody waits for the one ahead
                await engine.run(lambda: ran.append("late"), deadline_s=time.monotonic() + 0.01)
            assert engine.waiting == 0
        with pytest.raises(DeadlineExceeded):
            await engine.run(lambda: ran.append("past"), deadline_s=time.monotonic())
        await engine.run(lambda: ran.append("good"), deadline_s=soon())
        assert ran == ["good"]
        engine.close()

    asyncio.run(scenario())


def test_work_that_outlives_its_deadline_is_answered_at_the_deadline() -> None:
    async def scenario() -> None:
        engine, gate = Engine(), Gate()
        with pytest.raises(DeadlineExceeded):
            await engine.run(gate, deadline_s=time.monotonic() + 0.5, size_bytes=7)
        assert engine.admitted_bytes == 7  # it still holds them
        gate.opened.set()
        await engine.run(lambda: None, deadline_s=soon())  # one at a time: the first is done
        assert engine.admitted_bytes == 0
        engine.close()

    asyncio.run(scenario())


def test_overload_refuses_early_by_count_and_by_bytes() -> None:
    async def scenario() -> None:
        engine = Engine(limits=Limits(waiting=2, admitted_bytes=100))
        async with blocked(engine):
            first = await queued(engine, lambda: "a", size_bytes=60)
            with pytest.raises(Overloaded, match="60 bytes are admitted already and 41 more") as by_bytes:
                await engine.run(lambda: "b", deadline_s=soon(), size_bytes=41)
            assert by_bytes.value.retry_after_s is not None
            second = await queued(engine, lambda: "c", size_bytes=40)
            with pytest.raises(Overloaded, match="2 requests wait") as by_count:
                await engine.run(lambda: "d", deadline_s=soon())
            assert by_count.value.retry_after_s is not None
            with pytest.raises(PayloadTooLarge, match=r"101 bytes.*admits 100"):
                await engine.run(lambda: "e", deadline_s=soon(), size_bytes=101)
        assert [(await first).result, (await second).result] == ["a", "c"]
        assert engine.admitted_bytes == 0
        engine.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory")],
)
def test_too_little_memory_is_overload_and_the_next_call_works(error: Exception) -> None:
    async def scenario() -> None:
        engine = Engine()

        def fail() -> None:
            raise error

        with pytest.raises(Overloaded, match="too little memory"):
            await engine.run(fail, deadline_s=soon())
        assert (await engine.run(lambda: 1, deadline_s=soon())).result == 1
        engine.close()

    asyncio.run(scenario())


def test_an_error_of_the_function_reaches_its_caller_as_itself() -> None:
    async def scenario() -> None:
        engine = Engine()
        with pytest.raises(ZeroDivisionError):
            await engine.run(lambda: 1 / 0, deadline_s=soon())
        assert (await engine.run(lambda: 1, deadline_s=soon())).result == 1
        engine.close()

    asyncio.run(scenario())


def test_close_fails_what_waits_and_lets_the_running_finish() -> None:
    async def scenario() -> None:
        engine = Engine()
        async with blocked(engine):
            waiting = await queued(engine, lambda: "never")
            engine.close()
            with pytest.raises(Unavailable):
                await waiting

    asyncio.run(scenario())


def test_time_in_the_queue_and_utilisation_follow_the_clock() -> None:
    now = [100.0]

    def takes(seconds: float) -> None:
        now[0] += seconds

    async def scenario() -> None:
        engine = Engine(clock=lambda: now[0])
        assert engine.utilisation() == 0.0
        first = asyncio.create_task(engine.run(lambda: takes(3.0), deadline_s=200.0))
        second = asyncio.create_task(engine.run(lambda: takes(1.0), deadline_s=200.0))
        assert ((await first).queue_s, (await first).compute_s) == (0.0, 3.0)
        assert (await second).compute_s == 1.0
        assert engine.utilisation() == 1.0
        takes(4.0)
        assert engine.utilisation() == pytest.approx(0.5)
        takes(30.0)
        assert engine.utilisation() == 0.0
        engine.close()

    asyncio.run(scenario())


def test_limits_that_admit_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one call"):
        Limits(waiting=0)
