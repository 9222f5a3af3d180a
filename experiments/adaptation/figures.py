"""What the passes over a trace say: each way's mean, and the agent beside the best fixed plan of each stretch. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.adaptation.passes import AGENT, Pass

STRETCH_S = 5.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """The same seconds of a trace, as each way had them; mean latencies in seconds by way."""

    start_s: float
    mean_s: Mapping[str, float]

    @property
    def best_fixed_s(self) -> float | None:
        """Of the fixed plans; None where none has a figure."""
        return min((mean_s for way, mean_s in self.mean_s.items() if way != AGENT), default=None)


def stretches(passes: Sequence[Pass], *, duration_s: float) -> list[Stretch]:
    """Of five seconds each, the last one of what is left. A request belongs to all that it was under way in.

    Several passes of one way count together. Every way has a figure in every stretch that its pass reached.
    """
    found = []
    for number in range(max(1, math.ceil(duration_s / STRETCH_S))):
        start_s, end_s = number * STRETCH_S, min((number + 1) * STRETCH_S, duration_s)
        parts: dict[str, list[tuple[float, float]]] = {}  # by way: latency, and for how long it counts here
        for each in passes:
            for asked in each.asked:
                inside_s = min(end_s, asked.sent_s + asked.held_s) - max(start_s, asked.sent_s)
                if inside_s > 0:
                    parts.setdefault(each.way, []).append((asked.latency_s, inside_s))
        means = {way: sum(t * s for t, s in all_s) / sum(s for _, s in all_s) for way, all_s in parts.items()}
        found.append(Stretch(start_s, means))
    return found


def merged(passes: Sequence[Pass]) -> list[Pass]:
    """One pass a way, in the order of their first appearance; requests in the order of their passes."""
    ways = list(dict.fromkeys(each.way for each in passes))
    return [Pass(way, tuple(a for each in passes if each.way == way for a in each.asked)) for way in ways]


def figures_of(passes: Sequence[Pass], *, duration_s: float) -> dict[str, float | None]:
    """Ratios of mean latencies, and what became of the agent's requests. A lost request counts with its deadline.

    ``speedup_vs_best_fixed`` compares with the fixed plan that proved best over the whole trace, which nobody knows
    beforehand. ``regret_vs_stretches`` is how much longer the agent took than the best fixed plan of every five
    seconds; the least of several noisy means flatters that oracle, and the agent may beat it with a plan of its own.
    Where the agent stays with one of the fixed plans, what the two differ by is noise.
    """
    ways = {each.way: each for each in merged(passes) if each.asked}
    agent = ways.get(AGENT)
    fixed = {name: each for name, each in ways.items() if name != AGENT}
    figures: dict[str, float | None] = {
        "agent_mean_s": agent.mean_s if agent else None,
        "agent_p95_s": agent.p95_s if agent else None,
        "speedup_vs_best_fixed": None,
        "regret_vs_stretches": None,
    }
    if agent and fixed:
        figures["speedup_vs_best_fixed"] = min(each.mean_s for each in fixed.values()) / agent.mean_s
        compared = [
            (mine_s, best_s)
            for stretch in stretches(passes, duration_s=duration_s)
            if (mine_s := stretch.mean_s.get(AGENT)) is not None and (best_s := stretch.best_fixed_s) is not None
        ]
        figures["regret_vs_stretches"] = sum(mine for mine, _ in compared) / sum(best for _, best in compared) - 1
        figures |= {f"speedup_vs_{name}": each.mean_s / agent.mean_s for name, each in fixed.items()}
    figures |= {
        "requests": sum(len(each.asked) for each in passes),
        "requests_lost": sum(each.lost for each in passes),
        "agent_requests_lost": agent.lost if agent else None,
        "agent_requests_degraded": agent.degraded if agent else None,
        "agent_switches": sum(each.switches for each in passes if each.way == AGENT),
        "agent_sent_bytes": agent.sent_bytes if agent else None,
    }
    return figures


def headline(by_trace: Mapping[str, Mapping[str, float | None]]) -> dict[str, float | None]:
    """Over all traces."""

    def all_of(name: str) -> list[float]:
        return [value for figures in by_trace.values() if (value := figures.get(name)) is not None]

    gains, regrets = all_of("speedup_vs_best_fixed"), all_of("regret_vs_stretches")
    return {
        "speedup_vs_best_fixed_min": min(gains, default=None),
        "speedup_vs_best_fixed_median": statistics.median(gains) if gains else None,
        "speedup_vs_best_fixed_max": max(gains, default=None),
        "regret_vs_stretches_mean": statistics.mean(regrets) if regrets else None,
        "regret_vs_stretches_worst": max(regrets, default=None),
        "requests": sum(all_of("requests")),
        "requests_lost": sum(all_of("requests_lost")),
        "agent_requests_lost": sum(all_of("agent_requests_lost")),
        "agent_requests_degraded": sum(all_of("agent_requests_degraded")),
    }


def table(passes: Sequence[Pass], lines: Mapping[str, str]) -> list[str]:
    """One line a way, the quickest first. ``lines`` are the fixed ways' plans."""
    rows = [
        f"{'way':<18} {'mean ms':>8} {'p50':>7} {'p95':>7} {'requests':>9} {'degraded':>9} {'lost':>5} {'kB':>7}  plan"
    ]
    for each in sorted((each for each in merged(passes) if each.asked), key=lambda each: each.mean_s):
        plan = (
            lines.get(each.way) or f"{len({a.plan for a in each.asked if not a.lost})} plans, {each.switches} changes"
        )
        rows.append(
            f"{each.way:<18} {each.mean_s * 1e3:8.0f} {each.p50_s * 1e3:7.0f} {each.p95_s * 1e3:7.0f} "
            f"{len(each.asked):9} {each.degraded:9} {each.lost:5} {each.sent_bytes / 1e3:7.1f}  {plan}"
        )
    return rows
