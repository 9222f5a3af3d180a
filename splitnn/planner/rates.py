"""The planning problem as a function of the first hop's bandwidth, in exact arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from splitnn.cost.cost import Transfer, nanoseconds
from splitnn.cost.estimate import Codecs, CostTable, check_profiles, codec_options, tabulate
from splitnn.cost.expected import Shares
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph
from splitnn.planner.constraints import NO_CONSTRAINTS, Constraints
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.search import cheapest
from splitnn.planner.terms import Terms, terms_of

_NS = 10**9


@dataclass(frozen=True, slots=True)
class Line:
    """One placement with its codecs: it takes ``fixed_ns + slope * x`` nanoseconds at x seconds a bit."""

    fixed_ns: int
    slope: Fraction
    tiers: tuple[int, ...]
    choices: tuple[Transfer, ...]  # what crosses the first hop
    uses_hop: bool  # whether any layer lies beyond the first hop

    @property
    def slope_ns(self) -> float:
        """Bits times nanoseconds a second."""
        return float(self.slope)

    def at(self, x: Fraction) -> Fraction:
        """Nanoseconds at x seconds a bit."""
        return self.fixed_ns + self.slope * x

    def is_same(self, other: Line) -> bool:
        """Whether both cost the same at every bandwidth."""
        return (self.fixed_ns, self.slope) == (other.fixed_ns, other.slope)

    def meets(self, other: Line) -> Fraction:
        """Where two lines of different slopes cross."""
        return (other.fixed_ns - self.fixed_ns) / (self.slope - other.slope)


class RateProblem:
    """All placements of one model, priced at any bandwidth of the first hop, whose round trip is left out.

    ``down_per_up`` is how many times longer a bit takes down than up; with ``None`` the way down does not change. With
    ``shares`` every term is the mean over the samples that pay it, and layers that no exit needs are left out.
    """

    def __init__(
        self,
        graph: Graph,
        profiles: Mapping[str, Profile],
        topology: Topology,
        *,
        codecs: Codecs,
        mode: Mode,
        pins: Mapping[str, str],
        down_per_up: Fraction | None,
        constraints: Constraints = NO_CONSTRAINTS,
        shares: Shares | None = None,
    ) -> None:
        self._whole = graph
        self._graph = graph if shares is None else shares.graph
        self._shares = shares
        self._samples = 1 if shares is None else shares.samples
        self._model = check_profiles(graph, profiles, topology)
        self._hosts = [host.name for host in topology.hosts]
        self._table = tabulate(graph, profiles, topology, codecs=codecs)
        self._mode: Mode = mode
        self._down_per_up = down_per_up or Fraction(0)
        table = self._table if shares is None else shares.table(self._table)
        fixed = replace(table, round_trip_ns=(0, *table.round_trip_ns[1:]))
        self._download_bits = [0] * len(self._graph)  # of each layer: its results' bits, of all samples, that vary
        if down_per_up is not None:
            fixed = replace(fixed, download_ns={t: (0, *costs[1:]) for t, costs in fixed.download_ns.items()})
            for tensor in fixed.download_ns:
                bits = graph.tensors[tensor].size_bytes * 8 * (1 if shares is None else shares.answers[tensor])
                self._download_bits[self._graph.index[graph.producer[tensor]]] += bits
        self._ranges = replace(constraints, pins={**constraints.pins, **pins}).tier_ranges(graph, self._hosts)
        ranges = self._ranges if shares is None else self._ranges.of_part(graph, self._graph)
        self._terms = terms_of(self._graph, fixed, ranges)
        options = codec_options(self._graph, 0, profiles=profiles, topology=topology, codecs=codecs)
        self._options = [_undominated(ways, shares) for ways in options.values()]

    @property
    def allows_local(self) -> bool:
        """Whether the pins let the device run everything."""
        return not any(self._terms.tiers.lowest)

    def local(self) -> Line:
        """The device alone."""
        return Line(self._terms.on_device, Fraction(0), (0,) * len(self._graph), (), uses_hop=False)

    def solve(self, x: Fraction) -> Line:
        """The best placement and codecs at x seconds a bit."""
        # Times x's denominator, the ratio's and the samples, everything is an integer again.
        ratio = self._down_per_up
        scale = x.denominator * ratio.denominator * self._samples
        per_bit = x.numerator * ratio.denominator * _NS
        per_bit_down = x.numerator * ratio.numerator * _NS
        priced = [
            min([(fixed_ns * scale + bits * per_bit, i) for i, (fixed_ns, bits, _) in enumerate(options)])
            for options in self._options
        ]
        best = cheapest(self._scaled(scale, per_bit_down, [cost for cost, _ in priced]))
        line = self._line(best.tiers, [choice for _, choice in priced])
        if line.at(x) * scale != best.latency_ns:
            raise RuntimeError(f"defect of the planner: the cut and its line differ at {x} s a bit")
        return line

    def expected_ns(self, hop_ns: int) -> int:
        """The mean over all samples of what each that crosses the first hop pays."""
        return hop_ns if self._shares is None else self._shares.expected(hop_ns, self._shares.hops[0])

    def again(self, line: Line) -> Line:
        """A line of a problem that differs in its shares only: the same placement and codecs at the prices of here."""
        chosen = {transfer.tensor: transfer for transfer in line.choices}
        choices = []
        for options in self._options:
            names = [transfer.codec for _, _, transfer in options]
            sent = chosen.get(options[0][2].tensor)
            choices.append(names.index(sent.codec) if sent is not None else 0)
        return self._line(line.tiers, choices)

    def plan(self, line: Line, *, bandwidth_bps: float, round_trip_s: float) -> Plan:
        """The line's plan, priced as ``estimate`` does it, or ``expected_cost``."""
        table = self._table_at(line, bandwidth_bps, round_trip_s)
        tiers = line.tiers
        if self._shares is not None:
            tiers = self._ranges.filled(self._whole, dict(zip(self._graph.index, line.tiers, strict=True)))
        return Plan.priced(
            self._whole,
            tiers,
            table=table,
            model=self._model,
            hosts=self._hosts,
            mode=self._mode,
            shares=self._shares,
        )

    def _scaled(self, scale: int, per_bit_down: int, carry: Sequence[int]) -> Terms:
        terms = self._terms
        first = [
            cost * scale + bits * per_bit_down for cost, bits in zip(terms.move[0], self._download_bits, strict=True)
        ]
        return replace(
            terms,
            on_device=terms.on_device * scale,
            first_stage=terms.first_stage * scale,
            move=[first, *([cost * scale for cost in row] for row in terms.move[1:])],
            carry=[carry, *([cost * scale for cost in row] for row in terms.carry[1:])],
            round_trip=[cost * scale for cost in terms.round_trip],
        )

    def _line(self, tiers: tuple[int, ...], choices: Sequence[int]) -> Line:
        terms = self._terms
        fixed_ns = terms.on_device + sum(terms.round_trip[: max(tiers, default=0)])
        fixed_ns -= 0 if 0 in tiers else terms.first_stage
        bits, download_bits = 0, 0
        crossing = []
        for hop, row in enumerate(terms.move):
            fixed_ns += sum([row[layer] for layer, tier in enumerate(tiers) if tier > hop])
        download_bits += sum([self._download_bits[layer] for layer, tier in enumerate(tiers) if tier])
        for number, wire in enumerate(terms.layout.wires):
            source = tiers[wire.producer] if wire.producer >= 0 else 0
            last = tiers[wire.readers[0]] if len(wire.readers) == 1 else max([tiers[reader] for reader in wire.readers])
            if source == last:
                continue
            if source == 0 < last:
                option_ns, option_bits, transfer = self._options[number][choices[number]]
                fixed_ns += option_ns
                bits += option_bits
                crossing.append(transfer)
            fixed_ns += sum([row[number] for row in terms.carry[max(1, source) : last]])
        slope = (bits + download_bits * self._down_per_up) * _NS / Fraction(self._samples)
        return Line(fixed_ns, slope, tiers, tuple(crossing), uses_hop=any(tiers))

    def _table_at(self, line: Line, bandwidth_bps: float, round_trip_s: float) -> CostTable:
        """The costs at that bandwidth, with the line's codecs."""
        table = self._table
        transfers = dict(table.transfers)
        for choice in line.choices:
            sent = choice._replace(wire_s=choice.size_bytes * 8 / bandwidth_bps)
            transfers[choice.tensor] = (sent, *transfers[choice.tensor][1:])
        download = table.download_ns
        if self._down_per_up:
            seconds_per_bit = float(self._down_per_up) / bandwidth_bps
            download = {
                tensor: (nanoseconds(self._whole.tensors[tensor].size_bytes * 8 * seconds_per_bit), *costs[1:])
                for tensor, costs in download.items()
            }
        return replace(
            table,
            transfers=transfers,
            download_ns=download,
            round_trip_ns=(nanoseconds(round_trip_s), *table.round_trip_ns[1:]),
        )


def _undominated(options: Sequence[Transfer], shares: Shares | None) -> list[tuple[int, int, Transfer]]:
    """Codecs as (nanoseconds, bits of all samples, transfer), the fewest bits first, without those never quickest."""
    kept: list[Transfer] = []
    for option in sorted(options, key=lambda o: (o.size_bytes, o.encode_s + o.decode_s, o.codec != "raw", o.codec)):
        if not kept or _coding_ns(option) < _coding_ns(kept[-1]):
            kept.append(option)
    if shares is None:
        return [(_coding_ns(option), option.size_bytes * 8, option) for option in kept]
    return [(_coding_ns(shares.transfer(o)), o.size_bytes * 8 * shares.hops[0], o) for o in kept]


def _coding_ns(option: Transfer) -> int:
    return nanoseconds(option.encode_s + option.decode_s)
