"""What `envelope` says of a model with early exits: which exits to ask, and where everything runs, by bandwidth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from splitnn.cost.network import format_rate

if TYPE_CHECKING:
    from splitnn.cli.goals import Goals
    from splitnn.cost.network import Topology
    from splitnn.graph.graph import Graph
    from splitnn.planner.deadlines import DeadlineMap
    from splitnn.planner.plan import Plan

NOT_USED = (
    "exits are not used: over all bandwidths they are planned for latency, a deadline, and layers kept on one host; "
    "`splitnn plan` plans them for anything at one bandwidth"
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
