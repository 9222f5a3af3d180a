"""Both ends of the Open Inference Protocol: ``GrpcTransport`` and the servicer for any ``Service``.

The far side answers every client of the protocol; what splitnn adds travels in parameters (``framing.py``).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from importlib import metadata
from typing import Any, Literal, Protocol, TypeVar

import grpc
import grpc.aio
import torch

from splitnn.errors import DeadlineExceeded, InvalidInput
from splitnn.instrument import Instrument
from splitnn.proto import open_inference_pb2 as pb
from splitnn.transport.base import DEFAULT_LIMITS, Announcement, Answer, Clock, Limits, Probe, Request, Service
from splitnn.transport.channel import open_channel
from splitnn.transport.contents import wire_datatype
from splitnn.transport.control import ControlClient
from splitnn.transport.exchange import StreamExchange, UnaryExchange, serve_stream
from splitnn.transport.framing import (
    QUICK_BYTES,
    Frame,
    Received,
    announcement,
    answer_frame,
    check_size,
    read_answer,
    read_request,
    receive_request,
    request_frame,
    timeout_s_of,
)
from splitnn.transport.guard import Context, abort, guarded
from splitnn.transport.held import HeldBytes

_T = TypeVar("_T")

OPEN_INFERENCE = "inference.GRPCInferenceService"
_CODEC_THREADS = 4


class Exchange(Protocol):
    """One message there, one back."""

    carries_deadline: bool  # else the message has to

    def naming(self, request_id: str) -> AbstractContextManager[str]: ...

    async def exchange(self, message: bytes, *, message_id: str, timeout_s: float) -> Received: ...

    async def close(self) -> None: ...


class GrpcTransport:
    """A ``Transport`` over one long-lived channel to ``host:port``. Make it inside the event loop that uses it.

    ``call="stream"`` keeps one bidirectional stream open for all requests, about 0.15 ms less each. Its price: a
    request that is given up still takes its turn on the link once it is being sent, where a unary call is taken back;
    and when the stream breaks, all requests on it fail with ``Unavailable`` (the next one opens another). So it is for
    fast links, and unary is for slow ones that may go black. ``control`` is the far side's control
    service on the same channel.
    """

    def __init__(
        self,
        target: str,
        *,
        call: Literal["unary", "stream"] = "unary",
        limits: Limits = DEFAULT_LIMITS,
        credentials: grpc.ChannelCredentials | None = None,
        instrument: Instrument | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._channel = open_channel(target, limits=limits, credentials=credentials)
        exchanges: dict[str, type[UnaryExchange | StreamExchange]] = {"unary": UnaryExchange, "stream": StreamExchange}
        if call not in exchanges:
            raise ValueError(f"call is 'unary' or 'stream', not {call!r}")
        self._exchange: Exchange = exchanges[call](self._channel, OPEN_INFERENCE)
        self._limits = limits
        self._instrument = instrument or Instrument()
        self._clock = clock
        self.control = ControlClient(self._channel, limits=limits, clock=clock)

    async def infer(self, request: Request) -> Answer:
        """See ``Transport.infer``. Also raises PayloadTooLarge before anything is sent."""
        if request.remaining_s(self._clock) <= 0:
            raise DeadlineExceeded("the deadline passed before the request was sent")
        started = self._clock()
        with self._exchange.naming(request.request_id) as message_id:
            message = await self._encode(request, message_id)
            sent = self._clock()
            self._instrument.request_sent(request_id=request.request_id, wire_bytes=len(message))
            received = await self._exchange.exchange(
                message, message_id=message_id, timeout_s=request.deadline_s - sent
            )
        arrived = self._clock()
        self._instrument.answer_received(
            request_id=request.request_id, wire_bytes=received.size_bytes, seconds=arrived - sent
        )
        if received.is_quick:
            answer = read_answer(received, limits=self._limits)
        else:
            answer = await asyncio.to_thread(read_answer, received, limits=self._limits)
        return Answer(  # dataclasses.replace takes twice as long
            tensors=answer.tensors,
            version=answer.version,
            timings=answer.timings.if_possible(arrived - sent),
            parameters=answer.parameters,
            received_bytes=answer.received_bytes,
            sent_bytes=len(message),
            encode_s=sent - started,
            decode_s=self._clock() - arrived,
            elapsed_s=arrived - sent,
        )

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        """See ``Transport.probe``; needs the control service on the far side."""
        return await self.control.probe(size_bytes, timeout_s=timeout_s)

    async def close(self) -> None:
        """See ``Transport.close``."""
        await self._exchange.close()
        await self._channel.close(None)

    async def _encode(self, request: Request, message_id: str) -> bytes:
        def encode() -> tuple[Frame, bytes]:
            timeout_s = None if self._exchange.carries_deadline else request.remaining_s(self._clock)
            frame = request_frame(request, message_id=message_id, timeout_s=timeout_s)
            check_size(frame, "request", limits=self._limits)
            return frame, b"".join(frame.parts)

        quick = _is_quick(request.tensors, request.codecs)
        frame, message = encode() if quick else await asyncio.to_thread(encode)
        for tensor in frame.tensors:
            self._instrument.tensor_encoded(
                request_id=request.request_id,
                tensor=tensor.name,
                codec=tensor.codec,
                raw_bytes=tensor.raw_bytes,
                wire_bytes=tensor.wire_bytes,
                seconds=tensor.seconds,
            )
        return message


def add_open_inference(
    server: grpc.aio.Server, service: Service, *, limits: Limits = DEFAULT_LIMITS, clock: Clock = time.monotonic
) -> None:
    """Register the far side: it translates, and ``service`` decides."""
    front = _Front(service, limits, clock)

    def unary(end: Any, kind: Any) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(
            guarded(end),
            request_deserializer=kind.FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )

    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ServerLive": unary(front.server_live, pb.ServerLiveRequest),
        "ServerReady": unary(front.server_ready, pb.ServerReadyRequest),
        "ModelReady": unary(front.model_ready, pb.ModelReadyRequest),
        "ServerMetadata": unary(front.server_metadata, pb.ServerMetadataRequest),
        "ModelMetadata": unary(front.model_metadata, pb.ModelMetadataRequest),
        "ModelInfer": grpc.unary_unary_rpc_method_handler(front.infer),  # bytes in, bytes out
        "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(front.stream_infer),
    }
    server.add_registered_method_handlers(OPEN_INFERENCE, handlers)  # type: ignore[attr-defined]


class _Front:
    def __init__(self, service: Service, limits: Limits, clock: Clock) -> None:
        self._service, self._limits, self._clock = service, limits, clock
        self._held = HeldBytes(limits.held_bytes)
        # Few: what a thread decodes after its request was given up is no longer counted as held.
        self._threads = ThreadPoolExecutor(_CODEC_THREADS, thread_name_prefix="codec")
        self._unnamed = 0

    async def server_live(self, request: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._service.is_ready())

    async def model_ready(self, request: Any) -> Any:
        if not request.name:
            raise InvalidInput("a model's readiness is asked by its name; the name is empty")
        return pb.ModelReadyResponse(ready=self._service.is_ready(request.name, request.version))

    async def server_metadata(self, request: Any) -> Any:
        return pb.ServerMetadataResponse(
            name="splitnn", version=_version(), extensions=["splitnn_cut", "splitnn_codec"]
        )

    async def model_metadata(self, request: Any) -> Any:
        found = await self._service.describe(request.name, request.version)
        answer = pb.ModelMetadataResponse(name=found.name, versions=found.versions, platform="splitnn_pytorch")
        for names, entries in ((found.graph.inputs, answer.inputs), (found.graph.outputs, answer.outputs)):
            for name in dict.fromkeys(names):
                spec = found.graph.tensors[name]
                growth = spec.batch_growth or (0,) * len(spec.shape)
                shape = [-1 if grows else size for size, grows in zip(spec.shape, growth, strict=True)]
                entries.add(name=name, datatype=wire_datatype(spec.dtype), shape=shape)
        return answer

    async def infer(self, message: bytes, context: Context[Any, Any]) -> bytes:
        try:
            remaining_s: float | None = context.time_remaining()
            frame = await self._answer(receive_request(message), remaining_s)
            return b"".join(frame.parts)
        except Exception as error:
            await abort(context, error)
            raise

    async def stream_infer(self, messages: AsyncIterator[bytes], context: Context[Any, Any]) -> None:
        await serve_stream(messages, context, self._answer)

    async def _answer(self, received: Received, remaining_s: float | None = None) -> Frame:
        arrived_s = self._clock()
        stated_s = timeout_s_of(received)
        if remaining_s is not None and remaining_s <= stated_s:
            return await self._answer_by(arrived_s + remaining_s, received, arrived_s)  # gRPC cancels it by itself
        timeout_s = self._limits.longest_s if math.isinf(stated_s) else stated_s
        async with asyncio.timeout(timeout_s):
            return await self._answer_by(arrived_s + timeout_s, received, arrived_s)

    async def _answer_by(self, deadline_s: float, received: Received, arrived_s: float) -> Frame:
        announced = announcement(received, limits=self._limits)
        self._service.expect(announced)
        with self._held.holding(received.size_bytes + received.decoded_bytes):
            return await self._answer_expected(deadline_s, received, announced, arrived_s)

    async def _answer_expected(
        self, deadline_s: float, received: Received, announced: Announcement, arrived_s: float
    ) -> Frame:
        message_id = received.head.id
        if not message_id:
            self._unnamed += 1
        request_id = message_id or f"unnamed-{self._unnamed}"

        def decode() -> Request:
            return read_request(received, announced, deadline_s=deadline_s, request_id=request_id)

        request = decode() if received.is_quick else await self._in_thread(decode)
        decode_s = self._clock() - arrived_s
        answer = await self._service.infer(request)

        def encode() -> Frame:
            return answer_frame(
                answer, request, message_id=message_id, arrived_s=arrived_s, decode_s=decode_s, clock=self._clock
            )

        frame = encode() if _is_quick(answer.tensors, request.codecs) else await self._in_thread(encode)
        check_size(frame, "answer", limits=self._limits)
        return frame

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def _version() -> str:
    try:
        return metadata.version("splitnn")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"


def _is_quick(tensors: Mapping[str, torch.Tensor | int], codecs: Mapping[str, str]) -> bool:
    """Whether encoding takes so little time that the event loop may do it itself."""
    if all(codecs.get(name, "raw") == "raw" for name in tensors):
        return True
    return sum(tensor.nbytes for tensor in tensors.values() if not isinstance(tensor, int)) <= QUICK_BYTES
