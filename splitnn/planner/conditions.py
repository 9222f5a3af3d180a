"""What a placement costs as a linear function of everything that can change: load, bandwidths, round trips.

Under given conditions a request takes the product of two vectors: the conditions (how many times slower each host is
than it was measured, seconds a bit up and down each hop, each hop's round trip), and what the placement uses of each.
So thresholds between plans follow from linear equations, and are exact: rational numbers, no search.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from splitnn.cost.cost import Transfer
from splitnn.cost.network import Link, Topology

NS = 10**9


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what a plan is priced."""

    slowdown: tuple[Fraction, ...]  # host: times slower than the topology says; 1 as it says
    up: tuple[Fraction, ...]  # hop: seconds a bit
    down: tuple[Fraction, ...]  # hop: seconds a bit
    round_trip_s: tuple[Fraction, ...]  # hop

    @classmethod
    def of(cls, topology: Topology) -> Conditions:
        """What the topology says, exactly."""
        round_trips = [Fraction(up.latency_s) + Fraction(down.latency_s) for up, down in _links(topology)]
        return cls(
            slowdown=(Fraction(1),) * len(topology.hosts),
            up=tuple(1 / Fraction(up.bandwidth_bps) for up, _ in _links(topology)),
            down=tuple(1 / Fraction(down.bandwidth_bps) for _, down in _links(topology)),
            round_trip_s=tuple(round_trips),
        )

    @property
    def vector(self) -> tuple[Fraction, ...]:
        """All numbers in the order of the fields."""
        return (*self.slowdown, *self.up, *self.down, *self.round_trip_s)


@dataclass(frozen=True, slots=True)
class Form:
    """One placement with its codecs, and what it uses of each condition."""

    tiers: tuple[int, ...]
    transfers: tuple[Transfer, ...]  # by hop, then in graph order; seconds at the topology's own load and bandwidth
    compute_ns: tuple[int, ...]  # host: its layers, at slowdown 1
    handling_ns: tuple[int, ...]  # host: its stage and messages, likewise
    download_bits: tuple[int, ...]  # hop
    weights: tuple[int, ...] = field(repr=False)  # nanoseconds a unit of ``Conditions.vector``
    aims: tuple[Fraction, ...] = field(repr=False)  # likewise, billionths of the objective's unit
    constant: Fraction = field(repr=False)  # and what does not depend on the conditions

    def at(self, conditions: Conditions) -> Fraction:
        """Nanoseconds of one request."""
        return dot(self.weights, conditions.vector)

    def worth(self, conditions: Conditions) -> Fraction:
        """Billionths of the objective's unit: nanoseconds when that is latency."""
        return self.constant + dot(self.aims, conditions.vector)

    @property
    def traffic_bytes(self) -> int:
        """Bytes over all hops, both ways."""
        return (sum(self.up_bits) + sum(self.download_bits)) // 8

    @property
    def up_bits(self) -> tuple[int, ...]:
        """Of each hop the bits that go up."""
        hops = len(self.download_bits)
        start = len(self.compute_ns)
        return tuple(weight // NS for weight in self.weights[start : start + hops])


def dot(weights: Iterable[int | Fraction], vector: Iterable[Fraction]) -> Fraction:
    """The sum of the products, exactly."""
    return sum((value * weight for weight, value in zip(weights, vector, strict=True) if weight), Fraction(0))


def _links(topology: Topology) -> Iterable[tuple[Link, Link]]:
    return zip(topology.up, topology.down, strict=True)
