"""What an emulated link does to traffic, and what every way of emulating one offers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, Protocol

from splitnn.cost.network import parse_link

Side = Literal["device", "server"]
Method = Literal["netem", "tbf+relay", "proxy"]
METHODS: tuple[Method, ...] = ("netem", "tbf+relay", "proxy")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a link does to traffic. Rates count Ethernet frames: a large TCP transfer sees 1448/1514 of them."""

    up_bps: float  # from the device to the server
    down_bps: float
    rtt_s: float = 0.0  # half of it each way
    jitter_s: float = 0.0  # each packet's latency varies evenly by +- this much
    loss: float = 0.0  # share of packets, each way

    def __post_init__(self) -> None:
        if not all(math.isfinite(rate) and rate > 0 for rate in (self.up_bps, self.down_bps)):
            raise ValueError(f"rates must be finite and above 0 bit/s, not {self.up_bps} and {self.down_bps}")
        if not (math.isfinite(self.rtt_s) and self.rtt_s >= 0):
            raise ValueError(f"a round trip must be finite and at least 0 s, not {self.rtt_s}")
        if not 0 <= self.jitter_s <= self.rtt_s / 2:
            raise ValueError(f"jitter ({self.jitter_s} s) must lie between 0 and half the round trip ({self.rtt_s} s)")
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss is a share from 0 to below 1, not {self.loss}; use block() for an outage")
        for field in dataclasses.fields(self):  # whole numbers are welcome; whoever is told of a shape gets floats
            object.__setattr__(self, field.name, float(getattr(self, field.name)))

    def __str__(self) -> str:
        rest = f" jitter {self.jitter_s * 1e3:g} ms" * bool(self.jitter_s) + f" loss {self.loss:.2%}" * bool(self.loss)
        rates = dict.fromkeys((self.up_bps, self.down_bps))
        return f"{':'.join(map(_exact, rates))}/{self.rtt_s * 1e3:g}ms{rest}"


def shape_of(text: str) -> Shape:
    """A link as text: ``10Mbps/20ms``, ``2Mbps:20Mbps/40ms``. Its rates count Ethernet frames.

    Raises:
        ValueError: the text is no link.
    """
    up, down = parse_link(text)
    return Shape(up.bandwidth_bps, down.bandwidth_bps, rtt_s=up.latency_s + down.latency_s)


class EmulatedLink(Protocol):
    """A link that exists. All changes hold at once, for connections that exist too."""

    method: Method
    cannot: str  # what this method does not do, in words for a report
    server_host: str  # what a server must listen on

    @property
    def shape(self) -> Shape: ...

    @property
    def is_blocked(self) -> bool: ...

    def namespace(self, side: Side) -> str | None:
        """Where processes of a side belong; None means where we are."""

    def address_of(self, port: int) -> str:
        """``host:port`` under which the device's side reaches the server's side's port."""

    def release(self, port: int) -> None:
        """Nobody needs this address any longer; what carried it may end."""

    def set(self, **changes: float) -> None:
        """Change fields of the shape by name, such as ``up_bps=2e6``; what is not named stays, all of it on failure."""

    def block(self) -> None:
        """An outage: nothing passes either way, and nobody is told."""

    def heal(self) -> None:
        """End of the outage."""


def _exact(rate_bps: float) -> str:
    """``18.88Mbps``: every digit that was given, since links that differ must not look alike."""
    for unit, bps in (("Gbps", 1e9), ("Mbps", 1e6), ("kbps", 1e3)):
        if rate_bps >= bps:
            return f"{rate_bps / bps:.12g}{unit}"
    return f"{rate_bps:.12g}bps"
