"""The real agent and the real server over a link that follows a trace, once for each way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments.adaptation.passes import AGENT, Pass, Way, run_pass, warm_up, ways_of
from experiments.adaptation.setup import Setup
from experiments.bandwidth_sweep.application import Application
from experiments.bandwidth_sweep.cells import topology_of
from experiments.bandwidth_sweep.deployment import Deployment, Subject
from experiments.bandwidth_sweep.measuring import wait_for_cloud
from experiments.bandwidth_sweep.ways import Planning
from experiments.testbed import Host, Shape, Trace, calibrated_link, replayed
from splitnn.cost.network import Topology

_DEADLINE_S = 30.0
_LEAST_MEAN_BPS = 1e5  # to begin at, and to calibrate


@dataclass(frozen=True)
class Followed:
    """What came of one trace."""

    passes: tuple[Pass, ...]
    ways: tuple[Way, ...]
    method: str  # of making hosts and link, in words


def follow(trace: Trace, subject: Subject, setup: Setup, *, say: Callable[[str], None]) -> Followed:
    """All passes over one trace, every one from its start. The agent begins with the trace's mean rate as its belief.

    The agent's own pass comes first, so that it has learnt from no other way's transfers but the warm-up's. In every
    second round the order is reversed.

    Raises:
        RuntimeError, OSError, ValueError: the link, the hosts or the programs are not to be had here.
    """
    mean_bps = max(trace.mean_bps(), _LEAST_MEAN_BPS)

    def shape(rate_bps: float) -> Shape:
        return Shape(rate_bps, rate_bps, rtt_s=setup.rtt_s)

    def topology(rate_bps: float) -> Topology:
        return topology_of(shape(rate_bps))

    with (
        calibrated_link(shape(mean_bps)) as (link, calibration),
        Deployment(
            subject, link, device_share=setup.device_share, server_share=setup.server_share, codecs=setup.codecs,
            believed=f"{mean_bps:.0f}bps/{setup.rtt_s * 1e3:g}ms",
        ) as deployment,
        Host("application", link=link, side="device") as host,
        Application(host) as application,
    ):  # fmt: skip

        def ask(plan: str, *, turn: int, deadline_s: float) -> dict[str, Any]:
            example = subject.examples[turn % len(subject.examples)]
            return application.ask(deployment.agent, subject.name, example=example, plan=plan, deadline_s=deadline_s)

        planning = Planning(subject.model.graph, deployment.profiles, setup.codecs)
        ways = ways_of(planning, trace, duration_s=setup.seconds, topology=topology)
        say(f"  link: {calibration}; {len(ways)} ways")
        wait_for_cloud(ask)
        warm_up(ask, ways, deadline_s=_DEADLINE_S)
        passes = []
        for number in range(setup.rounds):
            for way in ways if number % 2 == 0 else ways[::-1]:
                with replayed(trace, link):
                    passes.append(
                        run_pass(ask, way, duration_s=setup.seconds, period_s=setup.period_s, deadline_s=_DEADLINE_S)
                    )
                say(f"  {way.name}: {passes[-1]}")
        return Followed(tuple(passes), tuple(ways), f"{deployment.method}; link by {link.method}")


def plans_of(followed: Followed) -> dict[str, str]:
    """What each fixed way is, by name, without its prediction."""
    return {way.name: way.plan.split("| model")[0].strip(" |") for way in followed.ways if way.name != AGENT}
