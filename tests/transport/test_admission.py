"""What a request costs the far side before it is known to be any good: nothing is decoded for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

from splitnn import errors
from splitnn.graph.capture import capture
from splitnn.graph.model import Model
from splitnn.runtime.host import ModelHost
from splitnn.transport import framing
from splitnn.transport.base import DEFAULT_LIMITS, Answer, Limits, Request
from splitnn.transport.held import HeldBytes
from splitnn.transport.open_inference import GrpcTransport
from splitnn.transport.server import build_server, listen
from tests.models import TINY


class Decodings:
    """Counts how often the far side decodes the tensors of a request; the near side's answers are not counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        real = framing.read_request

        def read_request(*values: Any, **options: Any) -> Request:
            self.count += 1
            return real(*values, **options)

        monkeypatch.setattr("splitnn.transport.open_inference.read_request", read_request)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> Decodings:
    return Decodings(monkeypatch)


@pytest.fixture(scope="module")
def model() -> Model:
    module, example = TINY["chain"]()
    return capture(module, example)


@asynccontextmanager
async def serving(host: Any, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[GrpcTransport]:
    server, _ = build_server(host, limits=limits)
    target = f"127.0.0.1:{listen(server, '127.0.0.1:0')}"
    await server.start()
    transport = GrpcTransport(target)
    try:
        yield transport
    finally:
        await transport.close()
        await server.stop(None)


def ask(model: Model, request: Request) -> Answer:
    async def main() -> Answer:
        host = ModelHost(model, name="net")
        try:
            async with serving(host) as transport:
                return await transport.infer(request)
        finally:
            host.close()

    return asyncio.run(main())


def bomb(count: int = 20_000_000) -> torch.Tensor:
    """Encodes to a thousandth of what it decodes to."""
    return torch.zeros(count)


def of(name: str, tensors: dict[str, torch.Tensor | int], **more: Any) -> Request:
    return Request(name, tensors, time.monotonic() + 60, **more)


def test_a_bomb_for_a_model_that_nobody_serves_is_never_decoded(model: Model, decodings: Decodings) -> None:
    with pytest.raises(errors.UnknownModel):
        ask(model, of("other", {"x": bomb()}, codecs={"x": "int8+zstd"}))
    assert decodings.count == 0


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda x: {"tensors": {"nobody": bomb()}, "codecs": {"nobody": "int8+zstd"}}, errors.InvalidInput),
        (lambda x: {"tensors": {x: bomb()}, "codecs": {x: "int8+zstd"}}, errors.InvalidInput),
        (lambda x: {"tensors": {x: torch.zeros(9, dtype=torch.int64)}, "codecs": {x: "zstd"}}, errors.InvalidInput),
        (lambda x: {"version": "9"}, errors.UnknownModel),
        (lambda x: {"digest": "0" * 64}, errors.DigestMismatch),
        (lambda x: {"wanted": ("nobody",)}, errors.InvalidInput),
    ],
    ids=["name", "shape", "dtype", "version", "digest", "wanted"],
)
def test_what_does_not_fit_the_model_is_refused_before_it_is_decoded(
    model: Model, decodings: Decodings, change: Callable[[str], dict[str, Any]], kind: type[Exception]
) -> None:
    values = {"tensors": dict(model.example), **change(model.graph.inputs[0])}
    with pytest.raises(kind):
        ask(model, of("net", **values))
    assert decodings.count == 0


def test_what_fits_is_decoded_and_answered(model: Model, decodings: Decodings) -> None:
    answer = ask(model, of("net", dict(model.example)))
    assert set(answer.tensors) == set(model.graph.outputs)
    assert decodings.count == 1


@pytest.mark.parametrize(("chosen", "kind"), [("gzip", errors.CodecError), ("jpeg90", errors.InvalidInput)])
def test_a_codec_that_cannot_carry_the_answer_is_refused_before_anything_is_computed(
    model: Model, decodings: Decodings, chosen: str, kind: type[Exception]
) -> None:
    [output] = model.graph.outputs
    with pytest.raises(kind, match=chosen):
        ask(model, of("net", dict(model.example), wanted=(output,), codecs={output: chosen}))
    assert decodings.count == 0


class Waiting:
    """Keeps every request until it may go."""

    def __init__(self, host: ModelHost) -> None:
        self._host = host
        self.is_ready, self.describe, self.expect = host.is_ready, host.describe, host.expect
        self.entered: asyncio.Queue[Request] = asyncio.Queue()
        self.may_go = asyncio.Event()

    async def infer(self, request: Request) -> Answer:
        self.entered.put_nowait(request)
        await self.may_go.wait()
        return await self._host.infer(request)


def with_one_waiting(model: Model, test: Callable[[Waiting, GrpcTransport], Awaitable[None]]) -> None:
    async def main() -> None:
        host = ModelHost(model, name="net")
        waiting = Waiting(host)
        async with serving(waiting, Limits(held_bytes=1)) as transport:
            first = asyncio.create_task(transport.infer(of("net", dict(model.example))))
            await asyncio.wait_for(waiting.entered.get(), 20)
            await test(waiting, transport)
            waiting.may_go.set()
            await first
        host.close()

    asyncio.run(main())


def test_requests_under_way_share_one_bound_and_a_request_alone_is_always_accepted(
    model: Model, decodings: Decodings
) -> None:
    async def test(waiting: Waiting, transport: GrpcTransport) -> None:
        with pytest.raises(errors.Overloaded, match="bytes") as caught:
            await transport.infer(of("net", dict(model.example)))
        assert caught.value.retry_after_s is not None
        assert decodings.count == 1

    with_one_waiting(model, test)


def test_bytes_are_free_again_whatever_ends_a_request() -> None:
    held = HeldBytes(100)
    with pytest.raises(KeyError), held.holding(80):
        raise KeyError
    with held.holding(60), held.holding(40):
        assert held.now_bytes == 100
        with pytest.raises(errors.Overloaded), held.holding(1):
            raise AssertionError
    assert held.now_bytes == 0
