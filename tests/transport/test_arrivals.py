"""What had arrived when a server begins to drain is answered, wherever it was; what comes later is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest
import torch

from splitnn.errors import Unavailable
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.transport.arrivals import Arrivals
from splitnn.transport.base import Announcement, Answer, Description, Request
from splitnn.transport.framing import read_request
from splitnn.transport.open_inference import GrpcTransport
from splitnn.transport.server import build_server, listen

FAR_S = 60.0
SIZE = 100_000
GRAPH = Graph(
    layers=(Layer("relu", "aten.relu.default", ("x",), ("y",)),),
    tensors={"x": TensorSpec((SIZE,), "float32"), "y": TensorSpec((SIZE,), "float32")},
    inputs=("x",),
    outputs=("y",),
)
Call = Literal["unary", "stream"]
BOTH = pytest.mark.parametrize("call", ["unary", "stream"])


class Held:
    """A service that answers with what it was sent, under another name, once ``release`` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.came = asyncio.Semaphore(0)
        self.expects = True

    def expect(self, announced: Announcement) -> None:
        if not self.expects:
            raise Unavailable("this host is shutting down")

    async def infer(self, request: Request) -> Answer:
        self.came.release()
        await self.release.wait()
        return Answer({"y": request.tensors["x"]})

    async def describe(self, model: str, version: str = "") -> Description:
        return Description(model, "", GRAPH)

    def is_ready(self, model: str = "", version: str = "") -> bool:
        return True


def play(scenario: Callable[[Held, Arrivals, GrpcTransport], Awaitable[None]], call: Call) -> None:
    async def main() -> None:
        held, arrivals = Held(), Arrivals()
        server, _ = build_server(held, interceptors=[arrivals])
        port = listen(server, "127.0.0.1:0")
        await server.start()
        transport = GrpcTransport(f"127.0.0.1:{port}", call=call)
        try:
            await asyncio.wait_for(scenario(held, arrivals, transport), FAR_S)
        finally:
            await transport.close()
            await server.stop(None)

    asyncio.run(main())


def ask(transport: GrpcTransport, value: float = 1.0) -> asyncio.Task[Answer]:
    tensors = {"x": torch.full((SIZE,), value)}
    return asyncio.create_task(transport.infer(Request("m", tensors, deadline_s=time.monotonic() + FAR_S)))


@BOTH
def test_what_arrived_is_answered_and_what_comes_later_is_refused(call: Call) -> None:
    async def scenario(held: Held, arrivals: Arrivals, transport: GrpcTransport) -> None:
        under_way = [ask(transport, float(i)) for i in range(5)]
        for _ in under_way:
            await held.came.acquire()
        held.expects = False
        settling = asyncio.create_task(arrivals.settle(FAR_S))
        for _ in range(3):
            with pytest.raises(Unavailable, match="shutting down"):
                await ask(transport)
        assert not settling.done()
        held.release.set()
        for i, task in enumerate(under_way):
            assert torch.equal(torch.as_tensor((await task).tensors["y"]), torch.full((SIZE,), float(i)))
        assert await settling

    play(scenario, call)


@BOTH
def test_an_idle_connection_is_owed_nothing(call: Call) -> None:
    async def scenario(held: Held, arrivals: Arrivals, transport: GrpcTransport) -> None:
        held.release.set()
        assert (await ask(transport)).tensors
        assert await arrivals.settle(FAR_S)

    play(scenario, call)


@BOTH
def test_what_takes_longer_than_the_grace_is_told_on(call: Call) -> None:
    async def scenario(held: Held, arrivals: Arrivals, transport: GrpcTransport) -> None:
        task = ask(transport)
        await held.came.acquire()
        assert not await arrivals.settle(0.05)
        held.release.set()
        assert (await task).tensors
        assert await arrivals.settle(FAR_S)

    play(scenario, call)


@BOTH
def test_a_caller_who_leaves_is_owed_nothing(call: Call) -> None:
    async def scenario(held: Held, arrivals: Arrivals, transport: GrpcTransport) -> None:
        task = ask(transport)
        await held.came.acquire()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await transport.close()
        assert await arrivals.settle(FAR_S)

    play(scenario, call)


def test_a_request_that_is_being_decoded_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service has not seen it yet; it was refused after all its bytes had crossed a slow link."""

    async def scenario(held: Held, arrivals: Arrivals, transport: GrpcTransport) -> None:
        decoding, go_on = threading.Event(), threading.Event()

        def slowly(*args: Any, **kwargs: Any) -> Request:
            decoding.set()
            go_on.wait(FAR_S)
            return read_request(*args, **kwargs)

        monkeypatch.setattr("splitnn.transport.open_inference.read_request", slowly)
        tensors = {"x": torch.linspace(0, 1, SIZE)}
        coded = Request("m", tensors, deadline_s=time.monotonic() + FAR_S, codecs={"x": "zstd"})
        task = asyncio.create_task(transport.infer(coded))
        await asyncio.to_thread(decoding.wait, FAR_S)
        settling = asyncio.create_task(arrivals.settle(FAR_S))
        await asyncio.sleep(0)
        assert not settling.done()
        go_on.set()
        held.release.set()
        assert torch.equal(torch.as_tensor((await task).tensors["y"]), tensors["x"])
        assert await settling

    play(scenario, "unary")
