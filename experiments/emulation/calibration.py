"""Does a link do what it says? Known transfers, pings, datagrams and an outage, through the link, before a run."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.emulation.hosts import Host
from experiments.emulation.namespaces import DEVICE_HOST
from experiments.emulation.shape import EmulatedLink, Shape
from experiments.emulation.virtual_clock import PAYLOAD_SHARE

_TOLERANCE = 0.03
_PINGS = 15
_PING_BYTES, _ANSWER_BYTES = 24 + 66, 8 + 66  # of an application's ping, headers included
_PING_SLACK_S = 0.003  # what both processes and the link's own method may add: the proxy 1 to 2 ms
_LEAST_BYTES = 48 * 1448
_LEAST_WINDOW_BYTES = 8 * 1448  # the shortest queue of a link holds 20 frames

_JITTER_TOLERANCE, _JITTER_SLACK_S = 0.15, 0.0005
_JITTER_PROBES = 300  # make the spread sure to 3 %
_LOSS_TOLERANCE, _LOSS_DEVIATIONS = 0.25, 4.0
_DATAGRAM_BITS = 8 * (8 + 28 + 14)
_MOST_OF_LINK = 0.3  # of its rate is what datagrams take
_LEAST_INTERVAL_S, _MOST_DATAGRAMS_S = 0.001, 20.0
_QUIET_S = 1.0
_PROJECT_ROOT = Path(__file__).resolve().parents[2]


class LinkOffTarget(RuntimeError):
    """The emulated link is not what it was set to: what is measured over it would be false."""


@dataclass(frozen=True, slots=True)
class Datagrams:
    """What became of datagrams that went one way."""

    sent: int
    received: int
    spread_s: float  # between the quickest and the slowest tenth

    @property
    def loss(self) -> float:
        return 1 - self.received / self.sent

    @property
    def jitter_s(self) -> float:
        """Of latencies that vary evenly by +- this much eight tenths lie within 1.6 times as much."""
        return self.spread_s / 1.6


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a link was measured to do. Rates in frames, as they are set, and the ping, without jitter and loss."""

    up_bps: float
    down_bps: float
    rtt_s: float  # median of an application's ping
    tries: int
    jitter: tuple[Datagrams, ...] = ()  # up and down, where jitter was asked for
    loss: tuple[Datagrams, ...] = ()
    is_silent_when_blocked: bool = True

    def __str__(self) -> str:
        text = f"measured {self.up_bps / 1e6:.4g} Mbit/s up, {self.down_bps / 1e6:.4g} down, {self.rtt_s * 1e3:.1f} ms"
        text += " round trip"
        if self.jitter:
            text += f", jitter {' and '.join(f'{way.jitter_s * 1e3:.1f}' for way in self.jitter)} ms"
        if self.loss:
            text += f", loss {' and '.join(f'{way.loss:.2%}' for way in self.loss)}"
        return text

    def faults(self, wanted: Shape) -> list[str]:
        """What is off: a rate by more than 3 %, or the ping by 3 % and what its frames and the processes take.

        Jitter by more than 15 % and 0.5 ms. Loss by more than a quarter of it, or where it is so small that four
        standard deviations of what could be counted are more, by those. And an outage that lets anything through.
        """
        rates = (("up", self.up_bps / wanted.up_bps - 1), ("down", self.down_bps / wanted.down_bps - 1))
        faults = [f"{way} {error:+.1%}" for way, error in rates if not abs(error) <= _TOLERANCE]
        frames_s = _PING_BYTES * 8 / wanted.up_bps + _ANSWER_BYTES * 8 / wanted.down_bps
        longest_s = (wanted.rtt_s + frames_s) * (1 + _TOLERANCE) + _PING_SLACK_S
        if not wanted.rtt_s * (1 - _TOLERANCE) <= self.rtt_s <= longest_s:
            faults.append(f"round trip {(self.rtt_s - wanted.rtt_s) * 1e3:+.1f} ms")
        for name, way in zip(("up", "down"), self.jitter, strict=False):
            error_s = way.jitter_s - wanted.jitter_s
            if not way.received or abs(error_s) > _JITTER_TOLERANCE * wanted.jitter_s + _JITTER_SLACK_S:
                faults.append(f"jitter {name} {error_s * 1e3:+.1f} ms")
        for name, way in zip(("up", "down"), self.loss, strict=False):
            if abs(way.loss - wanted.loss) > _loss_tolerance(wanted.loss, way.sent):
                faults.append(f"loss {name} {way.loss:.2%}")
        if not self.is_silent_when_blocked:
            faults.append("an outage lets traffic through")
        return faults


def calibrate(link: EmulatedLink, *, tries: int = 3) -> Calibration:
    """Measure for about 2 s of the link's time each way, and up to 20 s for jitter and for loss where it has them.

    Rates and ping are measured without jitter and loss. Several ``tries``, since another program that holds a core
    for a moment is not the link's fault.

    Raises:
        LinkOffTarget: none of the tries came within the tolerances of ``Calibration.faults``.
        RuntimeError: no traffic got through.
    """
    wanted = link.shape
    with (
        Host("probe-server", link=link, side="server") as server,
        Host("probe", link=link, side="device") as device,
        _serving(server, link) as address,
    ):
        for attempt in range(1, tries + 1):
            with _without_jitter_and_loss(link):
                measured = _measure(device, address, link, attempt)
                measured = replace(measured, is_silent_when_blocked=_is_silent(device, address, link))
            if wanted.jitter_s:
                measured = replace(measured, jitter=_both_ways(device, server, link, *_jitter_probes(wanted)))
            if wanted.loss:
                measured = replace(measured, loss=_both_ways(device, server, link, *_loss_probes(wanted)))
            if not (faults := measured.faults(wanted)):
                return measured
    raise LinkOffTarget(f"the link by {link.method}, set to {wanted}, is off: {', '.join(faults)}; {measured}")


@contextlib.contextmanager
def _without_jitter_and_loss(link: EmulatedLink) -> Iterator[None]:
    wanted = link.shape
    link.set(jitter_s=0.0, loss=0.0)
    try:
        yield
    finally:
        link.set(jitter_s=wanted.jitter_s, loss=wanted.loss)


def _measure(device: Host, address: str, link: EmulatedLink, tries: int) -> Calibration:
    transfers = [_transfer(rate_bps, link.shape.rtt_s) for rate_bps in (link.shape.up_bps, link.shape.down_bps)]
    command = _probe("measure", address, str(_PINGS), *transfers)
    measuring = device.start(command, cwd=_PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = measuring.communicate(timeout=180)
    if measuring.returncode != 0:
        raise RuntimeError(f"nothing got through the link: {errors.decode(errors='replace').strip()[-300:]}")
    seen = json.loads(output)
    up_bps, down_bps = (seen[f"{way}_payload_bps"] / PAYLOAD_SHARE for way in ("up", "down"))
    return Calibration(up_bps, down_bps, seen["rtt_s"], tries)


def _is_silent(device: Host, address: str, link: EmulatedLink) -> bool:
    """Whether a ping stays unanswered while the link is blocked. It must be answered when the link is healed.

    Raises:
        RuntimeError: it is not.
    """
    wait_s = 0.3 + 3 * link.shape.rtt_s
    command = _probe("outage", address, f"{wait_s}")
    asking = device.start(command, cwd=_PROJECT_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert asking.stdin is not None
    assert asking.stdout is not None
    with asking.stdin as told, asking.stdout as said:
        connected = said.readline()
        link.block()
        try:
            told.write(b"blocked\n")
            told.flush()
            answer = said.readline().strip()
        finally:
            link.heal()
        if answer == b"answered":
            return False
        told.write(b"healed\n")
        told.flush()
        if not connected or answer != b"silent" or said.readline().strip() != b"answered":
            raise RuntimeError("the link stayed silent after an outage")
    return True


def _both_ways(
    device: Host, server: Host, link: EmulatedLink, count: int, interval_s: float
) -> tuple[Datagrams, Datagrams]:
    """Up and down at once. Only links between namespaces have jitter and loss."""
    quiet_s = f"{_QUIET_S + link.shape.rtt_s + 2 * interval_s}"
    waiting = []
    for source, target, host in ((device, server, link.server_host), (server, device, DEVICE_HOST)):
        receiving = _start(target, _datagrams("receive", host, quiet_s))
        assert receiving.stdout is not None
        port = int(receiving.stdout.readline())
        waiting.append((receiving, source, f"{host}:{port}"))
    sending = [
        _start(source, _datagrams("send", address, str(count), f"{interval_s}")) for _, source, address in waiting
    ]
    found = []
    for (receiving, _, _), sent in zip(waiting, sending, strict=True):
        output, _ = receiving.communicate(timeout=_MOST_DATAGRAMS_S * 4 + 60)
        sent.communicate(timeout=60)
        seen = json.loads(output)
        found.append(Datagrams(count, seen["received"], seen["spread_s"]))
    return found[0], found[1]


def _jitter_probes(wanted: Shape) -> tuple[int, float]:
    """How many datagrams, and how far apart: none overtakes the one before it, or must wait for it."""
    interval_s = max(2.2 * wanted.jitter_s, _interval_s(wanted))
    return max(100, min(_JITTER_PROBES, int(_MOST_DATAGRAMS_S / interval_s))), interval_s


def _loss_probes(wanted: Shape) -> tuple[int, float]:
    """Enough that a quarter of the loss is four standard deviations, or as many as fit into 20 s."""
    enough = (_LOSS_DEVIATIONS / _LOSS_TOLERANCE) ** 2 * (1 - wanted.loss) / wanted.loss
    interval_s = _interval_s(wanted)
    return max(100, min(math.ceil(enough), int(_MOST_DATAGRAMS_S / interval_s))), interval_s


def _interval_s(wanted: Shape) -> float:
    return max(_LEAST_INTERVAL_S, _DATAGRAM_BITS / (_MOST_OF_LINK * min(wanted.up_bps, wanted.down_bps)))


def _loss_tolerance(loss: float, probes: int) -> float:
    return max(_LOSS_TOLERANCE * loss, _LOSS_DEVIATIONS * math.sqrt(loss * (1 - loss) / probes))


def _transfer(rate_bps: float, rtt_s: float) -> str:
    """``BYTES:WINDOW``: two seconds' worth and what slow start takes to fill the path, at most 100 ms of it queued."""
    transfer_bytes = max(_LEAST_BYTES, int(rate_bps * (2.0 + 10 * rtt_s) / 8))
    window_bytes = max(_LEAST_WINDOW_BYTES, int(rate_bps * (rtt_s + 0.1) / 8))
    return f"{transfer_bytes}:{window_bytes}"


@contextlib.contextmanager
def _serving(server: Host, link: EmulatedLink) -> Iterator[str]:
    """Where the device reaches a probe's server, as long as the context lasts."""
    port = _listening(server, _probe("serve", link.server_host))
    try:
        yield link.address_of(port)
    finally:
        link.release(port)


def _listening(host: Host, command: list[str]) -> int:
    """The port that a program prints first."""
    program = _start(host, command)
    assert program.stdout is not None
    with program.stdout as output:
        return int(output.readline())


def _start(host: Host, command: list[str]) -> subprocess.Popen[bytes]:
    return host.start(command, cwd=_PROJECT_ROOT, stdout=subprocess.PIPE)


def _probe(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments.emulation.link_probe", *arguments]


def _datagrams(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments.emulation.datagram_probe", *arguments]
