"""``splitnn envelope``: the best plan for every bandwidth at once, as a table, as JSON and as a page."""

from __future__ import annotations

import argparse
import errno
import json
import os
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitnn.cli.two_hosts import TwoHosts, add_two_hosts, open_two_hosts
from splitnn.cost.network import format_rate, parse_rate
from splitnn.errors import InfeasiblePlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from splitnn.cli.wording import Parts
    from splitnn.planner.plan import Plan

_DESCRIPTION = """\
Every plan that is ever the best between two bandwidths, with the exact bandwidths where the best plan changes. Of the
link only the round trip matters, and how its rates up and down compare: the way down keeps its ratio to the way up.
Exact for every objective that adds up and under every constraint on where layers run; within budgets for traffic and
memory, too, unless a search has to end early: then the gap is stated. A deadline is met from some bandwidth on.

  splitnn envelope efficientnet_lite0 --device device.json --cloud cloud.json
  splitnn envelope efficientnet_lite0 --device device.json --cloud cloud.json --link 10Mbps/40ms --codecs all \\
      --html envelope.html
  splitnn envelope efficientnet_lite0 --device raspberry-pi-4 --cloud cloud.json --objective energy --private \\
      --max-bytes 60KB

The page needs nothing but a browser. Its address takes where it starts: envelope.html#bandwidth=5Mbps&load=2.
"""


def add_parser(subparsers: Any) -> None:
    """Add ``envelope`` to the command line."""
    parser = subparsers.add_parser(
        "envelope",
        help="the best plan for every bandwidth at once",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_two_hosts(parser)
    parser.add_argument(
        "--link", metavar="LINK", default="10Mbps/20ms", help="its round trip counts (default 10Mbps/20ms)"
    )
    parser.add_argument("--low", metavar="RATE", default="10kbps", help="the lowest bandwidth (default 10kbps)")
    parser.add_argument("--high", metavar="RATE", default="10Gbps", help="the highest bandwidth (default 10Gbps)")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write a page that shows all of it, too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Find the plans and print them."""
    low_bps, high_bps = parse_rate(args.low), parse_rate(args.high)
    if not low_bps < high_bps:
        raise ValueError(f"--low {args.low} must be below --high {args.high}")
    if args.html is not None:
        _check_writable(args.html)  # before anything takes time
    given = open_two_hosts(args)
    if (answer := _with_exits(given, low_bps=low_bps, high_bps=high_bps, as_json=args.json)) is not None:
        if args.html is not None:
            raise ValueError("the page shows plans of a model without exits: leave --html out")
        print(answer)
        return 0
    found = _find(given, low_bps=low_bps, high_bps=high_bps)
    if args.html is not None:
        from splitnn.cli.page import render

        args.html.write_text(render(given, low_bps=low_bps, high_bps=high_bps), encoding="utf-8")
    print(json.dumps(_json(given, found)) if args.json else _report(given, found))
    if args.html is not None and not args.json:
        print(f"wrote {args.html}")
    return 0


def _with_exits(given: TwoHosts, *, low_bps: float, high_bps: float, as_json: bool) -> str | None:
    """The answer for a model with early exits; None for one without, or where they cannot be planned for the goals."""
    from splitnn.cli.policies import map_json, pins_of, report_map
    from splitnn.planner.deadlines import compute_deadline_map, every_policy

    pins = None if given.exits is None else pins_of(given.goals, given.graph, given.topology)
    if given.exits is None or pins is None:
        return None
    found = compute_deadline_map(
        given.graph,
        given.profiles,
        given.topology,
        policies=every_policy(given.exits),
        codecs=given.codecs,
        mode=given.mode,
        pins=pins,
        low_bps=low_bps,
        high_bps=high_bps,
        varying="both",
    )
    deadline_s = given.goals.constraints.deadline_s
    if deadline_s is not None and not found.choices(deadline_s):
        found.at(high_bps, deadline_s)  # says what is nearest
    if as_json:
        return json.dumps(map_json(found, deadline_s=deadline_s))
    return report_map(given.name, found, deadline_s=deadline_s)


@dataclass(frozen=True, slots=True)
class _Row:
    """One plan between two bandwidths, ascending."""

    low_bps: float
    high_bps: float
    plan: Plan
    name: str
    sent_bytes: int
    worth: tuple[float, float]  # at both ends, in the objective's unit
    parts: tuple[Parts, Parts]


@dataclass(frozen=True, slots=True)
class _Found:
    rows: list[_Row]
    gap: float  # by which share of what they take plans may be improved at most; 0: exact
    deadline_from_bps: float | None  # from which bandwidth on the deadline is met; None without a deadline


def _find(given: TwoHosts, *, low_bps: float, high_bps: float) -> _Found:
    """All rows.

    Raises:
        InfeasiblePlan: no plan obeys the constraints, or none meets the deadline at any of the bandwidths.
        ValueError: the constraints leave no straight lines.
    """
    from splitnn.cli.blocks import blocks_of
    from splitnn.cli.goals import decide
    from splitnn.cli.wording import Parts, name_of
    from splitnn.planner.sensitivity import Sensitivity, axes_of

    goals = given.goals
    limits = goals.constraints
    if limits.max_energy_j is not None or (limits.deadline_s is not None and not goals.objective.is_latency):
        raise ValueError(
            "a limit of energy, or a deadline beside another objective than latency, rules out other plans at each "
            "bandwidth: ask `splitnn plan` for a single one"
        )
    problem = given.problem()
    if goals.are_stated:  # budgets that no plan keeps are named here, with the nearest plan
        lasting = replace(goals, constraints=replace(limits, deadline_s=None))
        decide(lasting, given.graph, given.profiles, given.topology, codecs=given.codecs, mode=given.mode)
    axis = replace(axes_of(problem)[0], low=1 / Fraction(high_bps), high=1 / Fraction(low_bps))
    blocks = blocks_of(given.graph)
    rows = []
    spans = Sensitivity(problem, axis).best[::-1]
    for span in spans:
        form = span.line.form
        rows.append(
            _Row(
                low_bps=float(1 / span.high),
                high_bps=float(1 / span.low),
                plan=problem.plan(form, mode=given.mode),
                name=name_of(form, given.graph, blocks),
                sent_bytes=form.up_bits[0] // 8,
                worth=(float(span.line.at(span.high)) * 1e-9, float(span.line.at(span.low)) * 1e-9),
                parts=(Parts.of(form, axis.conditions(span.high)), Parts.of(form, axis.conditions(span.low))),
            )
        )
    met = None if limits.deadline_s is None else _met_from(rows, limits.deadline_s)
    return _Found(rows, problem.gap, met)


def _met_from(rows: Sequence[_Row], deadline_s: float) -> float:
    """The least bandwidth at which the deadline is met; latency falls with bandwidth."""
    for row in rows:
        slow_s, quick_s = row.worth
        if slow_s <= deadline_s:
            return row.low_bps
        if quick_s <= deadline_s:  # linear in 1/bandwidth
            share = (deadline_s - quick_s) / (slow_s - quick_s)
            return 1 / (1 / row.high_bps + share * (1 / row.low_bps - 1 / row.high_bps))
    from splitnn.cli.wording import format_seconds

    least_s, fastest_bps = rows[-1].worth[1], rows[-1].high_bps
    raise InfeasiblePlan(
        f"no plan meets the deadline of {format_seconds(deadline_s)} up to {format_rate(fastest_bps)}: there the best "
        f"one, {rows[-1].name}, still takes {format_seconds(least_s)}; at the link given it is {rows[-1].plan}",
        rows[-1].plan,
    )


def _check_writable(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _json(given: TwoHosts, found: _Found) -> dict[str, Any]:
    up, down = given.topology.up[0], given.topology.down[0]
    pieces = []
    for row in found.rows:
        plan = row.plan.to_json()
        del plan["predicted"]  # that belongs to one bandwidth
        pieces.append(
            {
                "low_bps": row.low_bps,
                "high_bps": row.high_bps,
                "latency_s": [sum(parts) for parts in row.parts],
                "worth": row.worth,
                "plan": plan,
                "name": row.name,
                "sent_bytes": row.sent_bytes,
                "parts": [parts._asdict() for parts in row.parts],
            }
        )
    return {
        "format": "splitnn-envelope-1",
        "objective": given.goals.objective.name,
        "unit": given.goals.objective.unit,
        "round_trip_s": up.latency_s + down.latency_s,
        "low_bps": found.rows[0].low_bps,
        "high_bps": found.rows[-1].high_bps,
        "gap": found.gap,
        "deadline_from_bps": found.deadline_from_bps,
        "leakage": None if given.goals.leakage is None else given.goals.leakage.scores,
        "leaves_exits_out": given.exits is not None,
        "pieces": pieces,
    }


def _report(given: TwoHosts, found: _Found) -> str:
    from splitnn.cli.policies import NOT_USED
    from splitnn.cli.wording import PART_NAMES, format_amount, format_bytes, format_seconds

    rows, goals = found.rows, given.goals
    plans = "1 plan" if len(rows) == 1 else f"{len(rows)} plans"
    limits = f"{format_rate(rows[0].low_bps)} to {format_rate(rows[-1].high_bps)}"
    up, down = given.topology.up[0], given.topology.down[0]
    round_trip = format_seconds(up.latency_s + down.latency_s)
    unit = goals.objective.unit
    lines = [f"{given.name} ({given.digest[:12]}), {limits}, round trip {round_trip}: {plans}"]
    if goals.are_stated:
        exact = "exact" if not found.gap else f"at most {found.gap:.1%} above the optimum"
        lines.append(f"objective {goals.objective.name}, {exact}")
    if "energy" in goals.objective.weights:
        lines.append(f"joules are modelled, not measured: published figures of {goals.power} and {goals.radio}")
    if given.exits is not None:
        lines.append(f"its {NOT_USED}")
    if goals.leakage is not None:
        lines += goals.leakage.describe(list(dict.fromkeys(name for row in rows for name in row.plan.hops[0])))
    if found.deadline_from_bps is not None:
        at = format_rate(found.deadline_from_bps)
        lines.append(f"the deadline of {format_seconds(goals.constraints.deadline_s or 0.0)} is met from {at} on")
    lines.append(f"{'bandwidth':>12}{'ms':>10}" + "".join(f"{name:>11}" for name in PART_NAMES))
    for row in rows:
        size = f" ({format_bytes(row.sent_bytes)})" if row.sent_bytes else ""
        lines.append(f"{row.name}{size}, plan {row.plan.id}")
        for bandwidth_bps, parts, worth in zip((row.low_bps, row.high_bps), row.parts, row.worth, strict=True):
            lines.append(
                f"{format_rate(bandwidth_bps):>12}{sum(parts) * 1e3:10.2f}"
                + "".join(f"{seconds * 1e3:11.2f}" for seconds in parts)
                + ("" if unit == "s" else f"  {format_amount(worth, unit)}")
            )
    return "\n".join(lines)
