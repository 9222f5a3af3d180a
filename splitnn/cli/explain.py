"""``splitnn explain``: why this cut, and what would have to change for another to win."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from splitnn.cli.doubts import doubts
from splitnn.cli.policies import NOT_USED
from splitnn.cli.two_hosts import TwoHosts, add_two_hosts, open_two_hosts
from splitnn.cli.wording import PART_NAMES, format_amount, format_bytes, format_seconds
from splitnn.cost.network import format_rate

if TYPE_CHECKING:
    from splitnn.cli.weighing import Weighed, Weighing

_DESCRIPTION = """\
Why a plan was chosen: what it and the plans around it cost, part by part, which constraint binds and what giving it up
would gain, and for each of those that were not chosen the bandwidth, round trip, load of the server or speed of the
device from which it would be the best of all plans. Thresholds are exact for the profiles given (the way down keeps its
ratio to the way up); at the end stands how far the profiles are to be trusted.

  splitnn explain efficientnet_lite0 --device device.json --cloud cloud.json --link 2Mbps/40ms
  splitnn explain efficientnet_lite0 --device device.json --cloud cloud.json --link 2Mbps/40ms --codecs all --json
  splitnn explain efficientnet_lite0 --device raspberry-pi-4 --cloud cloud.json --link 10Mbps/20ms --objective energy \\
      --deadline 150ms --private

Of a model with early exits it says which host decides each, how many samples leave there and after how long, what any
other way to ask them would cost, and the bandwidths at which the choice changes.
"""


def add_parser(subparsers: Any) -> None:
    """Add ``explain`` to the command line."""
    parser = subparsers.add_parser(
        "explain",
        help="why this cut, and what would have to change for another to win",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_two_hosts(parser)
    parser.add_argument("--link", metavar="LINK", required=True, help="such as 10Mbps/20ms, or 2Mbps:20Mbps/40ms")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decide, weigh and print."""
    given = open_two_hosts(args)
    if given.exits is not None:
        from splitnn.cli import exit_reasons, exit_report

        if (why := exit_reasons.reasons(given)) is not None:
            print(json.dumps(exit_report.to_json(given, why)) if args.json else exit_report.report(given, why))
            return 0
    from splitnn.cli.weighing import weigh

    found = weigh(given)
    print(json.dumps(_json(given, found)) if args.json else _report(given, found))
    return 0


def _json(given: TwoHosts, found: Weighing) -> dict[str, Any]:
    return {
        "plan": found.plan.to_json(),
        "chosen": _weighed_json(found.chosen),
        "interval_s": found.interval_s,
        "others": [_weighed_json(other) for other in found.others],
        "codecs": [
            {
                "tensor": trial.tensor,
                "codec": trial.codec,
                "size_bytes": trial.size_bytes,
                "more_s": trial.more_s,
                "allowed": trial.is_allowed,
            }
            for trial in found.trials
        ],
        "every_codec": None if found.freed is None else _weighed_json(found.freed),
        "binding": [
            {
                "constraint": binding.name,
                "limit": binding.limit or None,
                "gains_from": binding.needed or None,
                "worth_without": binding.without.value,
                "latency_without_s": binding.without.plan.predicted.latency_s,
                "line_without": str(binding.without.plan),
            }
            for binding in found.bindings
        ],
        "gap": found.gap,
        "doubts": doubts(given.profiles),
        "thresholds_stated": not found.is_ruled,
        "leaves_exits_out": given.exits is not None,
    }


def _weighed_json(weighed: Weighed) -> dict[str, Any]:
    """Numbers in bit/s, seconds, bytes and factors; stretches ascending."""
    return {
        "name": weighed.name,
        "kind": weighed.kind,
        "latency_s": weighed.latency_s,
        "worth": weighed.worth,
        "obstacles": list(weighed.obstacles),
        "parts": weighed.parts._asdict(),
        "sent_bytes": weighed.sent_bytes,
        "tiers": list(weighed.form.tiers),
        "codecs": {transfer.tensor: transfer.codec for transfer in weighed.form.transfers},
        "bytes_to_win": weighed.bytes_to_win,
        "chance_quicker": weighed.chance,
        "axes": [
            {
                "change": standing.axis.kind,
                "of": standing.axis.subject,
                "now": standing.axis.shown(standing.axis.now),
                "best_of_all": [sorted(map(standing.axis.shown, stretch)) for stretch in standing.wins],
                "beats_chosen": [sorted(map(standing.axis.shown, stretch)) for stretch in standing.beats],
                "closest": standing.axis.shown(standing.closest),
                "behind_there": float(standing.behind) * 1e-9,
            }
            for standing in weighed.standings
        ],
    }


def _report(given: TwoHosts, found: Weighing) -> str:
    up, down = given.topology.up[0], given.topology.down[0]
    rates = format_rate(up.bandwidth_bps)
    if up.bandwidth_bps != down.bandwidth_bps:
        rates += f" up, {format_rate(down.bandwidth_bps)} down"
    round_trip = format_seconds(up.latency_s + down.latency_s)
    lines = [
        f"{given.name} ({given.digest[:12]}), {rates}, round trip {round_trip}: plan {found.plan.id}",
        *([f"its {NOT_USED}"] if given.exits is not None else []),
        *_costs(given, found),
        *_constraints(given, found),
        *_changes(given, found),
        *_codecs(given, found),
        *_sureness(given, found),
    ]
    return "\n".join(lines)


def _costs(given: TwoHosts, found: Weighing) -> list[str]:
    """A row for each plan: its latency part by part, and what it is worth where latency is not what is wanted."""
    chosen, unit = found.chosen, _unit(given)
    lines = [f"{'ms':>9}{'':9}" + "".join(f"{name:>11}" for name in PART_NAMES)]
    for weighed in (chosen, *found.others):
        parts = "".join(f"{seconds * 1e3:11.2f}" for seconds in weighed.parts)
        more = f"{weighed.worth / chosen.worth - 1:+9.1%}" if chosen.worth else f"{'':9}"  # of nothing, no share
        share = "   chosen" if weighed is chosen else more
        size = f" ({format_bytes(weighed.sent_bytes)})" if weighed.sent_bytes else ""
        worth = "" if unit == "s" else f": {format_amount(weighed.worth, unit)}"
        ruled = ", ruled out" if weighed.obstacles else ""
        lines.append(f"{weighed.latency_s * 1e3:9.2f}{share}{parts}  {_label(weighed)}{size}{worth}{ruled}")
    return lines


def _constraints(given: TwoHosts, found: Weighing) -> list[str]:
    """Which of them bind, and what giving each up would gain."""
    if not given.goals.are_stated:
        return []
    unit, lines = _unit(given), [f"objective {given.goals.objective.name}; which constraint binds"]
    if found.gap:
        lines[0] += f" (the plan may be improved by {found.gap:.1%} at most: the search within the budgets ended early)"
    for binding in found.bindings:
        free, limit = binding.without, f" of {binding.limit}" if binding.limit else ""
        gain = f" ({free.value / found.chosen.worth - 1:+.1%})" if found.chosen.worth else ""
        latency = "" if unit == "s" else f" in {format_seconds(free.plan.predicted.latency_s)}"
        lines.append(f"  {binding.name}{limit}: without it {format_amount(free.value, unit)}{latency}{gain}")
        lines.append(f"    {free.plan}")
        if binding.needed:
            proven = "" if binding.is_proven else " or less"
            lines.append(f"    something is gained from {binding.needed}{proven} on")
    if not found.bindings:
        lines.append("  none: without them the plan would be as good")
    if given.goals.leakage is not None:
        lines += [f"  {line}" for line in given.goals.leakage.describe([t.tensor for t in found.chosen.form.transfers])]
    return lines


def _changes(given: TwoHosts, found: Weighing) -> list[str]:
    """Where the plan stays the best, and what would have to change for others to win."""
    from splitnn.cli.thresholds import keeps, wins

    if found.is_ruled:
        return [
            "thresholds are not stated: the deadline or the limit of energy decides, and rules out other plans at each",
            "bandwidth; `splitnn plan` answers for a single one",
        ]
    unit, chosen = _unit(given), found.chosen
    lines = ["this plan stays the best of all"]
    limits = given.goals.constraints
    if limits.max_energy_j is not None or (limits.deadline_s is not None and unit != "s"):
        lines[0] += " (thresholds: without the deadline and the limit of energy, which do not decide here)"
    lines += [f"  {text}" for standing in chosen.standings if (text := keeps(standing))] or ["  whatever changes"]
    lines.append("for another to win, one of these must change")
    for other in found.others:
        behind = other.worth - chosen.worth
        place = f"{format_amount(abs(behind), unit)} {'behind' if behind >= 0 else 'ahead'}"
        lines.append(f"  {_label(other)}, now {place}")
        lines += [f"    {text}" for text in wins(other, unit=unit)]
    return lines


def _codecs(given: TwoHosts, found: Weighing) -> list[str]:
    unit, chosen = _unit(given), found.chosen
    lines = ["codecs"] if found.trials or found.freed else []
    for trial in found.trials:
        note = "" if trial.is_allowed else ", not among --codecs"
        lines.append(
            f"  {trial.more_s * 1e3:+9.2f} ms  {trial.tensor} as {trial.codec}, {format_bytes(trial.size_bytes)}{note}"
        )
    if found.freed is not None:
        gain = 1 - found.freed.worth / chosen.worth
        lines.append(
            f"  with --codecs all: {found.freed.name}, {format_amount(found.freed.worth, unit)} ({-gain:+.1%})"
        )
    return lines


def _sureness(given: TwoHosts, found: Weighing) -> list[str]:
    from splitnn.cli.weighing import SURENESS

    lines = ["how sure"]
    if _unit(given) != "s" and given.goals.objective.weights.get("energy"):
        lines.append(
            f"  joules are modelled, not measured: published figures of {given.goals.power} and {given.goals.radio}"
        )
    if found.interval_s is None:
        unknown = [f"  {doubt}" for doubt in doubts(given.profiles)]
        return [*lines, "  unknown: a profile does not tell its own error", *unknown]
    low, high = map(format_seconds, found.interval_s)
    errors = ", ".join(
        f"{host} {_percent(profile.error)} of heads and {_percent(profile.tail_error)} of tails"
        for host, profile in given.profiles.items()
    )
    lines += [
        f"  {low} to {high} with probability {SURENESS:.0%}, the link taken as known",
        f"  profiles' own errors (medians): {errors}",
        *(f"  {doubt}" for doubt in doubts(given.profiles)),
    ]
    if _unit(given) != "s":
        return lines
    return lines + (
        [
            f"  {other.chance:6.1%} that it is quicker in truth: {_label(other)}"
            for other in found.others
            if other.chance is not None and other.chance >= 0.001 and not other.obstacles
        ]
        or ["  no other plan here is quicker in truth with more than 0.1 %"]
    )


def _unit(given: TwoHosts) -> str:
    return given.goals.objective.unit


def _label(weighed: Weighed) -> str:
    return f"one block {weighed.kind}: {weighed.name}" if weighed.kind in ("earlier", "later") else weighed.name


def _percent(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.1%}"
