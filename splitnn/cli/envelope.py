"""``splitnn envelope``: the best plan for every bandwidth at once, as a table, as JSON and as a page."""

from __future__ import annotations

import argparse
import errno
import json
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitnn.cli.two_hosts import TwoHosts, add_two_hosts, open_two_hosts
from splitnn.cost.network import format_rate, parse_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from splitnn.cli.wording import Parts
    from splitnn.planner.envelope import Envelope, Piece

_DESCRIPTION = """\
Every plan that is ever the best between two bandwidths, with the exact bandwidths where the best plan changes. Of the
link only the round trip matters, and how its rates up and down compare: the way down keeps its ratio to the way up.

  splitnn envelope efficientnet_lite0 --device device.json --cloud cloud.json
  splitnn envelope efficientnet_lite0 --device device.json --cloud cloud.json --link 10Mbps/40ms --codecs all \\
      --html envelope.html

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
    from splitnn.planner.envelope import compute_envelope

    found = compute_envelope(
        given.graph,
        given.profiles,
        given.topology,
        codecs=given.codecs,
        mode=given.mode,
        low_bps=low_bps,
        high_bps=high_bps,
        varying="both",
    )
    if args.html is not None:
        from splitnn.cli.page import render

        args.html.write_text(render(given, low_bps=low_bps, high_bps=high_bps), encoding="utf-8")
    rows = _rows(given, found)
    print(json.dumps(_json(found, rows)) if args.json else _report(given, found, rows))
    if args.html is not None and not args.json:
        print(f"wrote {args.html}")
    return 0


@dataclass(frozen=True, slots=True)
class _Row:
    piece: Piece
    name: str
    sent_bytes: int
    low_parts: Parts  # at the piece's lower bandwidth
    high_parts: Parts


def _check_writable(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _rows(given: TwoHosts, found: Envelope) -> list[_Row]:
    """Each piece in a reader's terms."""
    from splitnn.cli.blocks import blocks_of
    from splitnn.cli.wording import Parts, name_of
    from splitnn.planner.forms import FormProblem
    from splitnn.planner.sensitivity import axes_of

    problem = FormProblem(given.graph, given.profiles, given.topology, codecs=given.codecs)
    bandwidth = axes_of(problem)[0]
    blocks = blocks_of(given.graph)
    rows = []
    for piece in found.pieces():
        low, high = (1 / Fraction(bandwidth_bps) for bandwidth_bps in (piece.low_bps, piece.high_bps))
        form = problem.priced(piece.plan.tiers, bandwidth.conditions((low + high) / 2))  # at the ends codecs may tie
        low_parts, high_parts = (Parts.of(form, bandwidth.conditions(x)) for x in (low, high))
        rows.append(_Row(piece, name_of(form, given.graph, blocks), form.up_bits[0] // 8, low_parts, high_parts))
    return rows


def _json(found: Envelope, rows: Sequence[_Row]) -> dict[str, Any]:
    answer = found.to_json()
    for piece, row in zip(answer["pieces"], rows, strict=True):
        piece["name"] = row.name
        piece["sent_bytes"] = row.sent_bytes
        piece["parts"] = [row.low_parts._asdict(), row.high_parts._asdict()]
    return answer


def _report(given: TwoHosts, found: Envelope, rows: Sequence[_Row]) -> str:
    from splitnn.cli.wording import PART_NAMES, format_bytes, format_seconds

    plans = "1 plan" if len(rows) == 1 else f"{len(rows)} plans"
    limits = f"{format_rate(found.low_bps)} to {format_rate(found.high_bps)}"
    lines = [
        f"{given.name} ({given.digest[:12]}), {limits}, round trip {format_seconds(found.round_trip_s)}: {plans}",
        f"{'bandwidth':>12}{'ms':>10}" + "".join(f"{name:>11}" for name in PART_NAMES),
    ]
    for row in rows:
        size = f" ({format_bytes(row.sent_bytes)})" if row.sent_bytes else ""
        lines.append(f"{row.name}{size}, plan {row.piece.plan.id}")
        ends = ((row.piece.low_bps, row.low_parts), (row.piece.high_bps, row.high_parts))
        for bandwidth_bps, parts in ends:
            lines.append(
                f"{format_rate(bandwidth_bps):>12}{sum(parts) * 1e3:10.2f}"
                + "".join(f"{seconds * 1e3:11.2f}" for seconds in parts)
            )
    return "\n".join(lines)
