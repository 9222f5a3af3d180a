"""What `plan` and `envelope` say of a model with early exits: which exits to ask, and where everything runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from splitnn.cost.network import format_rate
from splitnn.errors import InfeasiblePlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from splitnn.cli.goals import Goals
    from splitnn.cost.network import Topology
    from splitnn.cost.profile import Profile
    from splitnn.graph.exits import Exits
    from splitnn.graph.graph import Graph
    from splitnn.planner.accuracy import Option
    from splitnn.planner.deadlines import DeadlineMap
    from splitnn.planner.exits import Weighed
    from splitnn.planner.plan import Mode, Plan

NOT_USED = "exits are not used: they are planned for latency, a deadline, and layers kept on one host"

UNCALIBRATED = (
    "only lossless codecs are used: no profile says what lossy ones cost these exits with these thresholds; "
    "`splitnn calibrate` measures it"
)


def pins_of(goals: Goals, graph: Graph, topology: Topology) -> dict[str, str] | None:
    """The goals as pins, beside a deadline; None where a model with exits cannot be planned for them."""
    limits = goals.constraints
    hosts = [host.name for host in topology.hosts]
    budgets = (limits.memory_bytes or None, limits.max_bytes, limits.max_energy_j)
    if goals.objective.name != "latency" or any(budget is not None for budget in budgets):
        return None
    pins: dict[str, str] = {}
    for layer, bound in limits.bounds(graph, hosts):
        if bound.lowest != bound.highest or pins.setdefault(layer, hosts[bound.lowest]) != hosts[bound.lowest]:
            return None
    return pins


def in_time(
    exits: Exits,
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    codecs: Sequence[str],
    mode: Mode,
    pins: Mapping[str, str],
    deadline_s: float | None,
    budget: tuple[float, Callable[[Exits], Mapping[Option, float]]] | None = None,
) -> list[Weighed]:
    """Every way to ask the exits, the one to follow first.

    That is the model's own way; with a deadline the most accurate in time; with a budget (the accuracy that may be
    lost, and what lossy codecs cost each policy of it) the quickest within both.

    Raises:
        InfeasiblePlan: nothing is in time; says what is nearest.
    """
    from splitnn.planner.deadlines import every_policy
    from splitnn.planner.exit_accuracy import weigh_within
    from splitnn.planner.exits import weigh

    limit_s = math.inf if deadline_s is None else deadline_s
    if budget is not None:
        limit, drops = budget
        found = weigh_within(
            graph,
            profiles,
            topology,
            exits=exits,
            codecs=tuple(codecs),
            drops=drops,
            limit=limit,
            pins=pins,
            deadline_s=limit_s,
        )
    else:
        policies = every_policy(exits)
        found = weigh(
            graph, profiles, topology, policies=policies, codecs=codecs, mode=mode, pins=pins, deadline_s=limit_s
        )
    if deadline_s is None and budget is None:
        return sorted(found, key=lambda each: len(each.exits.exits) < len(exits.exits))  # stable: the model's own first
    if found[0].worst.latency_s > limit_s:
        nearest = min(found, key=lambda each: each.worst.latency_ns)
        raise InfeasiblePlan(
            f"no choice of exits answers every sample within {limit_s * 1e3:g} ms; the quickest, "
            f"{' '.join(each.name for each in nearest.exits.exits)}, takes {nearest.worst.latency_s * 1e3:.4g} ms",
            nearest.plan,
        )
    return found


def report_plan(name: str, weighed: Sequence[Weighed], *, deadline_s: float | None, limit: float | None = None) -> str:
    """The best policy's plan, and what the other policies would do; ``weighed`` has the best one first."""
    from splitnn.cli.wording import format_bytes, format_seconds

    best = weighed[0]
    lines = [f"{name} ({best.plan.model[:12]}), {len(best.plan.order)} layers, plan {best.plan.id}"]
    lines.append(f"exits judged by {best.exits.against} on {best.exits.samples} samples of {best.exits.data}")
    if limit is not None:
        lines.append(f"the quickest that loses at most {limit:.2%} with its exits and codecs")
    if deadline_s is not None:
        kind = "and" if limit is not None else "the most accurate"
        lines.append(f"{kind} in which every sample is answered within {format_seconds(deadline_s)}")
    titles = [" ".join(each.name for each in w.exits.exits) for w in weighed]
    width = max(len("exits asked"), *map(len, titles))
    lines.append(
        f"  {'exits asked':<{width}}  accuracy      mean     worst       sent  answered by {best.plan.hosts[0]}"
    )
    for title, each in zip(titles, weighed, strict=True):
        late = ", late" if deadline_s is not None and each.worst.latency_s > deadline_s else ""
        lines.append(
            f"{'*' if each is best else ' '} {title:<{width}}  {each.exits.accuracy:8.2%}"
            f"{each.mean.latency_s * 1e3:7.2f} ms{each.worst.latency_s * 1e3:7.2f} ms"
            f"{format_bytes(each.mean.sent_bytes):>11}  {each.answered_by(0):.1%}{late}"
        )
    for host, layers, seconds in zip(best.plan.hosts, best.plan.layers, best.mean.compute_s, strict=True):
        lines.append(f"{host}: {len(layers)} layers, {seconds * 1e3:.2f} ms in the mean")
    crossing = ", ".join(f"{t} as {codec}" for hop in best.plan.hops for t, codec in hop.items())
    lines.append(f"unsure samples go on as {crossing}" if crossing else "nothing is sent")
    return "\n".join([*lines, str(best.plan)])


def plan_json(weighed: Sequence[Weighed], *, deadline_s: float | None) -> dict[str, Any]:
    """The same as JSON; ``predicted`` is a mean over samples."""
    best = weighed[0]
    return {
        "plan": best.plan.to_json(),
        "line": str(best.plan),
        "predicted": {
            "compute_s": dict(zip(best.plan.hosts, best.mean.compute_s, strict=True)),
            "transfer_s": best.mean.transfer_s,
            "total_s": best.mean.latency_s,
        },
        "transfers": [transfer._asdict() for transfer in best.mean.transfers],
        "exits": best.exits.to_json(),
        "deadline_s": deadline_s,
        "policies": [
            {
                "exits": [exit_.name for exit_ in each.exits.exits],
                "accuracy": each.exits.accuracy,
                "mean_s": each.mean.latency_s,
                "worst_s": each.worst.latency_s,
                "sent_bytes": each.mean.sent_bytes,
                "answered_first": each.answered_by(0),
                "line": str(each.plan),
            }
            for each in weighed
        ],
    }


def report_map(name: str, found: DeadlineMap, *, deadline_s: float | None) -> str:
    """Every policy over all bandwidths and, for a deadline, which one to follow where."""
    from splitnn.cli.wording import format_seconds

    policies = found.policies
    low, high = found.low_bps, found.high_bps
    lines = [f"{name}: {len(policies)} ways to ask its exits, judged by {policies[0].against} on {policies[0].data}"]
    titles = [" ".join(each.name for each in exits.exits) for exits in policies]
    width = max(len("exits asked"), *map(len, titles))
    ends = [f"{format_rate(bps)}" for bps in (low, high)]
    lines.append(f"{'exits asked':<{width}}  accuracy" + "".join(f"{'mean, worst at ' + end:>32}" for end in ends))
    for title, exits in zip(titles, policies, strict=True):
        lean, quick = found.of(exits)
        cells = [
            f"{c.mean.latency_s(bps) * 1e3:.2f}, {d.worst.latency_s(bps) * 1e3:.2f} ms"
            for c, d, bps in ((lean[0], quick[0], low), (lean[-1], quick[-1], high))
        ]
        lines.append(f"{title:<{width}}  {exits.accuracy:8.2%}" + "".join(f"{cell:>32}" for cell in cells))
    if deadline_s is None:
        return "\n".join([*lines, "with --deadline TIME: the most accurate that is in time, by bandwidth"])
    lines.append(f"the most accurate within {format_seconds(deadline_s)}, every sample counted")
    for choice in found.choices(deadline_s):
        asked = " ".join(each.name for each in choice.exits.exits)
        limits = f"{format_rate(choice.low_bps)} to {format_rate(choice.high_bps)}"
        lines.append(f"{limits:>28}  {choice.exits.accuracy:.2%}  {asked}, {_crossing(choice.plan)}")
    return "\n".join(lines)


def map_json(found: DeadlineMap, *, deadline_s: float | None) -> dict[str, Any]:
    """The same as JSON; latencies are ``fixed_ns + slope / bandwidth_bps`` nanoseconds."""
    return {
        "format": "splitnn-deadline-map-1",
        "low_bps": found.low_bps,
        "high_bps": found.high_bps,
        "deadline_s": deadline_s,
        "policies": [
            {
                "exits": exits.to_json(),
                "accuracy": exits.accuracy,
                **{
                    kind: [choice.to_json() for choice in choices]
                    for kind, choices in zip(("leanest", "quickest"), found.of(exits), strict=True)
                },
            }
            for exits in found.policies
        ],
        "choices": None
        if deadline_s is None
        else [
            choice.to_json() | {"exits": [each.name for each in choice.exits.exits], "accuracy": choice.exits.accuracy}
            for choice in found.choices(deadline_s)
        ],
    }


def _crossing(plan: Plan) -> str:
    return ", ".join(f"{t} as {codec}" for t, codec in plan.hops[0].items()) or f"all on {plan.hosts[0]}"
