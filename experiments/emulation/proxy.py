"""A slow, breakable link as a TCP proxy: no privileges needed, works on any system.

Rate and round trip each way, changed while traffic flows and for connections that exist; a black hole; resets; flipped
bytes. All connections share the link. What it can't do: loss, reordering, jitter, TCP's slow start on the emulated
path. Measured: rates 0.3 % low up to 10 Mbit/s, 2 % at 100; round trips 1 to 2 ms above what was set (0.3 ms when
none was). Sockets buffer: a sender finishes before its bytes have arrived, so time an upload by the answer.

    python -m experiments.emulation.proxy --listen 127.0.0.1:0 --target 127.0.0.1:50051 --rate 2Mbps:20Mbps --rtt 20ms

prints ``{"ready": "127.0.0.1:PORT"}``, then obeys JSON lines on standard input: ``{"do": "set", "rate": "5Mbps", "rtt":
"40ms"}``, ``{"do": "block"}``, ``{"do": "heal"}``, ``{"do": "abort"}``, ``{"do": "flip", "direction": "up"}``,
``{"do": "count"}``. It ends with its input, or on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Literal

from experiments.emulation.flight import Direction
from experiments.emulation.virtual_clock import VirtualClock

Side = Literal["up", "down"]  # up leads from whoever connects to the target

_SOCKET_BUFFER_BYTES = 65536  # small, so that little of a transfer hides in the proxy's own kernel buffers


@contextlib.asynccontextmanager
async def link_proxy(
    target: str, *, up_bps: float, down_bps: float, rtt_s: float = 0.0, listen: str = "127.0.0.1:0"
) -> AsyncIterator[LinkProxy]:
    """A proxy in this event loop, listening while the context lasts; leaving it resets what is open.

    Raises:
        ValueError: a rate or a round trip that no link has, or an address that is not ``host:port``.
        OSError: ``listen`` is in use.
    """
    listener = socket.create_server(split_address(listen), backlog=128)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
    listener.setblocking(False)
    with listener:
        proxy = LinkProxy(listener, split_address(target), up_bps=up_bps, down_bps=down_bps, rtt_s=rtt_s)
        accepting = asyncio.create_task(proxy.accept())
        try:
            yield proxy
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            await proxy.abort()


class LinkProxy:
    """The link between everybody who connects and ``target``. Made by ``link_proxy``; all methods in its event loop."""

    def __init__(
        self, listener: socket.socket, target: tuple[str, int], *, up_bps: float, down_bps: float, rtt_s: float
    ) -> None:
        host, port = listener.getsockname()[:2]
        self.address = f"{host}:{port}"
        self._listener = listener
        self._target = target
        now = asyncio.get_running_loop().time
        self._directions: dict[Side, Direction] = {
            "up": Direction(VirtualClock(up_bps, latency_s=rtt_s / 2, now=now)),
            "down": Direction(VirtualClock(down_bps, latency_s=rtt_s / 2, now=now)),
        }
        self._open = asyncio.Event()
        self._open.set()
        self._connections: set[asyncio.Task[None]] = set()
        self.accepted = 0

    def set(self, *, up_bps: float | None = None, down_bps: float | None = None, rtt_s: float | None = None) -> None:
        """Change the link from now on, for existing connections too; what is not named stays."""
        latency_s = None if rtt_s is None else rtt_s / 2
        self._directions["up"].clock.change(rate_bps=up_bps, latency_s=latency_s)
        self._directions["down"].clock.change(rate_bps=down_bps, latency_s=latency_s)

    def block(self) -> None:
        """Become a black hole: nothing passes, no end and no reset of a connection either, and none is closed.

        A connection made meanwhile is accepted (by the kernel, before a proxy can prevent it) and then silent.
        """
        self._open.clear()

    def heal(self) -> None:
        """End the black hole; what waited passes."""
        self._open.set()

    async def abort(self) -> None:
        """Reset every connection (RST to both ends), blocked or not. New ones are served."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def flip(self, side: Side) -> None:
        """Flip one bit in the middle of the next piece that passes: what TCP's checksum hides from a real link."""
        self._directions[side].flips += 1

    def passed_bytes(self, side: Side) -> int:
        """Payload bytes taken into the link in this direction since the start."""
        return self._directions[side].taken_bytes

    async def accept(self) -> None:
        """Serve connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(self._listener)
            self.accepted += 1
            connection = asyncio.create_task(self._serve(near))
            self._connections.add(connection)
            connection.add_done_callback(self._connections.discard)

    async def _serve(self, near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        far = socket.socket(socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        try:
            for end in (near, far):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            up, down = self._directions["up"], self._directions["down"]
            await asyncio.sleep(up.clock.latency_s + down.clock.latency_s)  # the handshake, which the kernel answered
            await self._open.wait()
            try:
                await loop.sock_connect(far, self._target)
            except OSError:
                await self._open.wait()  # a black hole hides a refusal too
                raise
            async with asyncio.TaskGroup() as flows:
                flows.create_task(up.carry(near, far, link_open=self._open))
                flows.create_task(down.carry(far, near, link_open=self._open))
        except BaseException as end_of_connection:
            for end in (near, far):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
            if not isinstance(end_of_connection, OSError | BaseExceptionGroup):
                raise
            if isinstance(end_of_connection, BaseExceptionGroup) and end_of_connection.split(OSError)[1] is not None:
                raise
        finally:
            near.close()
            far.close()


def split_address(text: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` as a pair.

    Raises:
        ValueError: the text is no such address.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address; write host:port, such as 127.0.0.1:50051")
    return host.strip("[]"), int(port)


if __name__ == "__main__":
    from experiments.emulation.steered_proxy import main

    main()
