"""A policy's plan between two bandwidths, with its latency as a line over 1/bandwidth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from splitnn.graph.exits import Exits
from splitnn.planner.plan import Plan


@dataclass(frozen=True, slots=True)
class Course:
    """A latency over the bandwidth of the first hop, round trips included."""

    fixed_ns: int
    slope: Fraction  # nanoseconds for each second a bit

    def at(self, x: Fraction) -> Fraction:
        """Nanoseconds at x seconds a bit."""
        return self.fixed_ns + self.slope * x

    def is_same(self, other: Course) -> bool:
        """Whether both cost the same at every bandwidth."""
        return self == other

    def meets(self, other: Course) -> Fraction:
        """Where two courses of different slopes cross."""
        return (other.fixed_ns - self.fixed_ns) / (self.slope - other.slope)

    def latency_s(self, bandwidth_bps: float) -> float:
        """Seconds at that bandwidth."""
        return (self.fixed_ns + float(self.slope) / bandwidth_bps) * 1e-9

    def bandwidth_for(self, deadline_s: float) -> float:
        """The bandwidth from which on it is in time: 0 for always, infinite for never."""
        spare_ns = deadline_s * 1e9 - self.fixed_ns
        if spare_ns < 0 or (spare_ns == 0 and self.slope > 0):
            return math.inf
        return float(self.slope) / spare_ns if self.slope > 0 else 0.0


@dataclass(frozen=True, slots=True)
class PolicyPlan:
    """What to do between two bandwidths: which exits to ask, and where everything runs."""

    low_bps: float
    high_bps: float
    exits: Exits
    plan: Plan  # its cost is the mean over samples in the middle of that range
    worst: Course  # of a sample that leaves at the last exit
    mean: Course

    def to_json(self) -> dict[str, Any]:
        """A JSON object: limits, decision, and both latencies as nanoseconds and nanoseconds for a second a bit."""
        plan = self.plan.to_json()
        del plan["predicted"]  # that belongs to one bandwidth
        return {
            "low_bps": self.low_bps,
            "high_bps": self.high_bps,
            "worst": {"fixed_ns": self.worst.fixed_ns, "slope": float(self.worst.slope)},
            "mean": {"fixed_ns": self.mean.fixed_ns, "slope": float(self.mean.slope)},
            "plan": plan,
        }

    def is_in_time(self, bandwidth_bps: float, deadline_s: float) -> bool:
        """Whether every sample is answered within the deadline."""
        return self.worst.latency_s(bandwidth_bps) <= deadline_s
