"""What does our call cost over loopback, against a plain socket and against an ordinary protobuf bytes field?

``python -m experiments.overhead --quick --json FILE``. Four ways to hand a float32 tensor to another process and get
1 KB back, each with a server process of its own on 127.0.0.1, interleaved round by round in one run, so that a busy
machine is busy for all of them. A sample begins with the tensor and ends with the answer's tensor; the far side has the
tensor before it answers.

    socket   blocking TCP, a length and the bytes, received into a fresh buffer: what the machine can do
    field    grpcio asyncio, the tensor as a protobuf bytes field: what everybody writes first
    unary    GrpcTransport, a call for each request
    stream   GrpcTransport, one stream kept open
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path

import grpc
import grpc.aio
import torch
from google.protobuf.wrappers_pb2 import BytesValue

from splitnn.transport.allocator import MALLOC_ENVIRONMENT, keep_large_buffers
from splitnn.transport.base import Answer, Description, Limits, Request
from splitnn.transport.channel import channel_options, server_options
from splitnn.transport.layout import bytes_of, tensor_over
from splitnn.transport.open_inference import GrpcTransport
from splitnn.transport.server import build_server, listen

WAYS = ("socket", "field", "unary", "stream")
ANSWER = torch.zeros(256)  # 1 KB
LENGTH = struct.Struct("<Q")
LIMITS = Limits(message_bytes=32 * 2**20)
FIXED_MS, PER_MB_MS = 0.45, 1.2  # the aim: this much over the socket
Sender = Callable[[torch.Tensor], Awaitable[None]]


class Echo:
    """The least that a service can do."""

    async def infer(self, request: Request) -> Answer:
        assert isinstance(request.tensors["x"], torch.Tensor)
        return Answer({"y": ANSWER})

    async def describe(self, model: str, version: str = "") -> Description:
        raise NotImplementedError

    def is_ready(self, model: str = "", version: str = "") -> bool:
        return True


def serve_socket() -> None:
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


async def serve_field() -> None:
    async def infer(request: BytesValue, context: object) -> BytesValue:
        tensor_over(request.value, (len(request.value),), torch.uint8)
        return BytesValue(value=ANSWER.numpy().tobytes())

    server = grpc.aio.server(options=server_options(LIMITS))
    handler = grpc.unary_unary_rpc_method_handler(infer, BytesValue.FromString, BytesValue.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Field", {"Infer": handler}),))
    print(listen(server, "127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


async def serve_ours() -> None:
    server, _ = build_server(Echo(), limits=LIMITS)
    print(listen(server, "127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def serve(way: str) -> None:
    """Run one server until the process is ended."""
    if way == "socket":
        serve_socket()
    else:
        asyncio.run(serve_field() if way == "field" else serve_ours())


def open_socket(port: int) -> Sender:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def send(tensor: torch.Tensor) -> None:
        view = bytes_of(tensor)
        connection.sendmsg([LENGTH.pack(len(view))])
        connection.sendall(view)
        receive_tensor(connection, ANSWER.nbytes)

    return send


def open_field(port: int) -> Sender:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options(LIMITS))
    call = channel.unary_unary("/Field/Infer", BytesValue.SerializeToString, BytesValue.FromString)

    async def send(tensor: torch.Tensor) -> None:
        answer = await call(BytesValue(value=tensor.numpy().tobytes()), timeout=10)
        tensor_over(answer.value, (256,), torch.float32)

    return send


def open_transport(transport: GrpcTransport) -> Sender:
    async def send(tensor: torch.Tensor) -> None:
        answer = await transport.infer(Request("echo", {"x": tensor}, time.monotonic() + 10, request_id="overhead"))
        assert isinstance(answer.tensors["y"], torch.Tensor)

    return send


async def measure(ports: dict[str, int], sizes: list[int], rounds: int) -> dict[int, dict[str, list[float]]]:
    """Seconds of every sample, by size and way."""
    senders = {
        "socket": open_socket(ports["socket"]),
        "field": open_field(ports["field"]),
        "unary": open_transport(GrpcTransport(f"127.0.0.1:{ports['unary']}", limits=LIMITS)),
        "stream": open_transport(GrpcTransport(f"127.0.0.1:{ports['stream']}", limits=LIMITS, call="stream")),
    }
    samples: dict[int, dict[str, list[float]]] = {}
    for size in sizes:
        tensor = torch.randn(size // 4)
        seconds = samples[size] = {way: [] for way in WAYS}
        for i in range(-3, rounds):
            for way in (*WAYS[i % len(WAYS) :], *WAYS[: i % len(WAYS)]):
                started = time.perf_counter()
                await senders[way](tensor)
                if i >= 0:  # the first ones warm up
                    seconds[way].append(time.perf_counter() - started)
        print(f"{size_text(size):>8} measured, {rounds} rounds", file=sys.stderr, flush=True)
    return samples


def size_text(size: int) -> str:
    return f"{size // 2**20} MB" if size >= 2**20 else f"{size // 2**10} KB"


def machine() -> dict[str, str]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "commit": commit.stdout.strip() or "unknown",
        "cores": str(os.cpu_count()),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "kernel": platform.release(),
        "tcp": congestion.read_text().strip() if congestion.exists() else "unknown",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("grpcio", "protobuf", "torch")},
        "event_loop": asyncio.get_event_loop_policy().__class__.__module__.partition(".")[0],
    }


def summary(samples: dict[int, dict[str, list[float]]]) -> list[dict[str, float]]:
    """One row a size: medians in milliseconds, and how they compare."""
    rows: list[dict[str, float]] = []
    for size, ways in samples.items():
        medians = {f"{way}_ms": statistics.median(seconds) * 1e3 for way, seconds in ways.items()}
        over = {f"{way}_over_socket_ms": medians[f"{way}_ms"] - medians["socket_ms"] for way in ("unary", "stream")}
        aim_ms = FIXED_MS + PER_MB_MS * size / 1e6
        ratios = {"unary_to_socket": medians["unary_ms"] / medians["socket_ms"]}
        ratios["unary_to_field"] = medians["unary_ms"] / medians["field_ms"]
        ratios["stream_to_field"] = medians["stream_ms"] / medians["field_ms"]
        rows.append({"size_bytes": size, **medians, **ratios, **over, "aim_ms": aim_ms})
    return rows


def print_table(rows: list[dict[str, float]], about: dict[str, str]) -> None:
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    names = " ".join(f"{way:>9}" for way in WAYS)
    print(f"{'tensor':>8} {names}   unary/field stream/field   over the socket: unary   stream      aim")
    for row in rows:
        numbers = " ".join(f"{row[way + '_ms']:6.2f} ms" for way in WAYS)
        over = " ".join(f"{row[name]:6.2f} ms" for name in ("unary_over_socket_ms", "stream_over_socket_ms", "aim_ms"))
        print(
            f"{size_text(int(row['size_bytes'])):>8} {numbers}   {row['unary_to_field']:10.2f}x "
            f"{row['stream_to_field']:11.2f}x   {'':>15}{over}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="What our call costs over loopback")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds, about ten seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keep_large_buffers()
    gc.collect()
    gc.freeze()  # torch's many objects need no visits
    torch.set_num_threads(1)
    try:
        import uvloop
    except ImportError:
        pass
    else:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if arguments.serve:
        serve(arguments.serve)
        return
    sizes = [2**10, 2**16, 2**20, 2**22, 2**24] if arguments.quick else [2**n for n in range(10, 25)]
    rounds = 25 if arguments.quick else 100
    servers = {way: start_server(way) for way in WAYS}
    try:
        ports = {way: int(server.stdout.readline()) for way, server in servers.items() if server.stdout}
        samples = asyncio.run(measure(ports, sizes, rounds))
    finally:
        for server in servers.values():
            server.terminate()
            server.communicate(timeout=10)
    rows, about = summary(samples), machine()
    print_table(rows, about)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "rounds": rounds, "rows": rows}, indent=1) + "\n")


def start_server(way: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "experiments.overhead", "--serve", way]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | MALLOC_ENVIRONMENT)


if __name__ == "__main__":
    main()
