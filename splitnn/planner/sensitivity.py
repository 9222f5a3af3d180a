"""What would have to change for another plan to win, and by how much.

Along an axis one condition changes (a bandwidth, a round trip, a host's load) and everything else stays. Every plan is
a line there, so the best of all plans, and of one placement with whatever codecs suit it, are lower envelopes, and all
thresholds are where these meet: rational numbers, no search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from splitnn.planner.conditions import Conditions, Form, dot
from splitnn.planner.forms import FormProblem
from splitnn.planner.parametric import Span, line_at, lowest_lines

Kind = Literal["bandwidth", "round trip", "slowdown"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One condition that may change; ``now`` lies between ``low`` and ``high``.

    Its parameter is seconds a bit for a bandwidth, seconds for a round trip, a factor on today's times for a slowdown.
    """

    kind: Kind
    subject: str  # the host that slows down; the far host of the hop
    origin: Conditions  # where the parameter is 0
    direction: Conditions  # what one unit of it adds
    low: Fraction
    now: Fraction
    high: Fraction

    def conditions(self, value: Fraction) -> Conditions:
        """The conditions where the parameter has that value."""

        def moved(start: Sequence[Fraction], step: Sequence[Fraction]) -> tuple[Fraction, ...]:
            return tuple(a + value * b for a, b in zip(start, step, strict=True))

        start, step = self.origin, self.direction
        return Conditions(
            moved(start.slowdown, step.slowdown),
            moved(start.up, step.up),
            moved(start.down, step.down),
            moved(start.round_trip_s, step.round_trip_s),
        )

    def line(self, form: Form) -> AxisLine:
        """What the form costs along this axis."""
        fixed = form.constant + dot(form.aims, self.origin.vector)
        return AxisLine(fixed, dot(form.aims, self.direction.vector), form)

    def shown(self, value: Fraction) -> float:
        """The parameter as people say it: bit/s, seconds, or a factor."""
        return float(1 / value) if self.kind == "bandwidth" else float(value)


@dataclass(frozen=True, slots=True)
class AxisLine:
    """``fixed + slope * value`` along an axis, in billionths of the objective's unit: nanoseconds for latency."""

    fixed: Fraction
    slope: Fraction
    form: Form

    def at(self, x: Fraction) -> Fraction:
        """What it is worth where the parameter is x."""
        return self.fixed + self.slope * x

    def is_same(self, other: AxisLine) -> bool:
        """Whether both cost the same everywhere on the axis."""
        return (self.fixed, self.slope) == (other.fixed, other.slope)

    def meets(self, other: AxisLine) -> Fraction:
        """Where two lines of different slopes cross."""
        return (other.fixed - self.fixed) / (self.slope - other.slope)


def axes_of(
    problem: FormProblem,
    *,
    bandwidths_bps: tuple[float, float] = (1e3, 1e12),
    round_trips_s: tuple[float, float] = (0.0, 10.0),
    slowdowns: tuple[float, float] = (1e-3, 1e3),
) -> tuple[Axis, ...]:
    """Every bandwidth (the way down keeps its ratio to the way up), every round trip, every host's slowdown.

    A range that does not hold today's value is widened to it.
    """
    now = problem.now
    zero = Conditions(
        (Fraction(0),) * len(now.slowdown),
        *((Fraction(0),) * len(now.up) for _ in range(3)),
    )  # fmt: skip
    axes = []
    for hop, (up, down, round_trip) in enumerate(zip(now.up, now.down, now.round_trip_s, strict=True)):
        far = problem.hosts[hop + 1]
        low, high = sorted(1 / Fraction(bound) for bound in bandwidths_bps)
        origin = replace(now, up=_with(now.up, hop, 0), down=_with(now.down, hop, 0))
        step = replace(zero, up=_with(zero.up, hop, 1), down=_with(zero.down, hop, down / up))
        axes.append(Axis("bandwidth", far, origin, step, min(low, up), up, max(high, up)))
        low, high = (Fraction(bound) for bound in round_trips_s)
        origin = replace(now, round_trip_s=_with(now.round_trip_s, hop, 0))
        step = replace(zero, round_trip_s=_with(zero.round_trip_s, hop, 1))
        axes.append(Axis("round trip", far, origin, step, min(low, round_trip), round_trip, max(high, round_trip)))
    for tier, (host, factor) in enumerate(zip(problem.hosts, now.slowdown, strict=True)):
        low, high = (Fraction(bound) for bound in slowdowns)
        origin = replace(now, slowdown=_with(now.slowdown, tier, 0))
        step = replace(zero, slowdown=_with(zero.slowdown, tier, 1))
        axes.append(Axis("slowdown", host, origin, step, min(low, factor), factor, max(high, factor)))
    return tuple(axes)


def _with(values: Sequence[Fraction], position: int, value: Fraction | int) -> tuple[Fraction, ...]:
    return (*values[:position], Fraction(value), *values[position + 1 :])


Stretch = tuple[Fraction, Fraction]
"""From one value of an axis's parameter to a higher one."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one placement fares along one axis, with the codecs that suit it at each place."""

    axis: Axis
    wins: tuple[Stretch, ...]  # where no plan at all is quicker, ascending
    beats: tuple[Stretch, ...]  # where it is quicker than the plan it is weighed against
    closest: Fraction  # the place where it is least behind the best plan; the nearest to now of equals
    behind: Fraction  # and how far it is behind there, in billionths of the unit; 0 when it wins anywhere

    def nearest(self, stretches: Sequence[Stretch]) -> Stretch | None:
        """The stretch that takes the least change from now on; None when there is none."""
        return min(stretches, key=self._change, default=None)

    def _change(self, stretch: Stretch) -> float:
        low, high = stretch
        return 0.0 if low <= self.axis.now <= high else min(self._far(low), self._far(high))

    def _far(self, value: Fraction) -> float:
        """Changes of bandwidth and load are factors, those of a round trip differences."""
        now = self.axis.now
        if self.axis.kind == "round trip":
            return abs(float(value - now))
        return float(max(value / now, now / value))


class Sensitivity:
    """The best plans along one axis, solved once; any number of placements can be weighed against them."""

    def __init__(self, problem: FormProblem, axis: Axis) -> None:
        self.axis = axis
        self._problem = problem
        self.best = lowest_lines(lambda x: axis.line(problem.solve(axis.conditions(x))), axis.low, axis.high)

    def placement(self, tiers: Sequence[int]) -> list[Span[AxisLine]]:
        """What a placement costs along the axis, each stretch with the codecs that are best there."""
        axis = self.axis
        return lowest_lines(lambda x: axis.line(self._problem.priced(tiers, axis.conditions(x))), axis.low, axis.high)

    def standing(self, tiers: Sequence[int], *, against: Sequence[int]) -> Standing:
        """How one placement fares among all plans, and against another placement."""
        own, other = self.placement(tiers), self.placement(against)
        behind = _difference(own, self.best)
        least = min(ns for _, ns in behind)
        nearest = min((x for x, ns in behind if ns == least), key=lambda x: abs(x - self.axis.now))
        if least == behind_at(own, self.best, self.axis.now):
            nearest = self.axis.now
        ahead = _difference(other, own)
        return Standing(
            axis=self.axis,
            wins=_stretches(behind, lambda here, there: here == there == 0),
            beats=_above(ahead),
            closest=nearest,
            behind=least,
        )


def behind_at(own: Sequence[Span[AxisLine]], best: Sequence[Span[AxisLine]], x: Fraction) -> Fraction:
    """How far one envelope lies above another at x."""
    return line_at(own, x).at(x) - line_at(best, x).at(x)


def _difference(upper: Sequence[Span[AxisLine]], lower: Sequence[Span[AxisLine]]) -> list[tuple[Fraction, Fraction]]:
    """Of every place where either bends, and both ends, the place and ``upper - lower``: linear in between."""
    places = sorted({x for spans in (upper, lower) for span in spans for x in (span.low, span.high)})
    return [(x, behind_at(upper, lower, x)) for x in places]


def _stretches(
    points: Sequence[tuple[Fraction, Fraction]], holds: Callable[[Fraction, Fraction], bool]
) -> tuple[Stretch, ...]:
    """The runs of neighbouring points between which something holds."""
    found: list[Stretch] = []
    for (x, here), (y, there) in pairwise(points):
        if holds(here, there):
            found = [*found[:-1], (found[-1][0], y)] if found and found[-1][1] == x else [*found, (x, y)]
    return tuple(found)


def _above(points: Sequence[tuple[Fraction, Fraction]]) -> tuple[Stretch, ...]:
    """Where a function that is linear between the points is above 0."""
    zeros = [
        (x - here * (y - x) / (there - here), Fraction(0))
        for (x, here), (y, there) in pairwise(points)
        if here * there < 0
    ]
    return _stretches(sorted([*points, *zeros]), lambda here, there: here >= 0 and there >= 0 and here + there > 0)
