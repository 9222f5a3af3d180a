"""Every plan that is ever best while two conditions change at once: a bandwidth and a server's load, say.

Over two parameters each plan is a plane and the best latency a concave surface of flat pieces, the lower hull. Found
planes are clipped against each other; where their pieces have corners the planner is asked, and a plane that it finds
below joins. When no corner has one, none is missing anywhere: the surface is concave, so it lies on or above each
piece whose corners it meets, and on or below it because the pieces are plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from splitnn.planner.conditions import Conditions, Form, dot
from splitnn.planner.forms import FormProblem
from splitnn.planner.sensitivity import Axis

Point = tuple[Fraction, Fraction]


def hull_candidates(problem: FormProblem, first: Axis, second: Axis) -> tuple[Form, ...]:
    """The plans of which one is the best at any values of two axes, whatever the round trip to the second host.

    Whoever holds them evaluates them all and takes the least. The device alone, where the pins allow it, comes first.
    Round trips over the first hop are left out, as in an envelope: every plan but the device alone pays them.

    Raises:
        ValueError: both axes are one, or one of them is a round trip.
    """
    if first.direction == second.direction or "round trip" in (first.kind, second.kind):
        raise ValueError(f"a hull needs two axes other than round trips, not {first.kind} and {second.kind}")
    surface = _Surface(problem, first, second)
    found = surface.find()
    if problem.allows_local:
        local = problem.priced((0,) * len(problem.graph), problem.now)
        found = [local, *(form for form in found if any(form.tiers))]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Plane:
    fixed: Fraction
    slopes: Point

    def at(self, point: Point) -> Fraction:
        return self.fixed + self.slopes[0] * point[0] + self.slopes[1] * point[1]


class _Surface:
    def __init__(self, problem: FormProblem, first: Axis, second: Axis) -> None:
        self._problem = problem
        self._corners = [
            (first.low, second.low), (first.high, second.low), (first.high, second.high), (first.low, second.high)
        ]  # fmt: skip
        now = problem.now
        round_trips = (Fraction(0), *now.round_trip_s[1:])
        self._steps = first.direction.vector, second.direction.vector
        moved = [any(pair) for pair in zip(*self._steps, strict=True)]
        free = replace(now, round_trip_s=round_trips).vector
        self._origin = [Fraction(0) if moves else value for moves, value in zip(moved, free, strict=True)]
        self._forms: dict[_Plane, Form] = {}

    def find(self) -> list[Form]:
        asked: set[Point] = set()
        waiting = list(self._corners)
        while waiting:
            for point in waiting:
                asked.add(point)
                form = self._problem.solve(self._conditions(point))
                plane = self._plane(form)
                if not any(known.at(point) <= plane.at(point) for known in self._forms):
                    self._forms[plane] = form
            corners = {point for plane in self._forms for point in self._piece(plane)}
            waiting = sorted(corners - asked)
        return [form for plane, form in self._forms.items() if len(self._piece(plane)) > 2]

    def _piece(self, plane: _Plane) -> list[Point]:
        """The corners of the part of the rectangle where no other plane is lower."""
        polygon = self._corners
        for other in self._forms:
            if other != plane and polygon:
                polygon = _clipped(polygon, [other.at(point) - plane.at(point) for point in polygon])
        return polygon

    def _plane(self, form: Form) -> _Plane:
        first, second = self._steps
        fixed = form.constant + dot(form.aims, self._origin)
        return _Plane(fixed, (dot(form.aims, first), dot(form.aims, second)))

    def _conditions(self, point: Point) -> Conditions:
        x, y = point
        vector = tuple(a + x * b + y * c for a, b, c in zip(self._origin, *self._steps, strict=True))
        hosts, hops = len(self._problem.hosts), len(self._problem.now.up)
        ends = (hosts, hosts + hops, hosts + 2 * hops)
        return Conditions(vector[: ends[0]], vector[ends[0] : ends[1]], vector[ends[1] : ends[2]], vector[ends[2] :])


def _clipped(polygon: Sequence[Point], margins: Sequence[Fraction]) -> list[Point]:
    """The part of a convex polygon where a linear function, given at its corners, is 0 or more (Sutherland-Hodgman)."""
    kept: list[Point] = []
    for number, (point, margin) in enumerate(zip(polygon, margins, strict=True)):
        before, margin_before = polygon[number - 1], margins[number - 1]
        if margin * margin_before < 0:
            share = margin_before / (margin_before - margin)
            kept.append((before[0] + share * (point[0] - before[0]), before[1] + share * (point[1] - before[1])))
        if margin >= 0:
            kept.append(point)
    return kept
