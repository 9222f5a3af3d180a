"""All lines of a lower envelope, from an oracle that finds the lowest line at one place.

The lowest of many lines is a concave function, and its pieces follow exactly: solve at both ends, intersect the two
lines, solve there; when that finds nothing lower, both belong to the envelope and meet there, else the two halves are
treated alike (Eisner and Severance 1976). K pieces take about 2K questions. Places are rational numbers, so that no
breakpoint is approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Generic, NamedTuple, Protocol, Self, TypeVar


class Linear(Protocol):
    """A cost that is linear over one parameter."""

    def at(self, x: Fraction) -> Fraction:
        """The cost at x."""
        ...

    def is_same(self, other: Self) -> bool:
        """Whether both cost the same everywhere."""
        ...

    def meets(self, other: Self) -> Fraction:
        """Where two lines of different slopes cross."""
        ...


L = TypeVar("L", bound=Linear)


class Span(NamedTuple, Generic[L]):
    """A line, and the places between which no other is lower."""

    line: L
    low: Fraction
    high: Fraction


def lowest_lines(solve: Callable[[Fraction], L], low: Fraction, high: Fraction) -> list[Span[L]]:
    """The lines that are ever the lowest between two places, ascending, without gaps; ``solve`` is the oracle."""
    lines = _between(solve, (low, solve(low)), (high, solve(high)))
    breaks = [low, *(near.meets(far) for near, far in pairwise(lines)), high]
    return [Span(line, a, b) for line, (a, b) in zip(lines, pairwise(breaks), strict=True) if a < b]


def line_at(spans: Sequence[Span[L]], x: Fraction) -> L:
    """The lowest line at x."""
    return next((span.line for span in spans if x <= span.high), spans[-1].line)


def _between(solve: Callable[[Fraction], L], near: tuple[Fraction, L], far: tuple[Fraction, L]) -> list[L]:
    """The envelope's lines between two places where a line that is lowest there is known, those two included."""
    (_, first), (_, last) = near, far
    if first.is_same(last):
        return [first]
    x = first.meets(last)
    middle = solve(x)
    if middle.at(x) >= first.at(x):  # above it only when budgets made the oracle end early
        return [first, last]
    return [*_between(solve, near, (x, middle)), *_between(solve, (x, middle), far)[1:]]
