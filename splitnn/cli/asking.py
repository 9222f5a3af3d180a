"""What `plan` says of a model with early exits: which exits to ask, and where everything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from splitnn.cli.goals import describe, to_json
from splitnn.cli.wording import format_bytes, format_seconds
from splitnn.cost.energy import energy
from splitnn.errors import InfeasiblePlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from splitnn.cli.goals import Goals
    from splitnn.cost.network import Topology
    from splitnn.cost.profile import Profile
    from splitnn.graph.exits import Exits
    from splitnn.graph.graph import Graph
    from splitnn.planner.accuracy import Option
    from splitnn.planner.choice import Choice
    from splitnn.planner.exits import Weighed
    from splitnn.planner.plan import Mode

NOT_USED = "exits are not used: a front of two goals is one of plans without them"

UNCALIBRATED = (
    "only lossless codecs are used: no profile says what lossy ones cost these exits with these thresholds; "
    "`splitnn calibrate` measures it"
)


def weigh_policies(
    exits: Exits,
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    goals: Goals,
    codecs: Sequence[str],
    mode: Mode,
    loss: tuple[float, Callable[[Exits], Mapping[Option, float]]] | None = None,
) -> list[Weighed]:
    """Every way to ask the exits, the one to follow first.

    That is the model's own way; with a budget (a deadline, bytes, energy, memory) the most accurate that keeps it for
    every sample; with a ``loss`` (the accuracy that may be lost, and what lossy codecs cost each policy of it) the best
    that keeps both.

    Raises:
        InfeasiblePlan: nothing keeps the budgets; says what is nearest.
    """
    from splitnn.planner.deadlines import every_policy
    from splitnn.planner.exit_accuracy import weigh_within
    from splitnn.planner.exits import weigh

    wanted: dict[str, Any] = {
        "objective": goals.objective,
        "constraints": goals.constraints,
        "energy": goals.energy,
        "tariff": goals.tariff,
    }
    if loss is not None:
        limit, drops = loss
        found = weigh_within(
            graph, profiles, topology, exits=exits, codecs=tuple(codecs), drops=drops, limit=limit, **wanted
        )
    else:
        policies = every_policy(exits)
        found = weigh(graph, profiles, topology, policies=policies, codecs=codecs, mode=mode, **wanted)
    if not has_budgets(goals):
        if loss is not None:
            return found
        return sorted(found, key=lambda each: len(each.exits.exits) < len(exits.exits))  # stable: the model's own first
    if not found[0].is_within:
        nearest = min(found, key=lambda each: each.excess)
        raise InfeasiblePlan(
            f"no choice of exits {_within(goals, 'keeps')} for every sample; the nearest, "
            f"{_title(nearest)}, takes {_uses(nearest, goals)}",
            nearest.plan,
        )
    return found


def has_budgets(goals: Goals) -> bool:
    """Whether a request may take only so much of something."""
    return bool(goals.constraints.unbounded())


def _within(goals: Goals, verb: str) -> str:
    names = list(goals.constraints.unbounded())
    return f"{verb} {' and '.join(names)}"


def _uses(weighed: Weighed, goals: Goals) -> str:
    """What a sample takes that leaves last, of all that is limited."""
    limits, worst = goals.constraints, weighed.worst
    found = []
    if limits.deadline_s is not None:
        found.append(f"{format_seconds(worst.latency_s)} of {format_seconds(limits.deadline_s)}")
    if limits.max_bytes is not None:
        found.append(f"{worst.traffic_bytes} of {limits.max_bytes} bytes")
    if limits.max_energy_j is not None and goals.energy is not None:
        received = sum(each.size_bytes for each in worst.downloads if each.hop == 0)
        joules = energy(worst, goals.energy, downloaded_bytes=received).total_j
        found.append(f"{joules:.3g} of {limits.max_energy_j:g} J")
    for host, limit in limits.memory_bytes.items():
        peak = weighed.choice.peak_bytes[weighed.plan.hosts.index(host)]
        found.append(f"{peak} of {limit} bytes of {host}'s memory")
    return ", ".join(found)


def report_plan(name: str, weighed: Sequence[Weighed], *, goals: Goals, limit: float | None = None) -> str:
    """The best policy's plan, and what the other policies would do; ``weighed`` has the best one first."""
    best = weighed[0]
    lines = [f"{name} ({best.plan.model[:12]}), {len(best.plan.order)} layers, plan {best.plan.id}"]
    lines.append(f"exits judged by {best.exits.against} on {best.exits.samples} samples of {best.exits.data}")
    objective = goals.objective
    kind = "the quickest" if objective.is_latency else f"the best for {objective.name}"
    if limit is not None:
        lines.append(f"{kind} that loses at most {limit:.2%} with its exits and codecs")
    if has_budgets(goals):
        kind = "and" if limit is not None else "the most accurate"
        lines.append(f"{kind} in which every sample {_within(goals, 'keeps')}: {_uses(best, goals)}")
    titles = [_title(each) for each in weighed]
    width = max(len("exits asked"), *map(len, titles))
    worth = "" if objective.is_latency else f"{objective.name:>16}"
    lines.append(
        f"  {'exits asked':<{width}}  accuracy      mean     worst       sent{worth}  answered by {best.plan.hosts[0]}"
    )
    for title, each in zip(titles, weighed, strict=True):
        over = "" if each.is_within else f", {'late' if _only_late(goals) else 'over a budget'}"
        worth = "" if objective.is_latency else f"{_worth(each.choice):>16}"
        lines.append(
            f"{'*' if each is best else ' '} {title:<{width}}  {each.exits.accuracy:8.2%}"
            f"{each.mean.latency_s * 1e3:7.2f} ms{each.worst.latency_s * 1e3:7.2f} ms"
            f"{format_bytes(each.mean.sent_bytes):>11}{worth}  {each.answered_by(0):.1%}{over}"
        )
    for host, layers, seconds in zip(best.plan.hosts, best.plan.layers, best.mean.compute_s, strict=True):
        lines.append(f"{host}: {len(layers)} layers, {seconds * 1e3:.2f} ms in the mean")
    crossing = ", ".join(f"{t} as {codec}" for hop in best.plan.hops for t, codec in hop.items())
    lines.append(f"unsure samples go on as {crossing}" if crossing else "nothing is sent")
    if goals.are_stated:
        lines += describe(best.choice, goals)
    return "\n".join([*lines, str(best.plan)])


def _title(weighed: Weighed) -> str:
    return " ".join(each.name for each in weighed.exits.exits)


def _only_late(goals: Goals) -> bool:
    return list(goals.constraints.unbounded()) == ["the deadline"]


def _worth(choice: Choice) -> str:
    if choice.objective.is_throughput:
        return f"{choice.plan.predicted.throughput_rps:.4g} a second"
    unit = choice.objective.unit
    return f"{choice.value:.4g}" + ("" if unit in ("weighted", "money") else f" {unit}")


def plan_json(weighed: Sequence[Weighed], *, goals: Goals) -> dict[str, Any]:
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
        "deadline_s": goals.constraints.deadline_s,
        "policies": [
            {
                "exits": [exit_.name for exit_ in each.exits.exits],
                "accuracy": each.exits.accuracy,
                "mean_s": each.mean.latency_s,
                "worst_s": each.worst.latency_s,
                "sent_bytes": each.mean.sent_bytes,
                "value": each.choice.value,
                "is_within": each.is_within,
                "answered_first": each.answered_by(0),
                "line": str(each.plan),
            }
            for each in weighed
        ],
        **({"choice": to_json(best.choice, goals)} if goals.are_stated else {}),
    }
