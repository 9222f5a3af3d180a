"""One way to run a model, over one trace from its start: which ways there are, and the requests that each answered."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.bandwidth_sweep.cells import percentile
from experiments.bandwidth_sweep.measuring import Asking
from experiments.bandwidth_sweep.ways import CLOUD_RAW, DEVICE, STATIC, Planning, compressed_inputs
from experiments.emulation.traces import Trace
from experiments.emulation.virtual_clock import PAYLOAD_SHARE
from splitnn.cost.network import Topology
from splitnn.planner.envelope import compute_envelope
from splitnn.planner.plan import Plan

AGENT = "agent"
_MOST_FIXED = 3


@dataclass(frozen=True, slots=True)
class Way:
    """What every request of a pass asks for: ``auto``, or one plan's line."""

    name: str
    plan: str


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a pass; times are seconds since the trace began."""

    sent_s: float
    latency_s: float  # of a lost one the deadline
    held_s: float  # until the next was sent
    plan: str  # that it followed
    sent_bytes: int
    degraded: str  # why the agent finished it without the cloud, or ""
    lost: str  # why there was no answer, or ""


@dataclass(frozen=True)
class Pass:
    """Every request of one way over one trace."""

    way: str
    asked: tuple[Asked, ...]

    def __str__(self) -> str:
        mean = f", mean {self.mean_s * 1e3:.0f} ms" if self.asked else ""
        return f"{len(self.asked)} requests{mean}" + f", {self.lost} lost" * bool(self.lost)

    @property
    def mean_s(self) -> float:
        """Over time: what somebody finds who looks at any moment.

        A request counts for as long as the next one had to wait for it. A mean over requests would count a stall of ten
        seconds once, and the quick ones around it five times a second.
        """
        return sum(each.latency_s * each.held_s for each in self.asked) / sum(each.held_s for each in self.asked)

    @property
    def p50_s(self) -> float:
        """Over requests."""
        return percentile([each.latency_s for each in self.asked], 50)

    @property
    def p95_s(self) -> float:
        """Over requests."""
        return percentile([each.latency_s for each in self.asked], 95)

    @property
    def sent_bytes(self) -> float:
        """Mean of the requests."""
        return sum(each.sent_bytes for each in self.asked) / len(self.asked)

    @property
    def degraded(self) -> int:
        return sum(bool(each.degraded) for each in self.asked)

    @property
    def lost(self) -> int:
        return sum(bool(each.lost) for each in self.asked)

    @property
    def switches(self) -> int:
        """How often a request followed another plan than the one before it."""
        plans = [each.plan for each in self.asked if not each.lost]
        return sum(a != b for a, b in itertools.pairwise(plans))


def ways_of(planning: Planning, trace: Trace, *, duration_s: float, topology: Callable[[float], Topology]) -> list[Way]:
    """The agent itself; fixed plans: both ends, the best one for the mean rate, and those that are best for longest.

    ``topology`` makes the link that has a rate, in bits per second as emulated links count them. The last are up to
    three plans of the envelope: those whose bandwidths the trace has for most of the time.

    Raises:
        ValueError: the trace is one outage for as long as it is followed.
    """
    live = {rate_bps: seconds for rate_bps, seconds in seconds_at(trace, duration_s).items() if rate_bps > 0}
    if not live:
        raise ValueError(f"nothing passes in the first {duration_s:g} s of this trace")
    usual = topology(sum(rate_bps * seconds for rate_bps, seconds in live.items()) / sum(live.values()))
    size = len(planning.graph)
    named = [
        (DEVICE, planning.priced([0] * size, usual, codecs=("raw",))),
        (CLOUD_RAW, planning.priced([1] * size, usual, codecs=("raw",))),
    ]
    named += [
        (role, planning.priced([1] * size, usual, codecs=codecs))
        for role, codecs in compressed_inputs(planning)
        if isinstance(codecs, dict) and all(set(options) <= set(planning.codecs) for options in codecs.values())
    ]
    named.append((STATIC, planning.best(usual)))
    envelope = compute_envelope(
        planning.graph, planning.profiles, usual, codecs=planning.codecs, varying="both",
        low_bps=min(live) * PAYLOAD_SHARE / 1.5, high_bps=max(live) * PAYLOAD_SHARE * 1.5,
    )  # fmt: skip
    best_s: dict[str, float] = {}
    plans: dict[str, Plan] = {}
    for rate_bps, seconds in live.items():
        plan = envelope.at(rate_bps * PAYLOAD_SHARE)
        plans[plan.id] = plan
        best_s[plan.id] = best_s.get(plan.id, 0.0) + seconds
    longest = sorted(best_s, key=lambda name: -best_s[name])[:_MOST_FIXED]
    named += [(f"fixed {number}", plans[plan_id]) for number, plan_id in enumerate(longest, 1)]
    unlike = {plan.id: (name, str(plan)) for name, plan in reversed(named)}  # the first name of each plan stays
    return [Way(AGENT, "auto"), *(Way(name, line) for name, line in reversed(unlike.values()))]


def seconds_at(trace: Trace, duration_s: float) -> dict[float, float]:
    """How long the link has each rate (bits per second), while the trace is followed for so long."""
    seconds: dict[float, float] = {}
    for (at_s, rate_bps), (end_s, _) in itertools.pairwise(trace.looped()):
        if at_s >= duration_s:
            break
        seconds[rate_bps] = seconds.get(rate_bps, 0.0) + min(end_s, duration_s) - at_s
    return seconds


def warm_up(ask: Asking, ways: Sequence[Way], *, deadline_s: float) -> None:
    """Each way twice, so that its stages are compiled and both hosts' speeds known before the trace begins."""
    for turn in range(2):
        for way in ways:
            ask(way.plan, turn=turn, deadline_s=deadline_s)


def run_pass(ask: Asking, way: Way, *, duration_s: float, period_s: float, deadline_s: float) -> Pass:
    """A request every ``period_s``, or as soon as the one before it is answered, for so long."""
    asked: list[Asked] = []
    began_s = time.monotonic()
    while (sent_s := time.monotonic() - began_s) < duration_s:
        answer: dict[str, Any] = ask(way.plan, turn=len(asked), deadline_s=deadline_s)
        time.sleep(max(0.0, sent_s + period_s - (time.monotonic() - began_s)))
        held_s = time.monotonic() - began_s - sent_s
        if "failed" in answer:
            asked.append(Asked(sent_s, deadline_s, held_s, "", 0, "", str(answer["failed"])))
        else:
            took_s = float(answer["total_s"]) - float(answer["choose_s"])
            decision = str(answer["plan"]).split("| model")[0].strip(" |")
            degraded = str(answer.get("degraded", ""))
            asked.append(Asked(sent_s, took_s, held_s, decision, int(answer["sent_bytes"]), degraded, ""))
    return Pass(way.name, tuple(asked))
