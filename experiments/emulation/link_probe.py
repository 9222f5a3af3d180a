"""The two ends of a calibration, plain TCP: ``serve HOST``, ``measure ADDRESS PINGS BYTES:WINDOW BYTES:WINDOW``, and
``outage ADDRESS SECONDS``, which pings once it is told that the link is blocked, and waits for the answer once more
when it is told that the link is healed.

A rate is taken from the second half of a transfer as its receiver sees it: neither slow start nor the round trip are
the link's rate. The sender's buffer bounds what is under way, so that no queue overflows: while TCP mends a loss,
bytes arrive unseen. A request is three numbers of 8 bytes: how much follows, how much is wanted, and the buffer for
that; an answer is 8 bytes, the rate of what followed as a double, then what was wanted. Transfers are bounded by
256 MiB, every wait by a minute.
"""

from __future__ import annotations

import json
import socket
import statistics
import struct
import sys
import time

_REQUEST = struct.Struct("!QQQ")
_ANSWER = struct.Struct("!d")
_MOST_BYTES = 256 << 20
_LONGEST_WAIT_S = 60.0


def receive(connection: socket.socket, size_bytes: int) -> tuple[bytes, float]:
    """The last piece of so many bytes, and the payload bits per second of their second half (0 when in one piece)."""
    received, piece = 0, b""
    marked_bytes, marked_s = 0, 0.0
    while received < size_bytes:
        piece = connection.recv(min(65536, size_bytes - received))
        if not piece:
            raise ConnectionError("the peer left in the middle of a transfer")
        received += len(piece)
        if not marked_bytes and received * 2 >= size_bytes:
            marked_bytes, marked_s = received, time.monotonic()
    took_s = time.monotonic() - marked_s
    return piece, (received - marked_bytes) * 8 / took_s if received > marked_bytes else 0.0


def exactly(connection: socket.socket, size_bytes: int) -> bytes:
    message = b""
    while len(message) < size_bytes:
        piece = connection.recv(size_bytes - len(message))
        if not piece:
            raise ConnectionError("the peer left")
        message += piece
    return message


def serve(host: str) -> None:
    """Answer one connection at a time until killed."""
    with socket.create_server((host, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(_LONGEST_WAIT_S)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    while True:
                        up_bytes, down_bytes, window_bytes = _REQUEST.unpack(exactly(connection, _REQUEST.size))
                        if max(up_bytes, down_bytes) > _MOST_BYTES:
                            break
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, min(window_bytes, _MOST_BYTES))
                        rate = receive(connection, up_bytes)[1] if up_bytes else 0.0
                        connection.sendall(_ANSWER.pack(rate) + b"d" * down_bytes)
                except OSError:
                    continue


def exchange(
    connection: socket.socket, *, up_bytes: int = 0, down_bytes: int = 0, window_bytes: int = 65536
) -> tuple[float, float]:
    """Payload bits per second up and down, 0 where nothing was sent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window_bytes)
    connection.sendall(_REQUEST.pack(up_bytes, down_bytes, window_bytes) + b"u" * up_bytes)
    (up_rate,) = _ANSWER.unpack(exactly(connection, _ANSWER.size))
    return up_rate, receive(connection, down_bytes)[1] if down_bytes else 0.0


def measure(address: str, pings: int, up: tuple[int, int], down: tuple[int, int]) -> dict[str, float]:
    """``up`` and ``down`` are (bytes, bytes under way at most)."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_LONGEST_WAIT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times_s = []
        for _ in range(pings):
            start_s = time.monotonic()
            exchange(connection)
            times_s.append(time.monotonic() - start_s)
        up_bps, _ = exchange(connection, up_bytes=up[0], window_bytes=up[1])
        _, down_bps = exchange(connection, down_bytes=down[0], window_bytes=down[1])
    return {"rtt_s": statistics.median(times_s), "up_payload_bps": up_bps, "down_payload_bps": down_bps}


def outage(address: str, wait_s: float) -> None:
    """Print ``connected``; after a line of input whether a ping is answered within ``wait_s``; after another, again."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=_LONGEST_WAIT_S) as connection:
        exchange(connection)
        print("connected", flush=True)
        sys.stdin.readline()
        connection.sendall(_REQUEST.pack(0, 0, 65536))
        connection.settimeout(wait_s)
        try:
            exactly(connection, _ANSWER.size)
        except TimeoutError:
            print("silent", flush=True)
            sys.stdin.readline()
            connection.settimeout(_LONGEST_WAIT_S)
            exactly(connection, _ANSWER.size)
        print("answered", flush=True)


def _pair(text: str) -> tuple[int, int]:
    transfer, _, window = text.partition(":")
    return int(transfer), int(window)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", host]:
            serve(host)
        case ["measure", address, pings, up, down]:
            print(json.dumps(measure(address, int(pings), _pair(up), _pair(down))))
        case ["outage", address, seconds]:
            outage(address, float(seconds))
        case _:
            sys.exit(__doc__)
