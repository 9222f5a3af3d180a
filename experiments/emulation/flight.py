"""One way through the proxy: what is read at one end of a connection, under way, and written at the other end."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from experiments.emulation.virtual_clock import VirtualClock

_RESET: Final = None  # under way: the sender's connection was reset
_IN_FLIGHT_BYTES = 1 << 20  # beyond this and twice the bandwidth-delay product, a receiver that does not read stops us


class Direction:
    """One way through the link, shared by all connections."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.flips = 0
        self.taken_bytes = 0
        self._turn = asyncio.Lock()  # fair: connections take turns, one piece each

    async def carry(self, source: socket.socket, sink: socket.socket, *, link_open: asyncio.Event) -> None:
        """Carry one connection's bytes this way until their end.

        Raises:
            OSError: either end was reset.
        """
        flight = _Flight()
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self._take(source, flight, link_open))
            ends.create_task(_give(flight, sink, link_open))

    async def _take(self, source: socket.socket, flight: _Flight, link_open: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        piece: bytes | None = b" "
        while piece:
            await link_open.wait()
            await flight.room(max(_IN_FLIGHT_BYTES, int(self.clock.rate_bps * self.clock.latency_s / 4)))
            try:
                piece = await loop.sock_recv(source, self.clock.chunk_bytes())
            except ConnectionError:
                piece = _RESET  # travels with the bytes: a black hole must hide it
            async with self._turn:
                while wait_s := self.clock.wait_s():  # noqa: ASYNC110 - until a time, which set() may move
                    await asyncio.sleep(wait_s)
                due_s = self.clock.admit(len(piece or b""))
            self.taken_bytes += len(piece or b"")
            if piece and self.flips:
                self.flips -= 1
                piece = _flipped(piece)
            flight.put(due_s, piece)


async def _give(flight: _Flight, sink: socket.socket, link_open: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s, piece = await flight.get()
        if (wait_s := due_s - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        await link_open.wait()
        if piece is _RESET:
            raise ConnectionResetError("the sender's connection was reset")
        if not piece:
            sink.shutdown(socket.SHUT_WR)
            return
        await loop.sock_sendall(sink, piece)
        flight.landed(len(piece))


class _Flight:
    """What one connection has under way in one direction, in order."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue()
        self._bytes = 0
        self._landed = asyncio.Event()

    async def room(self, limit_bytes: int) -> None:
        while self._bytes > limit_bytes:
            self._landed.clear()
            await self._landed.wait()

    def put(self, due_s: float, piece: bytes | None) -> None:
        self._bytes += len(piece or b"")
        self._queue.put_nowait((due_s, piece))

    async def get(self) -> tuple[float, bytes | None]:
        return await self._queue.get()

    def landed(self, size_bytes: int) -> None:
        self._bytes -= size_bytes
        self._landed.set()


def _flipped(piece: bytes) -> bytes:
    middle = len(piece) // 2
    return piece[:middle] + bytes([piece[middle] ^ 1]) + piece[middle + 1 :]
