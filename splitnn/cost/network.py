"""Hosts and the links between them. The only place where text such as ``20Mbps`` is parsed. Knows no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

_RATE = {"bps": 1.0, "kbps": 1e3, "Mbps": 1e6, "Gbps": 1e9}
_TIME = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_SIZE = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_NUMBER = r"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)"


@dataclass(frozen=True, slots=True)
class Host:
    """A place where layers run. Its speed is in its profile; ``slowdown`` multiplies every time of it (load).

    What was observed takes the place of the profile: ``coding_slowdown`` multiplies encoding and decoding instead,
    ``stage_s`` and ``message_s`` (seconds at the present load) replace the profile's fields of these names.
    """

    name: str
    slowdown: float = 1.0
    coding_slowdown: float | None = None
    stage_s: float | None = None
    message_s: float | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.name):
            raise ValueError(f"a host's name has letters, digits, '.', '_', '-' only, not {self.name!r}")
        if not (math.isfinite(self.slowdown) and self.slowdown > 0):
            raise ValueError(f"host {self.name!r}: slowdown must be a finite number above 0, not {self.slowdown}")
        if not (self.coding_slowdown is None or (math.isfinite(self.coding_slowdown) and self.coding_slowdown > 0)):
            raise ValueError(f"host {self.name!r}: coding_slowdown must be above 0, not {self.coding_slowdown}")
        for seconds in (self.stage_s, self.message_s):
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"host {self.name!r}: stage_s and message_s must be 0 or more seconds, not {seconds}")


@dataclass(frozen=True, slots=True)
class Link:
    """A one-way network path between two hosts."""

    bandwidth_bps: float  # payload bits per second: what a large message sees
    latency_s: float = 0.0  # one way

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bandwidth_bps) and self.bandwidth_bps > 0):
            raise ValueError(f"a link's bandwidth must be a finite number above 0 bit/s, not {self.bandwidth_bps}")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise ValueError(f"a link's latency must be a finite number of seconds, 0 or more, not {self.latency_s}")

    def transfer_seconds(self, size_bytes: int) -> float:
        """Seconds until the last byte of one message arrives."""
        return self.latency_s + size_bytes * 8 / self.bandwidth_bps


@dataclass(frozen=True, slots=True)
class Topology:
    """A chain of hosts: the device first, then each next tier.

    ``up[i]`` leads from ``hosts[i]`` to ``hosts[i + 1]``, ``down[i]`` back.
    """

    hosts: tuple[Host, ...]
    up: tuple[Link, ...] = ()
    down: tuple[Link, ...] = ()

    def __post_init__(self) -> None:
        if len(self.hosts) < 1 or not len(self.up) == len(self.down) == len(self.hosts) - 1:
            raise ValueError(
                f"{len(self.hosts)} hosts need {max(0, len(self.hosts) - 1)} links each way, "
                f"not {len(self.up)} up and {len(self.down)} down"
            )
        names = [host.name for host in self.hosts]
        if len(set(names)) != len(names):
            raise ValueError(f"two hosts have one name: {names}")

    @classmethod
    def chain(cls, hosts: Sequence[str | Host], links: Sequence[str]) -> Topology:
        """Hosts by name, links as ``parse_link`` reads them: ``chain(["device", "cloud"], ["10Mbps/20ms"])``."""
        pairs = [parse_link(text) for text in links]
        return cls(
            tuple(host if isinstance(host, Host) else Host(host) for host in hosts),
            tuple(up for up, _ in pairs),
            tuple(down for _, down in pairs),
        )


def parse_link(text: str) -> tuple[Link, Link]:
    """``rate/round trip`` or ``up:down/round trip`` as the two directions: ``10Mbps/20ms``, ``2Mbps:20Mbps/40ms``.

    The round trip may be left out (0). Half of it is the latency of each direction.

    Raises:
        ValueError: the text is no link.
    """
    plain = re.sub(r"bit/s", "bps", text.strip(), flags=re.IGNORECASE)
    rates, slash, round_trip = plain.partition("/")
    up, colon, down = rates.partition(":")
    latency_s = parse_seconds(round_trip) / 2 if slash else 0.0
    return Link(parse_rate(up), latency_s), Link(parse_rate(down if colon else up), latency_s)


def parse_rate(text: str) -> float:
    """``20Mbps``, ``20Mbit``, ``1.5 Mbit/s`` in bits per second.

    Raises:
        ValueError: the text is no rate, or the rate is not above 0.
    """
    if re.search(r"B(ps|/s)", text):
        raise ValueError(f"{text!r} is in bytes; write bits, such as 20Mbps")
    plain = text.strip().lower().replace("bit/s", "bps").replace("bits", "bps").replace("bit", "bps")
    match = re.fullmatch(_NUMBER + r"\s*([a-z]+)", plain)
    factors = {unit.lower(): factor for unit, factor in _RATE.items()}
    if not match or match[2] not in factors:
        raise ValueError(f"{text!r} is no rate; write a number and bps, kbps, Mbps or Gbps, such as 20Mbps")
    rate = float(match[1]) * factors[match[2]]
    if not (math.isfinite(rate) and rate > 0):
        raise ValueError(f"{text!r} is no usable rate: it must be finite and above 0")
    return rate


def parse_seconds(text: str) -> float:
    """``20ms``, ``1.5s``, ``300us`` in seconds.

    Raises:
        ValueError: the text is no time.
    """
    match = re.fullmatch(_NUMBER + r"\s*([a-z]+)", text.strip().lower())
    if not match or match[2] not in _TIME:
        raise ValueError(f"{text!r} is no time; write a number and us, ms or s, such as 20ms")
    seconds = float(match[1]) * _TIME[match[2]]
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is no usable time: it must be finite")
    return seconds


def parse_bytes(text: str) -> int:
    """``512MB``, ``1.5GiB``, ``2000`` in bytes; MB is 10**6 of them, MiB 2**20.

    Raises:
        ValueError: the text is no size.
    """
    match = re.fullmatch(_NUMBER + r"\s*([a-z]*)", text.strip().lower())
    if not match or match[2] not in _SIZE:
        raise ValueError(f"{text!r} is no size; write a number and KB, MB, GB or KiB, MiB, GiB, such as 512MB")
    size = float(match[1]) * _SIZE[match[2]]
    if not math.isfinite(size):
        raise ValueError(f"{text!r} is no usable size: it must be finite")
    return int(size)


def format_rate(bits_per_second: float) -> str:
    """The rate as ``parse_rate`` reads it, to three digits: ``"12.5Mbps"``."""
    for unit, factor in _RATE.items():
        digits = f"{bits_per_second / factor:.3g}"
        if float(digits) < 1000:
            return digits + unit
    gigabits = bits_per_second / 1e9
    return f"{gigabits:.0f}Gbps" if gigabits < 1e6 else f"{gigabits:.3g}Gbps"
