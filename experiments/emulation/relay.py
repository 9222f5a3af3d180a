"""Carries packets between TUN devices in two namespaces, late and with losses: what ``tc`` can't do without netem.

tbf keeps the rate and the queue of a busy link, but lets the first frames after a pause pass at once, as no link does
(3100 bytes: 190 ms at 0.13 Mbit/s): here each packet takes the time that its bytes take on the wire. A process of its
own, steered by JSON lines (``SteeredRelay``); needs root. Adds 0.2 to 0.7 ms to a round trip and takes about 7 % of a
core at 10 Mbit/s, 27 % at 100. When whoever started it dies, it ends and sweeps up what that one left.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import math
import os
import random
import select
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from experiments.emulation.control import Lines, SteeredProgram, say
from experiments.emulation.launch import enter_namespace
from experiments.emulation.namespaces import DEVICE, NamespacePair
from experiments.leftovers import is_dead, remove_leftovers, wait_until

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_LARGEST_PACKET_BYTES = 65536
_ETHERNET_BYTES = 14
_MOST_PACKETS = 20_000  # in flight one way; more are dropped
_PROJECT_ROOT = Path(__file__).resolve().parents[2]


class Way:
    """One way through the relay: each packet is lost, or due ``latency_s`` +- ``jitter_s`` after its last bit has left.

    Bits leave at ``rate_bps``, counting Ethernet frames, one packet after the other.
    """

    def __init__(self, seed: int) -> None:
        self.rate_bps = math.inf
        self.latency_s = 0.0
        self.jitter_s = 0.0
        self.loss = 0.0
        self._chance = random.Random(seed)
        self._flight: deque[tuple[float, bytes]] = deque()
        self._busy_until_s = self._last_due_s = -math.inf

    def enter(self, packet: bytes, now_s: float) -> None:
        if len(self._flight) >= _MOST_PACKETS or (self.loss and self._chance.random() < self.loss):
            return
        self._busy_until_s = max(self._busy_until_s, now_s) + (len(packet) + _ETHERNET_BYTES) * 8 / self.rate_bps
        due_s = self._busy_until_s + self.latency_s
        if self.jitter_s:
            due_s += self._chance.uniform(-self.jitter_s, self.jitter_s)
        self._last_due_s = max(self._last_due_s, due_s)
        self._flight.append((self._last_due_s, packet))

    def due_s(self) -> float:
        """When the next packet leaves; infinity when there is none."""
        return self._flight[0][0] if self._flight else math.inf

    def leave(self, now_s: float) -> list[bytes]:
        """The packets that are due."""
        due = []
        while self._flight and self._flight[0][0] <= now_s:
            due.append(self._flight.popleft()[1])
        return due


class SteeredRelay(SteeredProgram):
    """Starts the relay between two namespaces; it makes the TUN devices, without addresses. A context manager.

    Raises:
        RuntimeError: it did not start; the message says why.
    """

    def __init__(self, pair: NamespacePair, *, seed: int) -> None:
        command = [
            sys.executable,
            "-m",
            "experiments.emulation.relay",
            pair.device,
            pair.server,
            str(os.getpid()),
            str(seed),
        ]
        super().__init__(command, cwd=_PROJECT_ROOT)

    def set(self, *, up_bps: float, down_bps: float, latency_s: float, jitter_s: float, loss: float) -> None:
        """From the next packet on, each way. A ``loss`` of 1 is an outage."""
        self.ask({"do": "set", "bps": [up_bps, down_bps], "latency_s": latency_s, "jitter_s": jitter_s, "loss": loss})

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has ended already
            self.ask({"do": "end"})
        super().close()


def open_tun(namespace: str) -> int:
    """A descriptor of a new TUN device in a namespace; the device lives as long as it. Returns to this namespace."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    enter_namespace(f"/run/netns/{namespace}")
    try:
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH14x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    finally:
        enter_namespace(f"/proc/self/fd/{home}")
        os.close(home)
    return tun


def relay(tuns: tuple[int, int], ways: tuple[Way, Way]) -> bool:
    """Carry packets and obey standard input until its end; whether that end was announced.

    ``ways[i]`` leads from ``tuns[i]`` to the other one.
    """
    lines = Lines()
    while True:
        next_s = min(way.due_s() for way in ways)
        wait_s = None if next_s == math.inf else max(0.0, next_s - time.monotonic())
        readable, _, _ = select.select([*tuns, 0], [], [], wait_s)
        for tun, way in zip(tuns, ways, strict=True):
            if tun in readable:
                _take_in(tun, way)
        now_s = time.monotonic()
        for tun, way in zip(reversed(tuns), ways, strict=True):
            for packet in way.leave(now_s):
                with contextlib.suppress(OSError):  # a device that is down loses packets
                    os.write(tun, packet)
        if 0 in readable:
            piece = os.read(0, 4096)
            if not piece:
                return False
            for message in lines.feed(piece):
                answer = _obey(message, ways)
                say(answer)
                if message == {"do": "end"}:
                    return True


def _take_in(tun: int, way: Way) -> None:
    for _ in range(64):  # then look at the other way
        try:
            packet = os.read(tun, _LARGEST_PACKET_BYTES)
        except BlockingIOError:
            return
        way.enter(packet, time.monotonic())


def _obey(message: dict[str, Any], ways: tuple[Way, Way]) -> dict[str, Any]:
    match message:
        case {"do": "end"}:
            pass
        case {"do": "set", "bps": [float(), float()] as bps, "latency_s": float() as latency_s,
              "jitter_s": float() as jitter_s, "loss": float() as loss}:  # fmt: skip
            for way, rate_bps in zip(ways, bps, strict=True):
                way.rate_bps, way.latency_s, way.jitter_s, way.loss = rate_bps, latency_s, jitter_s, loss
        case _:
            return {"error": f"no such command: {message}"}
    return {"ok": True}


def main() -> None:
    device, server, owner, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    tuns = (open_tun(device), open_tun(server))
    gc.disable()  # a collection would be jitter; nothing here makes cycles
    say({"ready": DEVICE})
    if not relay(tuns, (Way(seed), Way(seed + 1))):
        wait_until(lambda: is_dead(owner), limit_s=2.0)
        remove_leftovers()


if __name__ == "__main__":
    main()
