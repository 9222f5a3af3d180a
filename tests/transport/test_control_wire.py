"""The control service over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from splitnn import errors
from splitnn.cost.profile import Profile, Timing
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.transport.base import (
    DEFAULT_LIMITS,
    Announcement,
    Answer,
    Description,
    ExitsAudited,
    HostReport,
    Limits,
    Request,
)
from splitnn.transport.channel import open_channel
from splitnn.transport.control import CONTROL, ControlClient
from splitnn.transport.server import build_server, listen

GRAPH = Graph(
    layers=(Layer("relu", "aten.relu.default", ("x",), ("y",)),),
    tensors={"x": TensorSpec((2, 3), "float32", (1, 0), (1, 0)), "y": TensorSpec((2, 3), "float32")},
    inputs=("x",),
    outputs=("y",),
    batch=2,
)
PROFILE = Profile("d1", "cloud", {"relu": Timing(1.0, 0.5)}, Timing(1.0, 0.5), error=0.01)


class Cloud:
    def expect(self, announced: Announcement) -> None:
        raise NotImplementedError

    async def infer(self, request: Request) -> Answer:
        raise NotImplementedError

    async def describe(self, model: str, version: str = "") -> Description:
        if model != "net":
            raise errors.UnknownModel(f"no model is called {model!r}; there is 'net'")
        return Description("net", "d1", GRAPH, ("1", "2"))

    def is_ready(self, model: str = "", version: str = "") -> bool:
        return True

    async def report(self, model: str, version: str = "") -> HostReport:
        return HostReport(
            PROFILE if model == "net" else None, queue_length=3, slowdown=1.5, utilisation=0.25,
            exits=ExitsAudited(answered=900, checked=9, agreed=8),
        )  # fmt: skip


def run(test: Callable[[ControlClient, grpc.aio.Channel], Awaitable[None]], limits: Limits = DEFAULT_LIMITS) -> None:
    async def main() -> None:
        server, _ = build_server(Cloud(), reporter=Cloud(), limits=limits)
        target = f"127.0.0.1:{listen(server, '127.0.0.1:0')}"
        await server.start()
        async with open_channel(target) as channel:
            await test(ControlClient(channel), channel)
        await server.stop(None)

    asyncio.run(main())


def test_a_model_arrives_as_it_is_described() -> None:
    async def test(control: ControlClient, channel: grpc.aio.Channel) -> None:
        assert await control.get_model("net", timeout_s=10) == Description("net", "d1", GRAPH, ("1", "2"))
        with pytest.raises(errors.UnknownModel, match="there is 'net'"):
            await control.get_model("other", timeout_s=10)

    run(test)


def test_a_profile_arrives_with_the_load() -> None:
    async def test(control: ControlClient, channel: grpc.aio.Channel) -> None:
        report = await control.get_profile("net", timeout_s=10)
        exits = ExitsAudited(900, 9, 8)
        assert report == HostReport(PROFILE, 3, 1.5, 0.25, digest="d1", profile_id=report.profile_id, exits=exits)
        assert exits.share == 0.01 and exits.agreement == 8 / 9
        with pytest.raises(errors.UnknownModel):
            await control.get_profile("unmeasured", timeout_s=10)

    run(test)


def test_a_profile_that_the_asker_holds_is_not_sent_again() -> None:
    async def test(control: ControlClient, channel: grpc.aio.Channel) -> None:
        whole = await control.get_profile("net", timeout_s=10)
        again = await control.get_profile("net", known_profile=whole.profile_id, timeout_s=10)
        assert again == replace(whole, profile=None)
        assert (await control.get_profile("net", known_profile="another", timeout_s=10)) == whole

    run(test)


def test_a_probe_says_what_arrived_and_its_order_in_time() -> None:
    async def test(control: ControlClient, channel: grpc.aio.Channel) -> None:
        first = await control.probe(0, timeout_s=10)
        second = await control.probe(100_000, timeout_s=10)
        assert (first.size_bytes, second.size_bytes) == (0, 100_000)
        assert first.received_at_s < second.received_at_s
        assert second.elapsed_s > 0
        with pytest.raises(ValueError, match="-1"):
            await control.probe(-1, timeout_s=10)

    run(test)


def test_a_probe_above_the_limit_is_refused_and_the_server_lives() -> None:
    async def test(control: ControlClient, channel: grpc.aio.Channel) -> None:
        with pytest.raises(errors.PayloadTooLarge):
            await control.probe(2**20, timeout_s=10)
        await control.probe(100, timeout_s=10)

    run(test, Limits(message_bytes=2**16))


def test_a_graph_that_is_none_is_a_codec_error() -> None:
    async def lie(request: bytes, context: Any) -> bytes:
        return b"\x22\x03{]}"  # graph_json

    async def main() -> None:
        server = grpc.aio.server()
        handler: Any = grpc.unary_unary_rpc_method_handler(lie)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(CONTROL, {"GetModel": handler}),))
        target = f"127.0.0.1:{listen(server, '127.0.0.1:0')}"
        await server.start()
        async with open_channel(target) as channel:
            with pytest.raises(errors.CodecError, match="something else"):
                await ControlClient(channel).get_model("net", timeout_s=10)
            with pytest.raises(errors.RequestError):  # not offered there
                await ControlClient(channel).get_profile("net", timeout_s=10)
        await server.stop(None)

    asyncio.run(main())


@pytest.mark.parametrize("figures", [(1, 2, 0), (2, 1, 2), (2, 1, -1), (2**63, 0, 0)])
def test_audits_that_cannot_be_are_refused(figures: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no audit"):
        ExitsAudited(*figures)
