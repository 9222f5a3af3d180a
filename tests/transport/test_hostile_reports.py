"""What a far side says of its models and speed, with every number of it replaced by one that no host has."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
import zstandard

from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.errors import CodecError
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.proto import control_pb2 as pb
from splitnn.transport.base import DEFAULT_LIMITS
from splitnn.transport.channel import open_channel
from splitnn.transport.control import CONTROL, ControlClient
from splitnn.transport.server import listen
from splitnn.transport.zstd import compressed

GRAPH = Graph(
    layers=(Layer("relu", "aten.relu.default", ("x",), ("y",), weights=("w",), flops=7),),
    tensors={"x": TensorSpec((2, 3), "float32", (1, 0), (1, 0)), "y": TensorSpec((2, 3), "float32")},
    inputs=("x",),
    outputs=("y",),
    weight_bytes={"w": 4},
    batch=2,
)
PROFILE = Profile(
    "d1",
    "cloud",
    {"relu": Timing(1.0, 0.5, 0.1)},
    Timing(1.0, 0.5, 0.1),
    codecs={"x": {"raw": CodecCost(24, 1e-6, 1e-6)}},
    error=0.01,
    tail_error=0.02,
    drift=0.01,
)
NUMBERS_OF_NOBODY = ["NaN", "Infinity", "-Infinity", "1e999", "-7", "1" + "0" * 400, "null", '"7"', "[]", "{}"]


def numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every number of a JSON value."""
    if isinstance(value, int | float):
        yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from numbers(child, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], text: str) -> str:
    """The JSON text of the value with other text in that place."""
    copy = json.loads(json.dumps(value))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "@here@"
    return json.dumps(copy).replace('"@here@"', text)


class Liar:
    """A control service that answers with what stands in ``profile`` and ``graph``."""

    def __init__(self) -> None:
        self.profile, self.graph = json.dumps(PROFILE.to_json()), json.dumps(GRAPH.to_json())
        self.load: dict[str, Any] = {"slowdown": 1.0}
        self.received_at_s = 1.0
        self.frame: bytes | None = None  # in place of the profile's

    async def get_profile(self, request: bytes, context: Any) -> bytes:
        sent = compressed(self.profile.encode()) if self.frame is None else self.frame
        return pb.GetProfileResponse(profile_zstd=sent, **self.load).SerializeToString()

    async def get_model(self, request: bytes, context: Any) -> bytes:
        return pb.GetModelResponse(name="net", digest="d1", graph_json=self.graph).SerializeToString()

    async def probe(self, request: bytes, context: Any) -> bytes:
        return pb.ProbeResponse(received_at_s=self.received_at_s).SerializeToString()


def with_liar(test: Any) -> None:
    async def main() -> None:
        liar = Liar()
        server = grpc.aio.server()
        ends = {"GetProfile": liar.get_profile, "GetModel": liar.get_model, "Probe": liar.probe}
        handlers: Any = {name: grpc.unary_unary_rpc_method_handler(end) for name, end in ends.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(CONTROL, handlers),))
        target = f"127.0.0.1:{listen(server, '127.0.0.1:0')}"
        await server.start()
        try:
            async with open_channel(target) as channel:
                await test(liar, ControlClient(channel))
        finally:
            await server.stop(None)

    asyncio.run(main())


def usable(profile: Profile) -> bool:
    timings = [profile.whole, *profile.layers.values()]
    costs = [cost for codecs in profile.codecs.values() for cost in codecs.values()]
    amounts = [number for t in timings for number in (t.wall_s, t.cpu_s, t.spread_s)]
    amounts += [number for c in costs for number in (c.size_bytes, c.encode_s, c.decode_s)]
    amounts += [profile.error or 0.0, profile.tail_error or 0.0, profile.drift]
    return 0 < float(profile.threads) < 2**63 and all(math.isfinite(number) and number >= 0 for number in amounts)


def test_a_profile_with_a_number_of_nobody_is_refused_as_one_that_cannot_be_read() -> None:
    async def test(liar: Liar, control: ControlClient) -> None:
        whole = PROFILE.to_json()
        refused = 0
        for path in numbers(whole):
            for text in NUMBERS_OF_NOBODY:
                liar.profile = replaced(whole, path, text)
                try:
                    report = await control.get_profile("net", timeout_s=10)
                except CodecError:
                    refused += 1
                    continue
                assert report.profile is not None
                assert usable(report.profile), (path, text)
        assert refused >= 7 * len(list(numbers(whole)))  # text that float() reads, and no error, are accepted

    with_liar(test)


def test_a_frame_that_is_broken_or_states_too_much_is_refused_before_anything_is_allocated() -> None:
    whole = compressed(json.dumps(PROFILE.to_json()).encode())
    bomb = compressed(bytes(DEFAULT_LIMITS.message_bytes + 1))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"{}")
    frames = [whole[:-1], whole + b"x", b"{}", bomb, unsized, compressed(b"\xff\xfe\xfd"), compressed(b"[" * 100_000)]

    async def test(liar: Liar, control: ControlClient) -> None:
        liar.frame = whole
        assert (await control.get_profile("net", timeout_s=10)).profile == PROFILE
        for liar.frame in frames:
            with pytest.raises(CodecError):
                await control.get_profile("net", timeout_s=10)

    with_liar(test)


def test_a_graph_with_a_number_of_nobody_is_refused_as_one_that_cannot_be_read() -> None:
    async def test(liar: Liar, control: ControlClient) -> None:
        whole = GRAPH.to_json()
        for path in numbers(whole):
            for text in NUMBERS_OF_NOBODY:
                liar.graph = replaced(whole, path, text)
                if path[-2:] == (2, 0) and text == "-1":
                    continue  # a size that depends on the data
                with pytest.raises(CodecError):
                    await control.get_model("net", timeout_s=10)

    with_liar(test)


@pytest.mark.parametrize(
    "load",
    [
        {"slowdown": math.nan},
        {"slowdown": math.inf},
        {"slowdown": 0.0},
        {"slowdown": -1.0},
        {"slowdown": 1.0, "utilisation": math.nan},
        {"slowdown": 1.0, "utilisation": 1.5},
    ],
)
def test_a_load_of_nobody_is_refused(load: dict[str, float]) -> None:
    async def test(liar: Liar, control: ControlClient) -> None:
        liar.load = load
        with pytest.raises(CodecError, match="load"):
            await control.get_profile("net", timeout_s=10)

    with_liar(test)


def test_a_probe_that_arrived_at_no_time_is_refused() -> None:
    async def test(liar: Liar, control: ControlClient) -> None:
        liar.received_at_s = math.nan
        with pytest.raises(CodecError, match="no time"):
            await control.probe(0, timeout_s=10)

    with_liar(test)


def test_what_is_refused_is_quoted_in_few_words() -> None:
    async def test(liar: Liar, control: ControlClient) -> None:
        liar.profile = json.dumps({"format": "x" * 100_000})
        with pytest.raises(CodecError) as caught:
            await control.get_profile("net", timeout_s=10)
        assert len(str(caught.value)) < 1000

    with_liar(test)
