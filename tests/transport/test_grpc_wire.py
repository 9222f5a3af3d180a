"""The standard protocol over a real socket: our ends with each other, and each with stock protobuf opposite."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import grpc
import grpc.aio
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from splitnn import errors
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.instrument import Instrument
from splitnn.proto import open_inference_pb2 as pb
from splitnn.transport.base import DEFAULT_LIMITS, Announcement, Answer, Description, Limits, Request, Timings
from splitnn.transport.channel import open_channel
from splitnn.transport.open_inference import OPEN_INFERENCE, GrpcTransport
from splitnn.transport.server import build_server, listen

Call = Literal["unary", "stream"]
CALLS: tuple[Call, ...] = ("unary", "stream")
GRAPH = Graph(
    layers=(Layer("relu", "aten.relu.default", ("x",), ("y",)),),
    tensors={"x": TensorSpec((2, 3), "float32", (1, 0)), "y": TensorSpec((2, 3), "float32", (1, 0))},
    inputs=("x",),
    outputs=("y",),
    batch=2,
)


@dataclass
class Doubler:
    """Doubles every tensor; named models misbehave."""

    seen: list[Request] = field(default_factory=list)
    announced: list[Announcement] = field(default_factory=list)
    refuse_with: errors.SplitnnError | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def expect(self, announced: Announcement) -> None:
        self.announced.append(announced)
        if self.refuse_with is not None:
            raise self.refuse_with

    async def infer(self, request: Request) -> Answer:
        self.seen.append(request)
        match request.model:
            case "missing":
                raise errors.UnknownModel("no model is called 'missing'; there is 'net'")
            case "busy":
                raise errors.Overloaded("64 requests wait", 0.5)
            case "broken":
                raise KeyError("inside")
            case "hungry":
                raise MemoryError
            case "stuck":
                self.started.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "large":
                return Answer({"y": torch.zeros(2**20)})
        doubled = {name: value * 2 for name, value in request.tensors.items()}
        return Answer(
            doubled, version="1", timings=Timings(queue_s=2.5e-7, compute_s=5e-7), parameters={"degraded": "no"}
        )

    async def describe(self, model: str, version: str = "") -> Description:
        if model != "net":
            raise errors.UnknownModel(f"no model is called {model!r}")
        return Description("net", "d1", GRAPH, ("1", "2"))

    def is_ready(self, model: str = "", version: str = "") -> bool:
        return model in ("", "net")


@asynccontextmanager
async def serving(service: Doubler, limits: Limits = DEFAULT_LIMITS) -> AsyncIterator[str]:
    server, _ = build_server(service, limits=limits)
    target = f"127.0.0.1:{listen(server, '127.0.0.1:0')}"
    await server.start()
    try:
        yield target
    finally:
        await server.stop(None)


def run(
    test: Callable[[Doubler, GrpcTransport], Awaitable[None]],
    *,
    call: Call,
    server_limits: Limits = DEFAULT_LIMITS,
    limits: Limits = DEFAULT_LIMITS,
    instrument: Instrument | None = None,
) -> None:
    async def main() -> None:
        service = Doubler()
        async with serving(service, server_limits) as target:
            transport = GrpcTransport(target, call=call, limits=limits, instrument=instrument)
            try:
                await test(service, transport)
            finally:
                await transport.close()

    asyncio.run(main())


def request(model: str = "net", *, within_s: float = 20.0, request_id: str = "r1", **tensors: torch.Tensor) -> Request:
    return Request(model, tensors or {"x": torch.ones(3)}, time.monotonic() + within_s, request_id=request_id)


@pytest.mark.parametrize("call", CALLS)
def test_everything_of_a_request_reaches_the_service_and_everything_of_its_answer_comes_back(call: Call) -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        heads = torch.randn(1, 128, 12, 64).transpose(1, 2)
        sent = Request(
            "net",
            {"q": heads, "n": 21, "e": torch.empty(0, 3)},
            time.monotonic() + 20,
            version="1",
            digest="d1",
            request_id="r7",
            codecs={"q": "zstd"},
            wanted=("q", "n", "e"),
            parameters={"priority": 1},
        )
        answer = await transport.infer(sent)
        [seen] = service.seen
        assert (seen.model, seen.version, seen.digest, seen.request_id) == ("net", "1", "d1", "r7")
        assert (seen.wanted, seen.codecs, seen.parameters) == (sent.wanted, sent.codecs, sent.parameters)
        assert abs(seen.deadline_s - sent.deadline_s) < 5
        assert torch.as_tensor(seen.tensors["q"]).stride() == heads.stride()
        assert torch.equal(torch.as_tensor(answer.tensors["q"]), heads * 2)
        assert torch.as_tensor(answer.tensors["q"]).stride() == heads.stride()
        assert answer.tensors["n"] == 42
        assert (answer.version, answer.parameters) == ("1", {"degraded": "no"})
        assert (answer.timings.queue_s, answer.timings.compute_s) == (2.5e-7, 5e-7)
        assert 0 < answer.timings.total_s < answer.elapsed_s
        assert answer.sent_bytes > 0
        assert answer.received_bytes > 0

    run(test, call=call)


@pytest.mark.parametrize("call", CALLS)
def test_many_requests_at_once_each_get_their_own_answer(call: Call) -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        asked = [transport.infer(request(x=torch.full((5,), float(i)), request_id="same")) for i in range(100)]
        answers = await asyncio.gather(*asked)
        for i, answer in enumerate(answers):
            assert torch.equal(torch.as_tensor(answer.tensors["x"]), torch.full((5,), 2.0 * i))

    run(test, call=call)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        ("missing", errors.UnknownModel, "'missing'"),
        ("busy", errors.Overloaded, "64 requests"),
        ("hungry", errors.Overloaded, "memory"),
        ("broken", errors.TransportError, "internal error"),
    ],
)
def test_errors_arrive_as_themselves_and_the_next_request_works(
    call: Call, model: str, kind: type[errors.SplitnnError], says: str
) -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        with pytest.raises(kind, match=says) as caught:
            await transport.infer(request(model))
        assert type(caught.value) is kind
        if model == "busy":
            assert getattr(caught.value, "retry_after_s", None) == 0.5
        await transport.infer(request())

    run(test, call=call)


@pytest.mark.parametrize("call", CALLS)
def test_a_deadline_ends_the_call_and_the_service_sees_it(call: Call) -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        await transport.infer(request())
        with pytest.raises(errors.DeadlineExceeded):
            await transport.infer(request("stuck", within_s=0.3))
        await asyncio.wait_for(service.cancelled.wait(), 10)
        with pytest.raises(errors.DeadlineExceeded):
            await transport.infer(request(within_s=-1))
        await transport.infer(request())

    run(test, call=call)


def test_a_caller_that_goes_away_cancels_its_request_at_the_service() -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        task = asyncio.create_task(transport.infer(request("stuck")))
        await asyncio.wait_for(service.started.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(service.cancelled.wait(), 10)

    run(test, call="unary")


@pytest.mark.parametrize("call", CALLS)
def test_closing_fails_what_is_under_way_with_unavailable(call: Call) -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        task = asyncio.create_task(transport.infer(request("stuck")))
        await asyncio.wait_for(service.started.wait(), 10)
        await transport.close()
        with pytest.raises(errors.Unavailable):
            await task
        with pytest.raises(errors.Unavailable):
            await transport.infer(request())

    run(test, call=call)


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_not_there_is_unavailable_and_found_when_it_comes(call: Call) -> None:
    async def main() -> None:
        service = Doubler()
        async with serving(service) as target:
            pass
        transport = GrpcTransport(target, call=call)
        with pytest.raises(errors.Unavailable):
            await transport.infer(request())
        server, _ = build_server(service)
        listen(server, target)
        await server.start()
        for _ in range(100):  # the channel may be waiting to connect again
            try:
                await transport.infer(request())
                break
            except errors.Unavailable:
                await asyncio.sleep(0.05)
        assert service.seen
        await transport.close()
        await server.stop(None)

    asyncio.run(main())


@pytest.mark.parametrize("call", CALLS)
def test_a_message_above_the_servers_limit_is_refused_and_the_server_lives(call: Call) -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        with pytest.raises(errors.PayloadTooLarge, match="larger than max"):
            await transport.infer(request(x=torch.zeros(2**18)))
        await transport.infer(request())
        assert len(service.seen) == 1

    run(test, call=call, server_limits=Limits(message_bytes=2**18))


@pytest.mark.parametrize("call", CALLS)
def test_a_message_above_our_own_limit_is_never_sent(call: Call) -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        with pytest.raises(errors.PayloadTooLarge, match="at most 1000 are sent"):
            await transport.infer(request(x=torch.zeros(1000)))
        assert not service.seen
        await transport.infer(request())

    run(test, call=call, limits=Limits(message_bytes=1000))


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_above_the_servers_limit_is_a_clear_error(call: Call) -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        with pytest.raises(errors.PayloadTooLarge, match="the answer takes"):
            await transport.infer(request("large"))
        await transport.infer(request())

    run(test, call=call, server_limits=Limits(message_bytes=2**20))


def test_a_tensor_that_cannot_be_encoded_is_named_and_nothing_is_sent() -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        bad = Request("net", {"x": torch.tensor([float("nan")])}, time.monotonic() + 20, codecs={"x": "int8"})
        with pytest.raises(errors.CodecError, match=r"'x'.*finite"):
            await transport.infer(bad)
        assert not service.seen

    run(test, call="unary")


def test_answers_travel_in_the_codec_that_was_asked_for() -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        x = torch.randn(1, 8, 64, 64)
        deadline_s = time.monotonic() + 20
        asked = Request("net", {"x": x}, deadline_s, wanted=("x",), codecs={"x": "int8"})
        answer = await transport.infer(asked)
        assert answer.received_bytes < x.nbytes / 3.5
        assert (torch.as_tensor(answer.tensors["x"]) - 2 * x).abs().max() < 0.2

    run(test, call="unary")


def test_the_instrument_sees_each_tensor_and_each_message() -> None:
    moments: list[tuple[str, int]] = []

    class Notes(Instrument):
        def tensor_encoded(self, **moment: Any) -> None:
            moments.append((moment["codec"], moment["wire_bytes"]))

        def request_sent(self, **moment: Any) -> None:
            moments.append(("sent", moment["wire_bytes"]))

        def answer_received(self, **moment: Any) -> None:
            moments.append(("received", moment["wire_bytes"]))

    answers: list[Answer] = []

    async def test(service: Doubler, transport: GrpcTransport) -> None:
        asked = Request("net", {"x": torch.ones(100)}, time.monotonic() + 20, codecs={"x": "fp16"})
        answers.append(await transport.infer(asked))

    run(test, call="unary", instrument=Notes())
    [answer] = answers
    assert moments == [("fp16", 200), ("sent", answer.sent_bytes), ("received", answer.received_bytes)]


def stock(channel: grpc.aio.Channel, method: str) -> Any:
    """A client that knows the .proto file and nothing of us."""
    sent = {"ModelStreamInfer": "ModelInfer"}.get(method, method)
    back = {"ModelStreamInfer": "ModelStreamInfer"}.get(method, method)
    make: Any = channel.stream_stream if method == "ModelStreamInfer" else channel.unary_unary
    return make(
        f"/{OPEN_INFERENCE}/{method}",
        request_serializer=getattr(pb, f"{sent}Request").SerializeToString,
        response_deserializer=getattr(pb, f"{back}Response").FromString,
    )


def with_stock_client(test: Callable[[Doubler, grpc.aio.Channel], Awaitable[None]]) -> None:
    async def main() -> None:
        service = Doubler()
        async with serving(service) as target, open_channel(target) as channel:
            await test(service, channel)

    asyncio.run(main())


def plain_request(model: str = "net") -> pb.ModelInferRequest:
    entry = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[2])
    message = pb.ModelInferRequest(model_name=model, id="p1", inputs=[entry])
    message.raw_input_contents.append(torch.tensor([1.0, 2.0]).numpy().tobytes())
    return message


def test_a_stock_client_that_knows_nothing_of_us_is_served() -> None:
    async def test(service: Doubler, channel: grpc.aio.Channel) -> None:
        assert (await stock(channel, "ServerLive")(pb.ServerLiveRequest())).live
        assert (await stock(channel, "ServerReady")(pb.ServerReadyRequest())).ready
        assert (await stock(channel, "ModelReady")(pb.ModelReadyRequest(name="net"))).ready
        assert not (await stock(channel, "ModelReady")(pb.ModelReadyRequest(name="other"))).ready
        assert (await stock(channel, "ServerMetadata")(pb.ServerMetadataRequest())).name == "splitnn"
        about = await stock(channel, "ModelMetadata")(pb.ModelMetadataRequest(name="net"))
        assert list(about.versions) == ["1", "2"]
        assert [(t.name, t.datatype, list(t.shape)) for t in about.inputs] == [("x", "FP32", [-1, 3])]
        answer = await stock(channel, "ModelInfer")(plain_request())
        assert answer.id == "p1"
        assert answer.raw_output_contents[0] == torch.tensor([2.0, 4.0]).numpy().tobytes()
        assert service.seen[0].remaining_s() <= DEFAULT_LIMITS.longest_s  # it brought no deadline and got one
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stock(channel, "ModelInfer")(plain_request("missing"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stock(channel, "ModelMetadata")(pb.ModelMetadataRequest(name="other"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    with_stock_client(test)


def test_a_stock_client_can_stream() -> None:
    async def test(service: Doubler, channel: grpc.aio.Channel) -> None:
        stream = stock(channel, "ModelStreamInfer")()
        await stream.write(plain_request())
        good = await stream.read()
        assert (good.error_message, good.infer_response.id) == ("", "p1")
        await stream.write(plain_request("missing"))
        bad = await stream.read()
        assert "missing" in bad.error_message
        assert bad.infer_response.id == "p1"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF  # type: ignore[attr-defined]
        assert await stream.code() is grpc.StatusCode.OK

    with_stock_client(test)


def test_bytes_that_are_no_message_are_an_invalid_argument() -> None:
    async def test(service: Doubler, channel: grpc.aio.Channel) -> None:
        call: Any = channel.unary_unary(f"/{OPEN_INFERENCE}/ModelInfer", None, None)
        for nonsense in (b"\xff" * 50, b"\x3a\x7f", b"\x0b"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(nonsense)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        await stock(channel, "ModelInfer")(plain_request())

    with_stock_client(test)


def test_a_stream_that_breaks_cancels_its_requests_at_the_service() -> None:
    async def test(service: Doubler, channel: grpc.aio.Channel) -> None:
        stream = stock(channel, "ModelStreamInfer")()
        await stream.write(plain_request("stuck"))
        await asyncio.wait_for(service.started.wait(), 10)
        stream.cancel()
        await asyncio.wait_for(service.cancelled.wait(), 10)

    with_stock_client(test)


def test_our_client_understands_a_stock_server() -> None:
    async def infer(message: pb.ModelInferRequest, context: Any) -> pb.ModelInferResponse:
        if message.model_name != "net":
            await context.abort(grpc.StatusCode.NOT_FOUND, "who?")
        values = torch.frombuffer(bytearray(message.raw_input_contents[0]), dtype=torch.float32) + 1
        answer = pb.ModelInferResponse(model_name="net", model_version="9", id=message.id)
        typed = answer.outputs.add(name="y", datatype="FP32", shape=[values.numel()])
        typed.contents.fp32_contents.extend(values.tolist())
        return answer

    async def main() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(OPEN_INFERENCE, {"ModelInfer": handler}),)
        )
        target = f"127.0.0.1:{listen(server, '127.0.0.1:0')}"
        await server.start()
        transport = GrpcTransport(target)
        answer = await transport.infer(request(x=torch.tensor([1.0, 2.0])))
        assert torch.equal(torch.as_tensor(answer.tensors["y"]), torch.tensor([2.0, 3.0]))
        assert answer.version == "9"
        with pytest.raises(errors.UnknownModel, match=r"who\?"):
            await transport.infer(request("other"))
        await transport.close()
        await server.stop(None)

    asyncio.run(main())


def test_an_answer_that_comes_too_late_is_never_taken_for_another_requests_answer() -> None:
    async def answer_both_after_the_second(messages: AsyncIterator[pb.ModelInferRequest], context: Any) -> None:
        held = [await anext(messages), await anext(messages)]
        for message in held:
            answer = pb.ModelInferResponse(id=message.id)
            answer.outputs.add(name="x", datatype="FP32", shape=[1])
            answer.raw_output_contents.append(message.raw_input_contents[0])
            await context.write(pb.ModelStreamInferResponse(infer_response=answer))

    async def main() -> None:
        server = grpc.aio.server()
        handler = grpc.stream_stream_rpc_method_handler(
            answer_both_after_the_second,
            pb.ModelInferRequest.FromString,
            pb.ModelStreamInferResponse.SerializeToString,
        )
        handlers = {"ModelStreamInfer": handler}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(OPEN_INFERENCE, handlers),))
        target = f"127.0.0.1:{listen(server, '127.0.0.1:0')}"
        await server.start()
        transport = GrpcTransport(target, call="stream")
        with pytest.raises(errors.DeadlineExceeded):
            await transport.infer(request(within_s=0.5, x=torch.tensor([1.0])))
        answer = await transport.infer(request(x=torch.tensor([2.0])))
        assert torch.equal(torch.as_tensor(answer.tensors["x"]), torch.tensor([2.0]))
        await transport.close()
        await server.stop(None)

    asyncio.run(main())


def test_a_message_too_large_for_the_server_fails_others_on_its_stream_as_unavailable_only() -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        bystander = asyncio.create_task(transport.infer(request("stuck", request_id="small")))
        await asyncio.wait_for(service.started.wait(), 10)
        with pytest.raises(errors.PayloadTooLarge):
            await transport.infer(request(x=torch.zeros(2**18), request_id="large"))
        with pytest.raises(errors.Unavailable):
            await bystander
        await transport.infer(request())

    run(test, call="stream", server_limits=Limits(message_bytes=2**18))


@pytest.mark.parametrize("call", CALLS)
def test_a_request_without_a_deadline_is_answered_and_a_dead_address_is_unavailable(call: Call) -> None:
    async def main() -> None:
        asked = Request("net", {"x": torch.ones(3)}, math.inf)
        async with serving(Doubler()) as target:
            transport = GrpcTransport(target, call=call)
            assert torch.equal(torch.as_tensor((await transport.infer(asked)).tensors["x"]), torch.full((3,), 2.0))
            await transport.close()
        transport = GrpcTransport(target, call=call)
        with pytest.raises(errors.Unavailable):
            await transport.infer(asked)
        await transport.close()

    asyncio.run(main())


def test_a_deadline_that_a_request_brings_is_never_shortened() -> None:
    async def test(service: Doubler, channel: grpc.aio.Channel) -> None:
        message = plain_request()
        message.parameters["timeout"].int64_param = 80_000_000
        began_s = time.monotonic()
        await stock(channel, "ModelInfer")(message, timeout=100)
        assert began_s + 80 <= service.seen[0].deadline_s < began_s + 100

    with_stock_client(test)


@pytest.mark.parametrize("call", CALLS)
def test_a_name_in_any_script_is_refused_as_itself(call: Call) -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        name = "層" * 5000
        asked = Request("net", {name: torch.tensor([float("nan")])}, time.monotonic() + 20, request_id="r")
        service.refuse_with = errors.InvalidInput(f"no tensor is called {name!r}")
        with pytest.raises(errors.InvalidInput, match="no tensor is called '層"):
            await transport.infer(asked)

    run(test, call=call)


def test_health_and_reflection_answer() -> None:
    async def test(service: Doubler, channel: grpc.aio.Channel) -> None:
        checks: Any = health_pb2_grpc.HealthStub(channel)
        status = await checks.Check(health_pb2.HealthCheckRequest())
        assert status.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=OPEN_INFERENCE),
        ]
        listed, file = [answer async for answer in reflection.ServerReflectionInfo(iter(asked))]
        assert OPEN_INFERENCE in [service.name for service in listed.list_services_response.service]
        assert b"raw_input_contents" in file.file_descriptor_response.file_descriptor_proto[0]

    with_stock_client(test)


def test_a_port_in_use_is_a_clear_error() -> None:
    async def main() -> None:
        async with serving(Doubler()) as target:
            second, _ = build_server(Doubler())
            with pytest.raises(errors.Unavailable, match=target):
                listen(second, target)
            await second.stop(None)

    asyncio.run(main())


def test_a_stream_serves_at_most_64_requests_at_once_and_answers_all_of_them() -> None:
    async def test(service: Doubler, transport: GrpcTransport) -> None:
        stuck = [asyncio.create_task(transport.infer(request("stuck", request_id=f"s{i}"))) for i in range(63)]
        answers = [transport.infer(request(request_id=f"r{i}", x=torch.full((2,), float(i)))) for i in range(20)]
        for i, answer in enumerate(await asyncio.gather(*answers)):
            assert torch.equal(torch.as_tensor(answer.tensors["x"]), torch.full((2,), 2.0 * i))
        waits = [asyncio.create_task(transport.infer(request("stuck", request_id=f"w{i}"))) for i in range(3)]
        late = asyncio.create_task(transport.infer(request(request_id="late", within_s=0.3)))  # sent after them
        with pytest.raises(errors.DeadlineExceeded):
            await late
        assert "late" not in {seen.request_id for seen in service.seen}
        for task in (*stuck, *waits):
            task.cancel()
        await asyncio.gather(*stuck, *waits, return_exceptions=True)

    run(test, call="stream")
