"""A far side that takes its time to read is not a dead one."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import torch

from splitnn.transport.base import Announcement, Answer, Description, Request
from splitnn.transport.exchange import serve_stream
from splitnn.transport.framing import Frame, Received, request_frame
from splitnn.transport.open_inference import GrpcTransport
from splitnn.transport.server import build_server, listen

_CLOSED_WINDOW_S = 2.5  # four times as long as what once ended the connection


class Sizer:
    """Answers with the size of what came."""

    def expect(self, announced: Announcement) -> None:
        pass

    async def infer(self, request: Request) -> Answer:
        return Answer({"n": sum(torch.as_tensor(tensor).numel() for tensor in request.tensors.values())})

    async def describe(self, model: str, version: str = "") -> Description:
        raise NotImplementedError

    def is_ready(self, model: str = "", version: str = "") -> bool:
        return True


async def relay_that_pauses(target: str) -> asyncio.Server:
    """Passes the first bytes on, then reads nothing until its pause is over, so that the near side's window closes."""
    loop = asyncio.get_running_loop()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(2**14):
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = target.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        down = asyncio.create_task(pass_on(far_reader, writer))
        far_writer.write(await reader.read(2**14))
        transport: Any = writer.transport
        transport.pause_reading()
        loop.call_later(_CLOSED_WINDOW_S, transport.resume_reading)
        await asyncio.gather(pass_on(reader, far_writer), down)

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
    listener.bind(("127.0.0.1", 0))
    return await asyncio.start_server(serve, sock=listener, limit=2**14)


def test_an_upload_survives_a_window_that_is_closed_for_seconds() -> None:
    async def main() -> None:
        server, _ = build_server(Sizer())
        port = listen(server, "127.0.0.1:0")
        await server.start()
        relay = await relay_that_pauses(f"127.0.0.1:{port}")
        transport = GrpcTransport("{}:{}".format(*relay.sockets[0].getsockname()))
        answer = await transport.infer(Request("net", {"x": torch.zeros(2**20)}, time.monotonic() + 60))
        assert answer.tensors["n"] == 2**20
        await transport.close()
        relay.close()
        await server.stop(None)

    asyncio.run(main())


class Stream:
    """The far end's side of a stream: how many messages were taken from it, and what was written to it."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = iter(messages)
        self.taken = 0
        self.written = 0

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        message = next(self._messages, None)
        if message is None:
            raise StopAsyncIteration
        self.taken += 1
        return message

    async def write(self, message: bytes) -> None:
        self.written += 1


def test_a_stream_is_read_no_further_than_its_bytes_under_way_allow() -> None:
    message = b"".join(request_frame(Request("net", {"x": torch.zeros(2**22)}, 0.0), message_id="r").parts)  # 16 MiB
    may_answer = asyncio.Event()

    async def answer(received: Received) -> Frame:
        await may_answer.wait()
        return Frame([b""], ())

    async def main() -> None:
        stream: Any = Stream([message] * 20)
        serving = asyncio.create_task(serve_stream(stream, stream, answer))
        for _ in range(1000):
            await asyncio.sleep(0)
        assert stream.taken == 8  # of 16 MiB: 128 MiB
        may_answer.set()
        await serving
        assert (stream.taken, stream.written) == (20, 20)

    asyncio.run(main())
