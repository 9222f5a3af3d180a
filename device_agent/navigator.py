"""Which plan the next request follows, from what is known of both hosts and the link."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from splitnn.cost.accuracy import policy_drop
from splitnn.cost.bandwidth import LinkEstimator
from splitnn.cost.estimate import tabulate
from splitnn.cost.network import Host, Link, Topology
from splitnn.cost.profile import CodecCost, Profile
from splitnn.cost.slowdown import MedianEstimator, SlowdownEstimator
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.accuracy import Allowance, Option
from splitnn.planner.exit_accuracy import policy_drops
from splitnn.planner.plan import Plan
from splitnn.planner.timetable import Way, policies_of, timetable, ways_between
from splitnn.runtime.replan import Conditions, Decision, Policy, decide, reprice
from splitnn.transport.base import Answer, Clock, HostReport
from splitnn.transport.codec import codec

DEVICE, CLOUD = "device", "cloud"
_FRESH_S = 10.0  # what requests tell of the cloud's speed counts for so long, then its own report does
_GRAIN_S = 0.005  # what a scheduler may give to a run of the device or take from it
_MOVED = 0.05  # conditions that changed less are the same
_MOVED_S = 0.002

_NO_CODING = CodecCost(0, 0.0, 0.0)

Pin = Literal["auto", "device", "cloud"] | Plan
"""The planner decides; everything stays on the device or goes to the cloud; this very plan."""


def parse_pin(text: str, graph: Graph, digest: str) -> Pin:
    """``auto``, ``device``, ``cloud``, or a plan's line. Whoever writes a lossy codec into a line has asked for it.

    Raises:
        ValueError: none of these, or no plan of this model for a device and a cloud, or a codec that cannot be.
    """
    match text:
        case "auto" | "device" | "cloud":
            return text
    try:
        plan = Plan.parse(text, graph, model=digest)
    except ValueError as error:
        raise ValueError(f"a plan is auto, device, cloud or a plan's line; {error}") from error
    if len(plan.hosts) != 2:
        raise ValueError(f"a plan for a device and a cloud has two hosts, not {list(plan.hosts)}")
    for tensor, name in plan.hops[0].items():
        spec, asked = graph.tensors[tensor], codec(name)
        if spec.dtype != "int" and not asked.accepts(spec):  # a plain integer travels beside the codecs
            raise ValueError(f"codec {name!r} takes no {spec.dtype} {list(spec.shape)} such as tensor {tensor!r}")
    return plan


class Navigator:
    """Keeps the current plan, and what observation says of the profiles.

    ``profile`` is the device's, ``stand_in`` takes the place of the cloud's until the cloud tells its own.
    """

    def __init__(
        self,
        graph: Graph,
        profile: Profile,
        estimator: LinkEstimator,
        *,
        stand_in: Profile,
        codecs: Sequence[str] = ("raw",),
        exits: Exits | None = None,
        allowance: Allowance | None = None,
        pin: Pin = "auto",
        policy: Policy | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._graph = graph
        self._profile = profile
        self._estimator = estimator
        self._cloud_profile = stand_in
        self._reported_slowdown = 1.0
        self._codecs = tuple(codecs)
        self._exits = exits
        self._allowance = allowance
        self._pin = pin
        self._policy = policy or Policy()
        self._clock = clock
        self._device_pace = SlowdownEstimator(grain_s=_GRAIN_S, clock=clock)
        self._device_coding = SlowdownEstimator(grain_s=_GRAIN_S, untold="factor", clock=clock)
        self._cloud_pace = SlowdownEstimator(fresh_s=_FRESH_S, clock=clock)
        self._local = MedianEstimator(clock=clock)  # what a request costs beside its stages that never leaves
        self._remote = MedianEstimator(clock=clock)  # and one that leaves at once, beside coding and the network too
        self._split = MedianEstimator(clock=clock)  # and one that leaves after a stage
        self._far = MedianEstimator(clock=clock)  # what it costs there, beside stage and coding
        self._decided_at: Conditions | None = None
        self._since_s = clock()
        self.on_device = self._all_on(0, self.conditions())
        self.plan = self.on_device

    @property
    def uses_cloud(self) -> bool:
        """Whether the cloud could ever have a part."""
        return self._pin != "device" and not (isinstance(self._pin, Plan) and self._pin.is_local)

    def learn(self, report: HostReport) -> None:
        """The cloud told its profile and its load."""
        if report.profile is not None:
            self._cloud_profile = report.profile
        self._reported_slowdown = report.slowdown

    def observe_device(self, layers: Sequence[str], seconds: float) -> None:
        """The device took so long for these layers, at the batch of the profile."""
        self._device_pace.observe(seconds, profiled_s=_sum(self._profile, layers))

    def observe_cloud(self, layers: Sequence[str], seconds: float) -> None:
        """The cloud took so long for these layers, waiting for its processor included."""
        self._cloud_pace.observe(seconds, profiled_s=_sum(self._cloud_profile, layers))

    def observe_local(self, *, beside_s: float) -> None:
        """A request of the profile's batch that was alone and never left took so long beside its stages."""
        self._local.observe(beside_s)

    def observe_remote(self, plan: Plan, answer: Answer, *, beside_s: float) -> None:
        """One that did leave, as the plan says, took so long here beside its own stages, and got this answer."""
        transfers = plan.predicted.transfers
        encoding_s = sum(_coding(self._profile, t.tensor, t.codec).encode_s for t in transfers)
        decoding_s = sum(_coding(self._cloud_profile, t.tensor, t.codec).decode_s for t in transfers)
        self._device_coding.observe(answer.encode_s, profiled_s=encoding_s)
        coding = self._device_coding if self._device_coding.is_known else self._device_pace
        kind = self._split if 0 in plan.tiers else self._remote
        kind.observe(max(0.0, beside_s - answer.elapsed_s - encoding_s * coding.factor))
        far = answer.timings
        self._far.observe(max(0.0, far.total_s - far.queue_s - far.compute_s - decoding_s))

    def conditions(self) -> Conditions:
        """What is believed now."""
        cloud_slowdown = self._cloud_pace.factor if self._cloud_pace.is_known else self._reported_slowdown
        hosts = self._hosts(cloud_slowdown)
        up, down = self._estimator.links(idle_s=self._estimator.typical_idle_s)
        return Conditions({DEVICE: self._profile, CLOUD: self._cloud_profile}, Topology(hosts, (up,), (down,)))

    def _hosts(self, cloud_slowdown: float) -> tuple[Host, Host]:
        """Both as they are now.

        A request costs here, beside layers, coding and network: r + s when it stays, r + h when it leaves at once, and
        r + s + h when it does both. Three kinds are observed for these three; what was not observed is the profile's.
        """
        pace, own = self._device_pace, self._profile
        message_s, stage_s = own.message_s * pace.factor, own.stage_s * pace.factor
        leaves_s = _known(self._remote.seconds, 2 * message_s)
        stays_s = max(0.0, _known(self._local.seconds, message_s + stage_s) + pace.fixed_s)
        both_s = max(stays_s, leaves_s, _known(self._split.seconds, leaves_s + stage_s) + pace.fixed_s)
        both_s = min(both_s, stays_s + leaves_s)  # what is more, no terms can say: the two ends come first
        far_s = _known(
            self._far.seconds, (self._cloud_profile.message_s + self._cloud_profile.stage_s) * cloud_slowdown
        )
        hop_s = both_s - stays_s + far_s
        request_s = max(0.0, min(stays_s + leaves_s - both_s, hop_s))  # a hop holds one such message too
        coding = self._device_coding
        device = Host(
            DEVICE,
            pace.factor,
            coding_slowdown=coding.factor if coding.is_known else None,
            stage_s=max(0.0, stays_s - request_s),
            message_s=request_s,
        )
        return device, Host(CLOUD, cloud_slowdown, stage_s=0.0, message_s=hop_s - request_s)

    def has_moved(self, now: Conditions) -> bool:
        """Whether the last decision rests on conditions that are over."""
        return self._decided_at is None or differ(self._decided_at, now)

    def decide(self, now: Conditions) -> Decision:
        """Choose the plan for the next requests; some milliseconds of work, on any thread. Changes nothing."""
        if self._pin != "auto":
            plan = self.priced(self._pin, now)
            return Decision(plan, is_change=plan.id != self.plan.id, reason="it was asked for")
        held_s = self._clock() - self._since_s
        return decide(
            self.plan,
            self._graph,
            now,
            held_s=held_s,
            codecs=self._codecs,
            exits=self._exits,
            allowance=self._allowance,
            policy=self._policy,
        )

    @property
    def is_free(self) -> bool:
        """Whether nobody asked for a plan."""
        return self._pin == "auto"

    def ways(self, now: Conditions, *, exits: Exits, around: float) -> list[Way]:
        """How a request may be answered by one deadline or another, at a bandwidth up to so many times off the present.

        Minimum cuts by the dozen, on any thread. Changes nothing.
        """
        calibrated, allowance = self._profile.accuracy, self._allowance
        bandwidth_bps = now.topology.up[0].bandwidth_bps
        found: list[Way] = []
        for policy in policies_of(exits):
            drops: Mapping[Option, float] | None = None
            limit = 0.0
            if allowance is not None:
                drops = policy_drops(calibrated, allowance.codecs, policy) if calibrated is not None else {}
                limit = allowance.limit - max(0.0, policy_drop(exits, [each.name for each in policy.exits]).high)
            found += ways_between(
                self._graph,
                now.profiles,
                now.topology,
                policy=policy,
                codecs=self._codecs,
                drops=drops,
                limit=limit,
                low_bps=bandwidth_bps / around,
                high_bps=bandwidth_bps * around,
            )
        return found

    def ways_here(self, exits: Exits) -> list[Way]:
        """The same without the cloud."""
        return [Way(policy, self.on_device, policy.accuracy, mean_s=0.0) for policy in policies_of(exits)]

    def timetable(self, ways: Sequence[Way], now: Conditions) -> tuple[Way, ...]:
        """See ``splitnn.planner.timetable``."""
        return timetable(ways, self._graph, now.profiles, now.topology)

    def priced(self, pin: Pin, now: Conditions) -> Plan:
        """The plan that somebody asked for, with its cost under these conditions; the current one for ``auto``."""
        if isinstance(pin, Plan):
            return reprice(pin, self._graph, now)
        return self.plan if pin == "auto" else self._all_on(0 if pin == DEVICE else 1, now)

    def follow(self, decision: Decision, now: Conditions) -> None:
        """Make the plan that was decided under these conditions the current one."""
        if decision.is_change:
            self._since_s = self._clock()
        self._decided_at = now if decision.is_settled else None
        self.plan = decision.plan

    def restart(self) -> None:
        """The cloud was found again: whatever is decided next need not wait."""
        self._decided_at = None
        self._since_s = -math.inf

    def device_seconds(self, layers: Sequence[str]) -> float:
        """Predicted seconds of these layers on the device as it is now."""
        return _sum(self._profile, layers) * self._device_pace.factor + max(0.0, self._device_pace.fixed_s)

    def _all_on(self, tier: int, now: Conditions) -> Plan:
        table = tabulate(self._graph, now.profiles, now.topology, codecs=self._codecs)
        tiers = [tier] * len(self._graph)
        return Plan.priced(self._graph, tiers, table=table, model=self._profile.model, hosts=(DEVICE, CLOUD))


def as_cloud(profile: Profile) -> Profile:
    """A guess at the cloud's speed by somebody who has only measured the device."""
    return replace(profile, host=CLOUD)


def _known(observed_s: float | None, otherwise_s: float) -> float:
    return otherwise_s if observed_s is None else observed_s


def _sum(profile: Profile, layers: Sequence[str]) -> float:
    return sum(profile.seconds(layer) for layer in layers)


def _coding(profile: Profile, tensor: str, codec: str) -> CodecCost:
    """What one codec takes on a tensor; nothing where that was not measured, as for plain bytes."""
    return profile.codecs.get(tensor, {}).get(codec, _NO_CODING)


def differ(old: Conditions, new: Conditions) -> bool:
    """Whether what was decided under the old conditions should be decided again."""

    def host_differs(before: Host, after: Host) -> bool:
        pairs = ((before.stage_s, after.stage_s), (before.message_s, after.message_s))
        fixed = any(abs((now_s or 0.0) - (then_s or 0.0)) > _MOVED_S for then_s, now_s in pairs)
        coding = (after.coding_slowdown or after.slowdown) / (before.coding_slowdown or before.slowdown)
        return fixed or max(abs(coding - 1), abs(after.slowdown / before.slowdown - 1)) > _MOVED

    def link_differs(before: Link, after: Link) -> bool:
        rate = abs(after.bandwidth_bps / before.bandwidth_bps - 1) > _MOVED
        return rate or abs(after.latency_s - before.latency_s) > max(_MOVED_S, before.latency_s * 2 * _MOVED)

    hosts = zip(old.topology.hosts, new.topology.hosts, strict=True)
    return (
        old.profiles[CLOUD] is not new.profiles[CLOUD]
        or any(host_differs(before, after) for before, after in hosts)
        or any(link_differs(*pair) for pair in zip(old.topology.up, new.topology.up, strict=True))
    )
