"""Two network namespaces, and what may shape the path between them: veth with netem, or TUN devices with tbf."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.leftovers import owned_name, remove_namespace

DEVICE = "emu0"  # the path's network device, in both namespaces
DEVICE_HOST = "10.99.0.2"  # seen by nobody else: every pair of namespaces has a network of its own
SERVER_HOST = "10.99.0.1"
_LONGEST_COMMAND_S = 30.0
_TUN_SHARE = 1500 / 1514  # a TUN device has no Ethernet header; rates count it by every method (stab came out 2 % off)


@dataclass(frozen=True, slots=True)
class NamespacePair:
    """Names of the two ends."""

    device: str
    server: str


@contextlib.contextmanager
def namespace_pair() -> Iterator[NamespacePair]:
    """Two fresh network namespaces; leaving kills what runs in them and deletes them.

    Raises:
        RuntimeError: they cannot be made here; the message says what is missing.
    """
    if os.geteuid() != 0:
        raise RuntimeError("network namespaces need root")
    for tool in ("ip", "tc"):
        if not shutil.which(tool):
            raise RuntimeError(f"the command {tool} (package iproute2) is missing")
    pair = NamespacePair(owned_name("device"), owned_name("server"))
    try:
        for name in (pair.device, pair.server):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield pair
    finally:
        for name in (pair.device, pair.server):
            remove_namespace(name)


def why_not_netem(pair: NamespacePair) -> str | None:
    """None where the kernel has netem, else what ``tc`` says."""
    return _try_on_loopback(pair, "tc", "-n", pair.device, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")


def why_not_relay(pair: NamespacePair) -> str | None:
    """None where the kernel has tbf and TUN devices, else what is missing."""
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing"
    return _try_on_loopback(pair, *tbf_command(pair.device, 1e6, device="lo"))


def _try_on_loopback(pair: NamespacePair, *command: str) -> str | None:
    refusal = _refusal(*command)
    if refusal is None:
        run("tc", "-n", pair.device, "qdisc", "del", "dev", "lo", "root")
    return refusal


def connect_by_veth(pair: NamespacePair) -> None:
    """A veth pair as the path, which carries single frames where that can be had."""
    run("ip", "-n", pair.device, "link", "add", DEVICE, "type", "veth", "peer", "name", DEVICE, "netns", pair.server)
    for name in (pair.device, pair.server):
        _carry_single_frames(name)
    bring_up(pair)


def _carry_single_frames(namespace: str) -> None:
    """Segments of up to 64 kB would pass netem as one packet: lost, delayed and queued as one."""
    # This limits what the sender makes. GRO, at the receiver, only merges what has passed already.
    run("ip", "-n", namespace, "link", "set", DEVICE, "gso_max_segs", "1")


def bring_up(pair: NamespacePair) -> None:
    """Give both ends of the path, which exist, their addresses."""
    for name, host in ((pair.device, DEVICE_HOST), (pair.server, SERVER_HOST)):
        run("ip", "-n", name, "addr", "add", f"{host}/30", "dev", DEVICE)
        run("ip", "-n", name, "link", "set", DEVICE, "txqueuelen", "2000", "addrgenmode", "none", "up")


def tbf_command(namespace: str, rate_bps: float, *, device: str = DEVICE) -> list[str]:
    """Limit what leaves a namespace by a TUN device; also changes the limit while traffic flows.

    Burst and queue are measured choices: 4 ms and 200 ms of the rate, two frames and 20 at least. htb was tried and
    let short transfers through too fast.
    """
    burst_bytes = max(3100, int(rate_bps * 0.004 / 8))
    queue_bytes = max(30_000, int(rate_bps * 0.2 / 8))
    return [
        *("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root"),
        *("tbf", "rate", f"{rate_bps * _TUN_SHARE:.0f}bit", "burst", str(burst_bytes), "limit", str(queue_bytes)),
    ]


def netem_command(namespace: str, rate_bps: float, *, latency_s: float, jitter_s: float, loss: float) -> list[str]:
    """Rate, delay, jitter and loss of what leaves a namespace by a veth device; also changes them."""
    queue_packets = int(rate_bps * (latency_s + jitter_s + 0.2) / 8 / 1514) + 20
    return [
        *("tc", "-n", namespace, "qdisc", "replace", "dev", DEVICE, "root", "netem"),
        *("rate", f"{rate_bps:.0f}bit", "delay", f"{latency_s * 1e6:.0f}us", f"{jitter_s * 1e6:.0f}us"),
        *("loss", f"{loss * 100:.4f}%", "limit", str(queue_packets)),
    ]


def run(*command: str) -> None:
    """Run a command of iproute2.

    Raises:
        RuntimeError: it failed, or took longer than 30 s; the message has what it said.
    """
    if said := _refusal(*command):
        raise RuntimeError(f"{' '.join(command)}: {said}")


def _refusal(*command: str) -> str | None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LONGEST_COMMAND_S)
    except subprocess.TimeoutExpired:
        return f"no end within {_LONGEST_COMMAND_S:g} s"
    return None if ended.returncode == 0 else ended.stderr.strip() or f"status {ended.returncode}"
