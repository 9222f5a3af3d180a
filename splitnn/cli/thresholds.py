"""Exact thresholds as sentences."""

from __future__ import annotations

from collections.abc import Sequence

from splitnn.cli.weighing import Weighed
from splitnn.cli.wording import format_amount, format_bytes, format_seconds
from splitnn.cost.network import format_rate
from splitnn.planner.sensitivity import Axis, Standing, Stretch


def keeps(standing: Standing) -> str:
    """Between which values the plan that is the best today stays so; empty when everywhere."""
    axis = standing.axis
    stretch = standing.nearest(standing.wins)
    if stretch is None or stretch == (axis.low, axis.high):
        return ""
    return f"{_subject(axis)} {_range(axis, stretch)} (now {_value(axis, axis.shown(axis.now))})"


def wins(weighed: Weighed, *, unit: str = "s") -> list[str]:
    """What would have to change for it to be the best of all plans; failing that, to beat the chosen one.

    ``unit`` is that of what is wanted.
    """
    as_good = "as quick" if unit == "s" else "as good"
    if weighed.obstacles:
        return [f"ruled out: {weighed.obstacles[0]}"]
    found, closest = [], []
    for standing in weighed.standings:
        axis = standing.axis
        if stretch := standing.nearest(standing.wins):
            found.append(f"best of all with {_subject(axis)} {_range(axis, stretch)}")
        elif stretch := standing.nearest(standing.beats):
            found.append(
                f"ahead of the chosen plan with {_subject(axis)} {_range(axis, stretch)}, "
                f"but others are ahead of both (by {format_amount(float(standing.behind) * 1e-9, unit)} or more)"
            )
        elif standing.behind > 0:
            closest.append((standing.behind, standing))
    if weighed.bytes_to_win is not None and 0 < weighed.bytes_to_win < weighed.sent_bytes:
        found.append(
            f"{as_good} as the chosen plan if it sent {format_bytes(weighed.bytes_to_win)} instead of "
            f"{format_bytes(weighed.sent_bytes)} ({weighed.sent_bytes / weighed.bytes_to_win:.2f} times fewer)"
        )
    if not found and closest:
        behind, standing = min(closest, key=lambda pair: pair[0])
        axis, least = standing.axis, f"{format_amount(float(behind) * 1e-9, unit)} behind"
        found.append(
            f"no single change brings it nearer: it stays {least} or more"
            if standing.closest == axis.now
            else f"no single change helps; it comes nearest, {least}, with {_subject(axis)} at "
            f"{_value(axis, axis.shown(standing.closest))}"
        )
    return found or [f"{as_good} as the chosen plan"]


def _subject(axis: Axis) -> str:
    return f"the {axis.subject}" if axis.kind == "slowdown" else f"the {axis.kind}"


def _range(axis: Axis, stretch: Stretch) -> str:
    """A stretch without the ends of the axis, which say nothing."""
    low, high = (None if end in (axis.low, axis.high) else axis.shown(end) for end in stretch)
    if axis.kind == "bandwidth":
        low, high = high, low
    if axis.kind == "slowdown":
        return _factors(low, high)
    if low is not None and high is not None:
        return f"between {_value(axis, low)} and {_value(axis, high)}"
    if low is not None:
        return f"above {_value(axis, low)}"
    return f"below {_value(axis, high)}" if high is not None else "of any value"


def _factors(low: float | None, high: float | None) -> str:
    """Slowdowns from ``low`` to ``high`` times today's; None for no limit."""
    said: Sequence[str] = [
        *([f"{'at least' if low >= 1 else 'at most'} {_factor(low)}"] if low is not None else []),
        *([f"{'at most' if high >= 1 else 'at least'} {_factor(high)}"] if high is not None else []),
    ]
    return " and ".join(said) or "at any speed"


def _factor(slowdown: float) -> str:
    return f"{slowdown:.4g} times slower" if slowdown >= 1 else f"{1 / slowdown:.4g} times quicker"


def _value(axis: Axis, value: float) -> str:
    if axis.kind == "slowdown":
        return "its profile" if value == 1 else _factor(value)
    return format_rate(value) if axis.kind == "bandwidth" else format_seconds(value)
