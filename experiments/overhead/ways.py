"""Both ends of every way to hand a float32 tensor to another process that ``experiments.overhead`` compares.

``python -m experiments.overhead.ways WAY`` runs the far end of one, and prints its port. Whatever the way, a sample
begins with a tensor and ends with the answer's tensor of 1 KB, and the far end has the tensor before it answers. The
rivals are written as one writes them first: generated messages and their serialisers, nothing tuned but what ours has
too (message sizes, event loop, allocator).
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import grpc
import grpc.aio
import torch
from google.protobuf.wrappers_pb2 import BytesValue

from experiments.overhead.program_setup import set_up_program
from splitnn.proto import open_inference_pb2 as pb
from splitnn.transport.base import Announcement, Answer, Description, Limits, Request
from splitnn.transport.channel import channel_options, server_options
from splitnn.transport.layout import bytes_of, tensor_over
from splitnn.transport.open_inference import GrpcTransport
from splitnn.transport.server import build_server, listen

ANSWER = torch.zeros(256)  # 1 KB
LENGTH = struct.Struct("<Q")
LIMITS = Limits(message_bytes=32 * 2**20)
Sender = Callable[[torch.Tensor], Awaitable[None]]


def tensor_in(data: bytes) -> torch.Tensor:
    """The float32 tensor whose elements these are."""
    return tensor_over(data, (len(data) // 4,), torch.float32)


class Echo:
    """The least that a service can do."""

    def expect(self, announced: Announcement) -> None:
        pass

    async def infer(self, request: Request) -> Answer:
        assert isinstance(request.tensors["x"], torch.Tensor)
        return Answer({"y": ANSWER})

    async def describe(self, model: str, version: str = "") -> Description:
        raise NotImplementedError

    def is_ready(self, model: str = "", version: str = "") -> bool:
        return True


async def serve_ours() -> None:
    server, _ = build_server(Echo(), limits=LIMITS)
    print(listen(server, "127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def open_ours(port: int, call: Literal["unary", "stream"]) -> Sender:
    transport = GrpcTransport(f"127.0.0.1:{port}", limits=LIMITS, call=call)

    async def send(tensor: torch.Tensor) -> None:
        answer = await transport.infer(Request("echo", {"x": tensor}, time.monotonic() + 10, request_id="overhead"))
        assert isinstance(answer.tensors["y"], torch.Tensor)

    return send


async def serve_socket() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    answer = bytes_of(ANSWER)
    while header := connection.recv(LENGTH.size, socket.MSG_WAITALL):
        receive_tensor(connection, LENGTH.unpack(header)[0])
        connection.sendall(answer)


def receive_tensor(connection: socket.socket, size_bytes: int) -> torch.Tensor:
    tensor = torch.empty(size_bytes, dtype=torch.uint8)
    view, at = bytes_of(tensor), 0
    while at < size_bytes:
        if not (count := connection.recv_into(view[at:])):
            raise ConnectionError("the other side closed the connection")
        at += count
    return tensor.view(torch.float32)


def open_socket(port: int) -> Sender:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send(tensor: torch.Tensor) -> None:
        view = bytes_of(tensor)
        connection.sendmsg([LENGTH.pack(len(view))])
        connection.sendall(view)
        receive_tensor(connection, ANSWER.nbytes)

    return send


def bytes_answer(request: BytesValue) -> BytesValue:
    tensor_in(request.value)
    return BytesValue(value=ANSWER.numpy().tobytes())


async def serve_field() -> None:
    async def infer(request: BytesValue, context: object) -> BytesValue:
        return bytes_answer(request)

    await serve_rival(infer, BytesValue, BytesValue)


def open_field(port: int) -> Sender:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options(LIMITS))
    call = channel.unary_unary("/Rival/Infer", BytesValue.SerializeToString, BytesValue.FromString)

    async def send(tensor: torch.Tensor) -> None:
        answer = await call(BytesValue(value=tensor.numpy().tobytes()), timeout=10)
        tensor_in(answer.value)

    return send


async def serve_field_sync() -> None:
    def infer(request: BytesValue, context: object) -> BytesValue:
        return bytes_answer(request)

    server = grpc.server(ThreadPoolExecutor(4), options=server_options(LIMITS))
    handler = grpc.unary_unary_rpc_method_handler(infer, BytesValue.FromString, BytesValue.SerializeToString)
    server.add_registered_method_handlers("Rival", {"Infer": handler})  # type: ignore[attr-defined]
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def open_field_sync(port: int) -> Sender:
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=channel_options(LIMITS))
    call = channel.unary_unary("/Rival/Infer", BytesValue.SerializeToString, BytesValue.FromString)

    async def send(tensor: torch.Tensor) -> None:
        tensor_in(call(BytesValue(value=tensor.numpy().tobytes()), timeout=10).value)

    return send


async def serve_message() -> None:
    async def infer(request: Any, context: object) -> Any:
        (described,), (data,) = request.inputs, request.raw_input_contents
        assert described.name == "x"
        assert described.datatype == "FP32"
        tensor_over(data, tuple(described.shape), torch.float32)
        answer = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        answer.outputs.add(name="y", datatype="FP32", shape=ANSWER.shape)
        answer.raw_output_contents.append(ANSWER.numpy().tobytes())
        return answer

    await serve_rival(infer, pb.ModelInferRequest, pb.ModelInferResponse)


def open_message(port: int) -> Sender:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options(LIMITS))
    request_type: Any = pb.ModelInferRequest
    call = channel.unary_unary("/Rival/Infer", request_type.SerializeToString, pb.ModelInferResponse.FromString)

    async def send(tensor: torch.Tensor) -> None:
        request = request_type(model_name="echo", id="overhead")
        request.inputs.add(name="x", datatype="FP32", shape=tensor.shape)
        request.raw_input_contents.append(tensor.numpy().tobytes())
        answer = await call(request, timeout=10)
        (described,), (data,) = answer.outputs, answer.raw_output_contents
        assert described.name == "y"
        assert described.datatype == "FP32"
        tensor_over(data, tuple(described.shape), torch.float32)

    return send


async def serve_rival(infer: Callable[[Any, Any], Awaitable[Any]], request_type: Any, answer_type: Any) -> None:
    server = grpc.aio.server(options=server_options(LIMITS))
    handler = grpc.unary_unary_rpc_method_handler(infer, request_type.FromString, answer_type.SerializeToString)
    server.add_registered_method_handlers("Rival", {"Infer": handler})  # type: ignore[attr-defined]
    print(listen(server, "127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


WAYS: dict[str, tuple[Callable[[], Awaitable[None]], Callable[[int], Sender]]] = {
    "socket": (serve_socket, open_socket),
    "field_sync": (serve_field_sync, open_field_sync),
    "field": (serve_field, open_field),
    "message": (serve_message, open_message),
    "unary": (serve_ours, lambda port: open_ours(port, "unary")),
    "stream": (serve_ours, lambda port: open_ours(port, "stream")),
}
"""The far end and the near end of every way. Near ends are made inside the event loop that uses them."""


async def main() -> None:
    await WAYS[sys.argv[1]][0]()


if __name__ == "__main__":
    set_up_program()
    asyncio.run(main())
