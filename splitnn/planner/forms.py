"""What a placement costs as a linear function of everything that can change: load, bandwidths, round trips.

Under given conditions a request takes the product of two vectors: the conditions (how many times slower each host is
than it was measured, seconds a bit up and down each hop, each hop's round trip), and what the placement uses of each.
So thresholds between plans follow from linear equations, and are exact: rational numbers, no search.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TypeVar

from splitnn.cost.estimate import Codecs, Transfer, check_profiles, codec_options, nanoseconds, tabulate
from splitnn.cost.network import Link, Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph
from splitnn.planner.chain import ChainCut, every_cut
from splitnn.planner.pins import tier_ranges
from splitnn.planner.search import cheapest
from splitnn.planner.terms import Terms, terms_of

_NS = 10**9

Number = TypeVar("Number", int, Fraction)


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
    download_bits: tuple[int, ...]  # hop
    weights: tuple[int, ...] = field(repr=False)  # nanoseconds a unit of ``Conditions.vector``

    def at(self, conditions: Conditions) -> Fraction:
        """Nanoseconds of one request."""
        return dot(self.weights, conditions.vector)

    @property
    def up_bits(self) -> tuple[int, ...]:
        """Of each hop the bits that go up."""
        hops = len(self.download_bits)
        start = len(self.compute_ns)
        return tuple(weight // _NS for weight in self.weights[start : start + hops])


def dot(weights: Iterable[int], vector: Iterable[Fraction]) -> Fraction:
    """The sum of the products, exactly."""
    return sum((value * weight for weight, value in zip(weights, vector, strict=True) if weight), Fraction(0))


class FormProblem:
    """All placements of one model, priced under any conditions.

    Layers and codecs cost whole nanoseconds at the topology's own load, so that there a form and ``estimate`` differ
    by the rounding of each transfer's wire time only: less than 2 ns a transfer or result.
    """

    def __init__(
        self,
        graph: Graph,
        profiles: Mapping[str, Profile],
        topology: Topology,
        *,
        codecs: Codecs = ("raw",),
        pins: Mapping[str, str] | None = None,
    ) -> None:
        """Raises ProfileMismatch, InfeasiblePlan and ValueError as ``splitnn.planner.min_cut.plan`` does."""
        self.graph = graph
        self.model = check_profiles(graph, profiles, topology)
        self.hosts = tuple(host.name for host in topology.hosts)
        self.now = Conditions.of(topology)
        table = tabulate(graph, profiles, topology, codecs=codecs)
        self._compute = [table.compute_ns[layer.name] for layer in graph.layers]  # layer, host
        self._terms = terms_of(graph, table, tier_ranges(graph, pins or {}, self.hosts))
        self._options = []  # hop, wire: the ways to carry it
        for hop in range(len(topology.up)):
            options = codec_options(graph, hop, profiles=profiles, topology=topology, codecs=codecs)
            self._options.append([_undominated(ways) for ways in options.values()])
        self._download_bits = [0] * len(graph)  # of each layer: its results
        for tensor in table.download_ns:
            self._download_bits[graph.index[graph.producer[tensor]]] += graph.tensors[tensor].size_bytes * 8

    @property
    def allows_local(self) -> bool:
        """Whether the pins let the first host run everything."""
        return not any(self._terms.tiers.lowest)

    def cuts(self) -> list[ChainCut]:
        """Under today's conditions, for each number of first layers that the first host may run, the best cut."""
        return every_cut(self._terms)

    def solve(self, conditions: Conditions) -> Form:
        """The best placement and codecs; of equals, the one that keeps the most layers on earlier hosts."""
        scale = math.lcm(*(value.denominator for value in conditions.vector))  # times it, everything is an integer
        best = cheapest(self._scaled(conditions, scale))
        form = self.priced(best.tiers, conditions)
        if form.at(conditions) * scale != best.latency_ns:
            raise RuntimeError(f"defect of the planner: the cut and its form differ at {conditions}")
        return form

    def priced(self, tiers: Sequence[int], conditions: Conditions) -> Form:
        """That placement with the codecs that are best under the conditions.

        ``tiers`` must let no data flow back.
        """
        hops = range(len(self._options))
        compute = [0] * len(self.hosts)
        download = [0 for _ in hops]
        for position, tier in enumerate(tiers):
            compute[tier] += self._compute[position][tier]
            for hop in range(tier):
                download[hop] += self._download_bits[position]
        busy_ns, up_bits = list(compute), [0 for _ in hops]
        crossing: list[list[Transfer]] = [[] for _ in hops]
        for number, wire in enumerate(self._terms.layout.wires):
            source = tiers[wire.producer] if wire.producer >= 0 else 0
            for hop in range(source, max([tiers[reader] for reader in wire.readers])):
                near, far = conditions.slowdown[hop : hop + 2]
                per_bit = conditions.up[hop] * _NS
                way = min(self._options[hop][number], key=lambda way: way.cost(near, far, per_bit))
                busy_ns[hop] += way.encode_ns
                busy_ns[hop + 1] += way.decode_ns
                up_bits[hop] += way.bits
                crossing[hop].append(way.transfer)
        used = [any(tier > hop for tier in tiers) for hop in hops]
        weights = (
            *busy_ns,
            *(bits * _NS for bits in up_bits),
            *(bits * _NS for bits in download),
            *(_NS if uses else 0 for uses in used),
        )
        sent = tuple(transfer for row in crossing for transfer in row)
        return Form(tuple(tiers), sent, tuple(compute), tuple(download), weights)

    def _scaled(self, conditions: Conditions, scale: int) -> Terms:
        """The integer problem whose costs are nanoseconds times ``scale``."""
        slowdown = [int(value * scale) for value in conditions.slowdown]
        up, down = ([int(value * scale) * _NS for value in way] for way in (conditions.up, conditions.down))
        times = [[ns * factor for ns, factor in zip(row, slowdown, strict=True)] for row in self._compute]
        return replace(
            self._terms,
            on_device=sum(row[0] for row in times),
            move=[
                [row[hop + 1] - row[hop] + bits * per_bit for row, bits in zip(times, self._download_bits, strict=True)]
                for hop, per_bit in enumerate(down)
            ],
            carry=[
                [min([way.cost(slowdown[hop], slowdown[hop + 1], per_bit) for way in ways]) for ways in row]
                for hop, (row, per_bit) in enumerate(zip(self._options, up, strict=True))
            ],
            round_trip=[int(value * scale) * _NS for value in conditions.round_trip_s],
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """One codec for one tensor over one hop."""

    encode_ns: int
    decode_ns: int
    bits: int
    transfer: Transfer

    def cost(self, near: Number, far: Number, per_bit: Number) -> Number:
        """Nanoseconds, given how many times slower both ends are, and the nanoseconds a bit."""
        return self.encode_ns * near + self.decode_ns * far + self.bits * per_bit


def _undominated(options: Sequence[Transfer]) -> list[_Way]:
    """The codecs that are the quickest under some conditions, raw before its equals."""
    kept: list[_Way] = []
    for option in sorted(options, key=lambda o: (o.size_bytes, o.encode_s + o.decode_s, o.codec != "raw", o.codec)):
        way = _Way(nanoseconds(option.encode_s), nanoseconds(option.decode_s), option.size_bytes * 8, option)
        if not any(other.encode_ns <= way.encode_ns and other.decode_ns <= way.decode_ns for other in kept):
            kept.append(way)  # none that is smaller is as quick at both ends
    return kept


def _links(topology: Topology) -> Iterable[tuple[Link, Link]]:
    return zip(topology.up, topology.down, strict=True)
