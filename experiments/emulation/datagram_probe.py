"""Datagrams over a link one way: ``receive HOST QUIET_S`` and ``send ADDRESS COUNT INTERVAL_S``.

Both ends run on one machine and read one clock, so what each datagram took is known, one way. The kernel notes when it
arrived: the receiver's turn on a processor is no jitter of the link. The receiver prints its port, then, after
``QUIET_S`` seconds without another datagram, ``{"received": N, "spread_s": S}``: how far the slowest tenth and the
quickest tenth lie apart.
"""

from __future__ import annotations

import json
import socket
import statistics
import struct
import sys
import time

_SENT = struct.Struct("!Q")  # nanoseconds of the wall clock
_ARRIVED = struct.Struct("@qq")  # seconds and nanoseconds of the same clock
_SO_TIMESTAMPNS = 35  # Linux; Python's socket module does not name it
_RECEIVE_BUFFER_BYTES = 4 << 20
_LONGEST_WAIT_S = 60.0  # for the first one


def receive(host: str, quiet_s: float) -> None:
    """Count until it is quiet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        end.bind((host, 0))
        print(end.getsockname()[1], flush=True)
        end.settimeout(_LONGEST_WAIT_S)
        took_s: list[float] = []
        try:
            while True:
                datagram, notes, _, _ = end.recvmsg(64, 256)
                end.settimeout(quiet_s)
                seconds, nanoseconds = _ARRIVED.unpack(
                    next(value for _, kind, value in notes if kind == _SO_TIMESTAMPNS)
                )
                (sent_ns,) = _SENT.unpack(datagram)
                took_s.append((seconds * 1_000_000_000 + nanoseconds - sent_ns) * 1e-9)
        except TimeoutError:
            pass  # quiet
    print(json.dumps({"received": len(took_s), "spread_s": spread_s(took_s)}), flush=True)


def spread_s(took_s: list[float]) -> float:
    """Seconds between the first and the last tenth; 0 of fewer than two."""
    if len(took_s) < 2:
        return 0.0
    tenths = statistics.quantiles(took_s, n=10)
    return tenths[-1] - tenths[0]


def send(address: str, count: int, interval_s: float) -> None:
    """So many datagrams in as many intervals, late ones at once."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.connect((host, int(port)))
        start_s = time.monotonic()
        for number in range(count):
            time.sleep(max(0.0, start_s + number * interval_s - time.monotonic()))
            end.send(_SENT.pack(time.time_ns()))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["receive", host, quiet_s]:
            receive(host, float(quiet_s))
        case ["send", address, count, interval_s]:
            send(address, int(count), float(interval_s))
        case _:
            sys.exit(__doc__)
