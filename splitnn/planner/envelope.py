"""The best plan for every bandwidth at once; deciding at run time is then a look-up.

The latency of one placement with one choice of codecs is a line over x = 1/bandwidth, ``fixed + bits * x``. The best
latency over all of them is the lower envelope of these lines, concave and piecewise linear. Its K pieces follow exactly
from about 2K minimum cuts (``parametric.py``). Bandwidths are rational numbers throughout, so that no breakpoint is
approximate.

The first hop's round trip is left out of the lines: every plan that uses the hop pays it, so at run time the best of
those is weighed against the device alone, whatever the round trip has become.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, get_args

from splitnn.cost.cost import nanoseconds
from splitnn.cost.estimate import Codecs
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph
from splitnn.planner.constraints import NO_CONSTRAINTS, Constraints
from splitnn.planner.parametric import lowest_lines
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.rates import Line, RateProblem

Varying = Literal["up", "both"]
"""What changes with the bandwidth: the way up only, or the way down in proportion to it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A plan, and the bandwidths of the way up between which no other plan is better."""

    low_bps: float
    high_bps: float
    plan: Plan
    line: Line  # its latency without the first hop's round trip

    def latency_s(self, bandwidth_bps: float, *, round_trip_s: float = 0.0) -> float:
        """Seconds that a request takes at that bandwidth of, and round trip over, the first hop."""
        return self.latency_ns(bandwidth_bps, nanoseconds(round_trip_s)) * 1e-9

    def latency_ns(self, bandwidth_bps: float, round_trip_ns: int) -> float:
        """The same in nanoseconds, in which equal plans compare equal."""
        line = self.line
        return line.fixed_ns + line.slope_ns / bandwidth_bps + (round_trip_ns if line.uses_hop else 0)

    def to_json(self, *, round_trip_s: float = 0.0) -> dict[str, Any]:
        """A JSON object: the plan, its limits, and the seconds that it takes at both; the plan's own cost is left out.

        ``Plan.from_json`` would want the cost, but that belongs to one bandwidth: ask ``Envelope.predict`` for one.
        """
        plan = self.plan.to_json()
        del plan["predicted"]
        ends = (self.low_bps, self.high_bps)
        return {
            "low_bps": self.low_bps,
            "high_bps": self.high_bps,
            "latency_s": [self.latency_s(bandwidth_bps, round_trip_s=round_trip_s) for bandwidth_bps in ends],
            "plan": plan,
        }


class Envelope:
    """The best plan for every bandwidth of the first hop and every round trip over it; ``compute_envelope`` makes one.

    ``at`` returns the same ``Plan`` object wherever the decision is the same. Outside the range that the envelope was
    made for, it keeps the outermost plans.
    """

    def __init__(
        self, problem: RateProblem, found: Sequence[tuple[Line, float, float]], *, round_trip_s: float
    ) -> None:
        """Each line with the bandwidths between which it is the lowest, ascending; the round trip is the usual one."""
        self.round_trip_s = round_trip_s
        self.low_bps, self.high_bps = found[0][1], found[-1][2]
        self._problem = problem
        self._local = self._piece(problem.local(), self.low_bps, self.high_bps) if problem.allows_local else None
        self._pieces = [
            self._piece(line, low, high)
            if self._local is None or line.uses_hop
            else replace(self._local, low_bps=low, high_bps=high)
            for line, low, high in found
        ]
        self._limits = [piece.high_bps for piece in self._pieces[:-1]]

    def at(self, bandwidth_bps: float, *, round_trip_s: float | None = None) -> Plan:
        """The best plan at that bandwidth and round trip (the usual one unless given), by look-up.

        Its predicted cost is that of the middle of its piece; ``predict`` has the cost right here.

        Raises:
            ValueError: a bandwidth that is not above 0, or a round trip below 0.
        """
        return self._choose(bandwidth_bps, self._usual(round_trip_s)).plan

    def latency_s(self, bandwidth_bps: float, *, round_trip_s: float | None = None) -> float:
        """Seconds that a request takes with the best plan at that bandwidth and round trip."""
        round_trip_s = self._usual(round_trip_s)
        return self._choose(bandwidth_bps, round_trip_s).latency_s(bandwidth_bps, round_trip_s=round_trip_s)

    def predict(self, bandwidth_bps: float, *, round_trip_s: float | None = None) -> Plan:
        """``at``, with the cost at exactly that bandwidth and round trip; takes as long as an estimate."""
        round_trip_s = self._usual(round_trip_s)
        line = self._choose(bandwidth_bps, round_trip_s).line
        return self._problem.plan(line, bandwidth_bps=bandwidth_bps, round_trip_s=round_trip_s)

    def pieces(self, *, round_trip_s: float | None = None) -> tuple[Piece, ...]:
        """Every plan that is ever best at that round trip, by ascending bandwidth, without gaps."""
        if self._local is None:
            return tuple(self._pieces)
        round_trip_ns = nanoseconds(self._usual(round_trip_s))
        for number, piece in enumerate(self._pieces):  # the first one that still pays is cut short, later ones are not
            gain_ns = self._local.line.fixed_ns - piece.line.fixed_ns - round_trip_ns
            if not piece.line.uses_hop or gain_ns <= 0 or piece.line.slope >= gain_ns * Fraction(piece.high_bps):
                continue
            pays_from = max(piece.low_bps, float(piece.line.slope / gain_ns))
            remote = (replace(piece, low_bps=pays_from), *self._pieces[number + 1 :])
            return remote if pays_from == self.low_bps else (replace(self._local, high_bps=pays_from), *remote)
        return (self._local,)

    def to_json(self, *, round_trip_s: float | None = None) -> dict[str, Any]:
        """A JSON object: every plan that is ever best at that round trip, with the bandwidths where it changes."""
        round_trip_s = self._usual(round_trip_s)
        return {
            "format": "splitnn-envelope-1",
            "round_trip_s": round_trip_s,
            "low_bps": self.low_bps,
            "high_bps": self.high_bps,
            "pieces": [piece.to_json(round_trip_s=round_trip_s) for piece in self.pieces(round_trip_s=round_trip_s)],
        }

    def _choose(self, bandwidth_bps: float, round_trip_s: float) -> Piece:
        if not bandwidth_bps > 0:
            raise ValueError(f"a bandwidth must be above 0 bit/s, not {bandwidth_bps}")
        piece = self._pieces[bisect_left(self._limits, bandwidth_bps)]
        if (
            self._local is not None
            and piece.line.uses_hop
            and piece.latency_ns(bandwidth_bps, nanoseconds(round_trip_s)) >= self._local.line.fixed_ns
        ):
            return self._local
        return piece

    def _usual(self, round_trip_s: float | None) -> float:
        if round_trip_s is None:
            return self.round_trip_s
        if not round_trip_s >= 0:
            raise ValueError(f"a round trip must be 0 seconds or more, not {round_trip_s}")
        return round_trip_s

    def _piece(self, line: Line, low_bps: float, high_bps: float) -> Piece:
        middle = math.sqrt(low_bps) * math.sqrt(high_bps)
        plan = self._problem.plan(line, bandwidth_bps=middle, round_trip_s=self.round_trip_s)
        return Piece(low_bps, high_bps, plan, line)


def compute_envelope(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    pins: Mapping[str, str] | None = None,
    constraints: Constraints = NO_CONSTRAINTS,
    low_bps: float = 1e4,
    high_bps: float = 1e10,
    varying: Varying = "up",
) -> Envelope:
    """The best plans for all bandwidths of the first hop from ``low_bps`` to ``high_bps``; the other hops stay.

    With ``varying="both"`` the way down keeps its ratio to the way up, else its rate.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: the pins contradict each other.
        ValueError: a topology without a link, a range that is none, a pin of an unknown layer or host, or a constraint
            that is more than where layers run: ``Sensitivity`` of a ``FormProblem`` has envelopes within budgets.
    """
    if not topology.up:
        raise ValueError("an envelope needs a link: the topology has one host")
    if varying not in get_args(Varying):
        raise ValueError(f"the rates that vary are {' or '.join(get_args(Varying))}, not {varying!r}")
    if not 0 < low_bps < high_bps < math.inf:
        raise ValueError(f"an envelope's bandwidths go from above 0 to something finite, not {low_bps} to {high_bps}")
    hosts = [host.name for host in topology.hosts]
    if budgets := constraints.unbounded():
        raise ValueError(f"this envelope knows no budgets, but {next(iter(budgets))} is limited")
    if constraints.barred(graph, hosts):
        raise ValueError("an operator is forbidden between hosts that may run it: plan for a single bandwidth")
    up, down = topology.up[0], topology.down[0]
    ratio = Fraction(up.bandwidth_bps) / Fraction(down.bandwidth_bps) if varying == "both" else None
    problem = RateProblem(
        graph,
        profiles,
        topology,
        codecs=codecs,
        mode=mode,
        pins=pins or {},
        down_per_up=ratio,
        constraints=constraints,
    )
    fastest, slowest = 1 / Fraction(high_bps), 1 / Fraction(low_bps)
    spans = lowest_lines(problem.solve, fastest, slowest)
    found = [(line, float(1 / far), float(1 / near)) for line, near, far in spans]
    return Envelope(problem, found[::-1], round_trip_s=up.latency_s + down.latency_s)
