"""The proxy as a program of its own: its command line, and the class that starts and steers it."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from experiments.emulation.control import Lines, SteeredProgram, say
from experiments.emulation.proxy import LinkProxy, Side, link_proxy
from splitnn.cost.network import parse_link, parse_seconds

_PROJECT_ROOT = Path(__file__).resolve().parents[2]  # where ``-m experiments.emulation.proxy`` is found


class SteeredProxy(SteeredProgram):
    """A proxy in front of ``target``, in a process of its own; a context manager.

    ``link`` is text as ``splitnn.cost.network.parse_link`` reads it: ``10Mbps/20ms``, ``2Mbps:20Mbps/40ms``. The proxy
    ends with ``close``, and by itself when this process dies, however it dies.

    Raises:
        RuntimeError: the proxy did not start, or answered with an error; the message says why.
    """

    def __init__(self, target: str, *, link: str, listen: str = "127.0.0.1:0") -> None:
        rates, _, rtt = link.partition("/")
        command = [sys.executable, "-m", "experiments.emulation.proxy", "--target", target, "--listen", listen]
        super().__init__([*command, "--rate", rates, "--rtt", rtt or "0ms"], cwd=_PROJECT_ROOT)
        self.address: str = self.ready["ready"]

    def set(self, *, rate: str | None = None, rtt: str | None = None) -> None:
        """``rate`` as ``5Mbps`` or ``up:down``, ``rtt`` as ``40ms``; what is not named stays. For all connections."""
        named = {"rate": rate, "rtt": rtt}
        self.ask({"do": "set"} | {name: value for name, value in named.items() if value is not None})

    def block(self) -> None:
        """Become a black hole: nothing passes, connections stay open."""
        self.ask({"do": "block"})

    def heal(self) -> None:
        """End the black hole; what waited passes."""
        self.ask({"do": "heal"})

    def abort(self) -> None:
        """Reset every connection."""
        self.ask({"do": "abort"})

    def flip(self, side: Side) -> None:
        """Flip one bit of the next piece that passes in this direction."""
        self.ask({"do": "flip", "direction": side})

    def count(self) -> dict[str, int]:
        """``up_bytes`` and ``down_bytes`` of payload that entered the link so far, and ``connections`` accepted."""
        answer = self.ask({"do": "count"})
        return {name: int(answer[name]) for name in ("up_bytes", "down_bytes", "connections")}


async def obey(proxy: LinkProxy, message: dict[str, Any]) -> dict[str, Any]:
    """Do one command of standard input; the answer to print."""
    try:
        match message:
            case {"do": "set", **values} if values.keys() <= {"rate", "rtt"}:
                up_bps = down_bps = rtt_s = None
                if "rate" in values:
                    up, down = parse_link(str(values["rate"]))
                    up_bps, down_bps = up.bandwidth_bps, down.bandwidth_bps
                if "rtt" in values:
                    rtt_s = parse_seconds(str(values["rtt"]))
                proxy.set(up_bps=up_bps, down_bps=down_bps, rtt_s=rtt_s)
            case {"do": "block"}:
                proxy.block()
            case {"do": "heal"}:
                proxy.heal()
            case {"do": "abort"}:
                await proxy.abort()
            case {"do": "flip", "direction": "up" | "down" as side}:
                proxy.flip(side)
            case {"do": "count"}:
                passed = {f"{side}_bytes": proxy.passed_bytes(side) for side in ("up", "down")}
                return {"ok": True, "connections": proxy.accepted} | passed
            case _:
                raise ValueError(f"no such command: {message}; there are set, block, heal, abort, flip and count")
    except ValueError as wrong:
        return {"error": str(wrong)}
    return {"ok": True}


async def _run(options: argparse.Namespace) -> None:
    up, down = parse_link(options.rate)
    rates = {"up_bps": up.bandwidth_bps, "down_bps": down.bandwidth_bps}
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with link_proxy(options.target, **rates, rtt_s=parse_seconds(options.rtt), listen=options.listen) as proxy:
        say({"ready": proxy.address})
        steering = asyncio.create_task(_steer(proxy, stopped))
        await stopped.wait()
        steering.cancel()


async def _steer(proxy: LinkProxy, stopped: asyncio.Event) -> None:
    lines = Lines()
    async for piece in _standard_input():
        try:
            messages = lines.feed(piece)
        except ValueError as wrong:
            say({"error": str(wrong)})
            continue
        for message in messages:
            say(await obey(proxy, message))
    stopped.set()


async def _standard_input() -> AsyncIterator[bytes]:
    """Pieces until its end. By a thread, since an event loop cannot watch a file or ``/dev/null``."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        piece = b" "
        while piece:
            piece = os.read(0, 4096)
            try:
                loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except RuntimeError:  # the loop has been closed: the process is ending
                return

    threading.Thread(target=read, daemon=True, name="standard input").start()
    while piece := await pieces.get():
        yield piece


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.emulation.proxy", description="A slow, breakable link."
    )
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument("--rate", required=True, metavar="RATE", help="10Mbps, or up:down such as 2Mbps:20Mbps")
    parser.add_argument("--rtt", default="0ms", metavar="TIME", help="round trip, such as 20ms")
    options = parser.parse_args()
    try:
        asyncio.run(_run(options))
    except (ValueError, OSError) as wrong:
        parser.exit(2, f"{parser.prog}: {wrong}\n")
