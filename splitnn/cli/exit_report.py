"""The reasons for how exits are asked, as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from splitnn.cli.doubts import doubts
from splitnn.cli.exit_reasons import HIGH_BPS, LOW_BPS, Asked, Reasons, Rival
from splitnn.cli.two_hosts import TwoHosts
from splitnn.cli.wording import format_bytes, format_seconds
from splitnn.cost.network import format_rate
from splitnn.graph.exits import Exits
from splitnn.planner.exits import Weighed
from splitnn.planner.plan import Plan


def to_json(given: TwoHosts, found: Reasons) -> dict[str, Any]:
    """Everything, in seconds, bits per second and shares; stretches of bandwidth ascend."""
    chosen = found.chosen
    return {
        "plan": chosen.plan.to_json(),
        "line": str(chosen.plan),
        "deadline_s": given.goals.constraints.deadline_s,
        "judged": {"against": chosen.exits.against, "samples": chosen.exits.samples, "data": chosen.exits.data},
        **_way_json(chosen),
        "asked": [
            {
                "exit": each.name,
                "host": each.host,
                "arrive": each.arrive,
                "answered": each.answered,
                "right": each.right,
                "latency_s": each.latency_s,
            }
            for each in found.asked
        ],
        "others": [
            {
                **_way_json(each.weighed),
                "line": str(each.weighed.plan),
                "less": list(each.less),
                "more": list(each.more),
                "quicker": [list(stretch) for stretch in each.quicker],
                "in_time_from_bps": each.needed_bps if each.needed_bps != math.inf else None,
                "late": not each.weighed.is_within,
            }
            for each in found.rivals
        ],
        "choices": [
            choice.to_json() | {"exits": [each.name for each in choice.exits.exits], "accuracy": choice.exits.accuracy}
            for choice in found.choices
        ],
        "doubts": doubts(given.profiles),
    }


def _way_json(weighed: Weighed) -> dict[str, Any]:
    return {
        "exits": [each.name for each in weighed.exits.exits],
        "accuracy": weighed.exits.accuracy,
        "mean_s": weighed.mean.latency_s,
        "worst_s": weighed.worst.latency_s,
        "sent_bytes": weighed.mean.sent_bytes,
    }


def report(given: TwoHosts, found: Reasons) -> str:
    """The same as lines."""
    chosen, deadline_s = found.chosen, given.goals.constraints.deadline_s
    exits, mean = chosen.exits, chosen.mean
    up, down = given.topology.up[0], given.topology.down[0]
    rates = format_rate(up.bandwidth_bps)
    if up.bandwidth_bps != down.bandwidth_bps:
        rates += f" up, {format_rate(down.bandwidth_bps)} down"
    trip = format_seconds(up.latency_s + down.latency_s)
    why = "as the model says"
    if deadline_s is not None:
        why = f"the most accurate way in which every sample is answered within {format_seconds(deadline_s)}"
    handling_s = sum(mean.handling_s)
    parts = [f"{host} {seconds * 1e3:.2f}" for host, seconds in zip(chosen.plan.hosts, mean.compute_s, strict=True)]
    parts += [f"transfer {(mean.transfer_s - handling_s) * 1e3:.2f}", f"handling {handling_s * 1e3:.2f}"]
    lines = [
        f"{given.name} ({given.digest[:12]}), {rates}, round trip {trip}: plan {chosen.plan.id}",
        f"exits asked: {_title(exits)}, {why}",
        f"judged by {exits.against} on {exits.samples} samples of {exits.data}: {exits.accuracy:.2%} right",
        f"mean {mean.latency_s * 1e3:.2f} ms ({', '.join(parts)}; {format_bytes(mean.sent_bytes)} sent), "
        f"worst {chosen.worst.latency_s * 1e3:.2f} ms",
        *_exits(found.asked),
        *_rivals(given, found),
        *_choices(given, found),
        "how sure",
        f"  shares and accuracies were counted on {exits.samples} samples; other data may leave at other exits",
        *(f"  {doubt}" for doubt in doubts(given.profiles)),
    ]
    return "\n".join(lines)


def _exits(asked: Sequence[Asked]) -> list[str]:
    width = max(map(len, ("exit", *(each.name for each in asked))))
    places = max(map(len, ("decided by", *(each.host for each in asked))))
    lines = [
        f"  {'exit':<{width}}  {'decided by':<{places}}   arrive  answered  right there  a sample that leaves there"
    ]
    for each in asked:
        right = "" if each.right is None else f"{each.right:.1%}"
        lines.append(
            f"  {each.name:<{width}}  {each.host:<{places}}  {each.arrive:7.1%}  {each.answered:8.1%}  {right:>11}  "
            f"{each.latency_s * 1e3:.2f} ms"
        )
    return lines


def _rivals(given: TwoHosts, found: Reasons) -> list[str]:
    """What each other way to ask would change."""
    chosen, lines = found.chosen, ["asked otherwise, each way with the best plan of its own"]
    titles = [_title(each.weighed.exits) for each in found.rivals]
    width = max(map(len, ("exits asked", *titles)))
    lines.append(f"  {'exits asked':<{width}}       accuracy          mean         worst")
    for title, each in zip(titles, found.rivals, strict=True):
        its, notes = each.weighed, [f"one exit {'more' if each.more else 'less'}"] if _differ_in_one(each) else []
        if not its.is_within:
            never = each.needed_bps is None or each.needed_bps == math.inf
            notes.append("late at any bandwidth" if never else f"late; in time from {_rate(each.needed_bps)} on")
        notes += [f"quicker in the mean {_between(*stretch)}" for stretch in each.quicker]
        lines.append(
            f"  {title:<{width}}  {100 * (its.exits.accuracy - chosen.exits.accuracy):+6.2f} points"
            f"{1e3 * (its.mean.latency_s - chosen.mean.latency_s):+11.2f} ms"
            f"{1e3 * (its.worst.latency_s - chosen.worst.latency_s):+11.2f} ms  {', '.join(notes)}".rstrip()
        )
    return lines if found.rivals else ["its only exit can be asked in no other way"]


def _choices(given: TwoHosts, found: Reasons) -> list[str]:
    """What is chosen at other bandwidths."""
    deadline_s, now_bps = given.goals.constraints.deadline_s, given.topology.up[0].bandwidth_bps
    here = found.here(now_bps)
    if deadline_s is None:
        lines = ["these exits are asked at any bandwidth (with --deadline it decides which); the best plan for them"]
    else:
        lines = [f"what is chosen by bandwidth, every sample within {format_seconds(deadline_s)}"]
        if found.choices and found.choices[0].low_bps > LOW_BPS:
            lines.append(f"  below {format_rate(found.choices[0].low_bps)} nothing is in time")
    for each in found.choices:
        asked = "" if deadline_s is None else f"{_title(each.exits)} ({each.exits.accuracy:.2%}), "
        mark = "*" if each is here else " "
        lines.append(f"{mark} {_between(each.low_bps, each.high_bps)}: {asked}{_crossing(each.plan)}")
    return lines


def _differ_in_one(rival: Rival) -> bool:
    return len(rival.less) + len(rival.more) == 1


def _title(exits: Exits) -> str:
    return " ".join(each.name for each in exits.exits)


def _crossing(plan: Plan) -> str:
    return ", ".join(f"{tensor} as {codec}" for tensor, codec in plan.hops[0].items()) or f"all on {plan.hosts[0]}"


def _between(low_bps: float, high_bps: float) -> str:
    """A stretch of bandwidths without the ends of what was looked at, which say nothing."""
    if low_bps <= LOW_BPS and high_bps >= HIGH_BPS:
        return "at any bandwidth"
    if low_bps <= LOW_BPS:
        return f"below {format_rate(high_bps)}"
    return (
        f"above {format_rate(low_bps)}"
        if high_bps >= HIGH_BPS
        else (f"between {format_rate(low_bps)} and {format_rate(high_bps)}")
    )


def _rate(bandwidth_bps: float | None) -> str:
    return format_rate(bandwidth_bps or LOW_BPS)
