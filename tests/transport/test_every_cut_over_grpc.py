"""The oracle once more, over a real socket: at every cut, what a far host makes of the tensors is the whole model's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from splitnn.graph.model import Model, Value
from splitnn.runtime.host import ModelHost
from splitnn.runtime.stage import stage
from splitnn.runtime.verify import identical
from splitnn.transport.base import Request
from splitnn.transport.open_inference import GrpcTransport
from splitnn.transport.server import build_server, listen
from tests.models import REAL, TINY, captured, captured_real

FAR_S = 120.0


@asynccontextmanager
async def far_host(model: Model) -> AsyncIterator[GrpcTransport]:
    """A transport to a host that serves the model on a port of its own."""
    host = ModelHost(model)
    server, _ = build_server(host)
    port = listen(server, "127.0.0.1:0")
    await server.start()
    transport = GrpcTransport(f"127.0.0.1:{port}")
    try:
        yield transport
    finally:
        await transport.close()
        await server.stop(None)
        host.close()


def crossings(model: Model, heads: Iterator[int]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """For each head of so many layers: the tensors that cross, and the outputs that the far host is to make."""
    graph = model.graph
    for count in heads:
        head = [layer.name for layer in graph.layers[:count]]
        made = {tensor for name in head for tensor in graph.layer(name).outputs} | set(graph.inputs)
        if wanted := tuple(name for name in dict.fromkeys(graph.outputs) if name not in made):
            yield graph.crossing(head), wanted


async def assert_same_at(model: Model, heads: Iterator[int]) -> None:
    whole: dict[str, Value] = stage(model, model.graph.inputs, model.graph.tensors).run(model.example)
    tried = 0
    async with far_host(model) as transport:
        for crossing, wanted in crossings(model, heads):
            sent = {name: whole[name] for name in crossing}
            request = Request("model", sent, deadline_s=time.monotonic() + FAR_S, digest=model.digest, wanted=wanted)
            answer = await transport.infer(request)
            assert answer.tensors.keys() == set(wanted)
            for name in wanted:
                assert identical(answer.tensors[name], whole[name]), (crossing, name)
            tried += 1
    assert tried


@pytest.mark.parametrize("name", TINY)
def test_every_cut_of_a_tiny_model(name: str) -> None:
    model = captured(name)
    asyncio.run(assert_same_at(model, iter(range(len(model.graph) + 1))))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_cuts_all_over_a_real_model(name: str) -> None:
    model = captured_real(name)
    layers = len(model.graph)
    asyncio.run(assert_same_at(model, iter(sorted({round(i * (layers - 1) / 7) for i in range(8)}))))
