"""One model over one link, as it was measured: the figures that follow from the requests of each way."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.bandwidth_sweep.cuts import Survey
from experiments.bandwidth_sweep.ways import AGENT
from experiments.emulation.shape import Shape
from experiments.emulation.virtual_clock import PAYLOAD_SHARE
from splitnn.cost.network import Host, Link, Topology
from splitnn.planner.plan import Plan


@dataclass(frozen=True)
class Measured:
    """One way over one link: what was predicted, and its requests in the order of the rounds."""

    plan: Plan  # priced by the profile and the stated link, before anything was observed
    roles: tuple[str, ...]
    requests: tuple[dict[str, Any], ...]  # those that went this way
    degraded: tuple[dict[str, Any], ...] = ()  # those that the agent finished without the cloud, against the plan
    failures: tuple[str, ...] = ()

    def number(self, name: str) -> float:
        """Median over the requests."""
        return statistics.median(float(request[name]) for request in self.requests)

    @property
    def latencies_s(self) -> list[float]:
        """Of each request, in the agent, without the search for a plan that the request itself asked for."""
        return [request["total_s"] - request["choose_s"] for request in self.requests]

    @property
    def p50_s(self) -> float:
        return statistics.median(self.latencies_s)

    @property
    def p95_s(self) -> float:
        """Of fewer than 20 requests the longest."""
        return percentile(self.latencies_s, 95)

    @property
    def seen_s(self) -> float:
        """Median seconds that the application waited, without that search."""
        return statistics.median(float(request["seen_s"] - request["choose_s"]) for request in self.requests)

    def wire_limit_s(self, shape: Shape) -> float:
        """What TCP over this link takes at least for the bytes of the median request: every frame, one round trip."""
        sent, received = self.number("sent_bytes"), self.number("received_bytes")
        if not sent:
            return 0.0
        return shape.rtt_s + (sent * 8 / shape.up_bps + received * 8 / shape.down_bps) / PAYLOAD_SHARE


@dataclass(frozen=True)
class Cell:
    """One model over one link."""

    model: str
    shape: Shape
    is_calibrated: bool
    ways: tuple[Measured, ...]
    load: float  # runnable threads of the machine meanwhile
    switches_bps: tuple[float, ...] = ()  # where the planner would change plans, at this round trip
    notes: tuple[str, ...] = field(default=())
    about: Mapping[str, str] = field(default_factory=dict)  # commit, machine and date of the run that measured it
    survey: Survey | None = None  # of the candidate cuts; None before there was one

    def find(self, role: str) -> Measured | None:
        """The way that plays this part, when it was measured."""
        return next((way for way in self.ways if role in way.roles and way.requests), None)

    @property
    def chosen(self) -> Measured | None:
        """The plan that the agent followed of its own accord."""
        return self.find(AGENT)

    @property
    def oracle(self) -> Measured | None:
        """The way with the least median, of all that were measured: the candidate cuts that ``survey`` counts."""
        return min((way for way in self.ways if way.requests), key=lambda way: way.p50_s, default=None)


def percentile(values: Sequence[float], percent: int) -> float:
    """The least of the values that so many percent of them do not exceed."""
    return sorted(values)[max(1, -(-percent * len(values) // 100)) - 1]


def topology_of(shape: Shape) -> Topology:
    """What a planner is told of a link whose rate counts frames."""
    up = Link(shape.up_bps * PAYLOAD_SHARE, shape.rtt_s / 2)
    down = Link(shape.down_bps * PAYLOAD_SHARE, shape.rtt_s / 2)
    return Topology((Host("device"), Host("cloud")), (up,), (down,))
