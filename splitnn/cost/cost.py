"""What a request costs, as values: the sums that ``estimate`` makes, and what they are made of. Knows no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

_FOREVER_S = 1e15


def nanoseconds(seconds: float) -> int:
    """Whole nanoseconds, the unit in which costs are added; everything beyond 30 million years is that long."""
    return round(seconds * 1e9) if seconds < _FOREVER_S else round(_FOREVER_S * 1e9)


class Transfer(NamedTuple):
    """One tensor over one hop, with its codec. ``hop`` i leads from host i to host i + 1.

    A tuple, because a table holds thousands and is made anew whenever the link moves.
    """

    tensor: str
    hop: int
    codec: str
    size_bytes: int
    encode_s: float
    wire_s: float  # without the link's latency, which is paid once a hop
    decode_s: float

    @property
    def total_ns(self) -> int:
        """Nanoseconds for encoding, wire and decoding."""
        _, _, _, _, encode_s, wire_s, decode_s = self
        return nanoseconds(encode_s + wire_s + decode_s)


class Download(NamedTuple):
    """One result on its way back over one hop."""

    tensor: str
    hop: int
    size_bytes: int
    wire_s: float


Resource = tuple[Literal["host", "up", "down"], int]
"""What a stream of requests keeps busy: a host, or one direction of a hop, by its index in the topology."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one request costs under a placement; hosts and hops are indexed as in the topology."""

    latency_ns: int
    compute_s: tuple[float, ...]  # a host
    transfers: tuple[Transfer, ...]
    download_s: float  # the results' way back to the device
    round_trip_s: float  # latencies of the hops that are used
    downloads: tuple[Download, ...] = ()
    used_hops: int = 0  # beyond how many hops some layer runs, whether or not anything crosses them
    handling_s: tuple[float, ...] = ()  # a host: what its stage and messages cost however large they are

    @property
    def latency_s(self) -> float:
        """Seconds from the input on the device to the output on the device."""
        return self.latency_ns * 1e-9

    @property
    def transfer_s(self) -> float:
        """Seconds that are neither head nor tail: encoding, wire, decoding, round trips, download and handling."""
        return (self.latency_ns - sum(nanoseconds(each) for each in self.compute_s)) * 1e-9  # in floats 0 is 3e-18

    @property
    def sent_bytes(self) -> int:
        """Bytes that leave hosts upwards, each hop counted."""
        return sum(transfer.size_bytes for transfer in self.transfers)

    @property
    def traffic_bytes(self) -> int:
        """Bytes over all hops, up and down."""
        return self.sent_bytes + sum(download.size_bytes for download in self.downloads)

    @property
    def loads_s(self) -> dict[Resource, float]:
        """Seconds for which one request keeps each resource busy; hosts code and handle what they send and receive."""
        loads: dict[Resource, float] = {("host", tier): seconds for tier, seconds in enumerate(self.compute_s)}
        for tier, seconds in enumerate(self.handling_s):
            loads["host", tier] += seconds
        for transfer in self.transfers:
            loads["host", transfer.hop] += transfer.encode_s
            loads["host", transfer.hop + 1] += transfer.decode_s
            loads["up", transfer.hop] = loads.get(("up", transfer.hop), 0.0) + transfer.wire_s
        for download in self.downloads:
            loads["down", download.hop] = loads.get(("down", download.hop), 0.0) + download.wire_s
        return loads

    @property
    def bottleneck(self) -> Resource:
        """The resource that is busy for longest."""
        loads = self.loads_s
        return max(loads, key=lambda resource: loads[resource])

    @property
    def throughput_rps(self) -> float:
        """Requests a second when many are on their way at once: the bottleneck's rate, infinite when nothing costs."""
        longest_s = max(self.loads_s.values(), default=0.0)
        return 1 / longest_s if longest_s > 0 else math.inf
