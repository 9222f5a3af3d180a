"""When another plan is worth the change. Pure: the conditions go in, a decision with its reason in words comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from splitnn.cost.accuracy import policy_drop
from splitnn.cost.estimate import Codecs, tabulate
from splitnn.cost.expected import expected_cost
from splitnn.cost.network import Topology, format_rate
from splitnn.cost.profile import Profile
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.accuracy import Allowance
from splitnn.planner.exits import plan_exits
from splitnn.planner.min_cut import plan as best_plan
from splitnn.planner.plan import Plan


@dataclass(frozen=True, slots=True)
class Policy:
    """How reluctant to be. A change must save both a share of the latency and a time that somebody notices."""

    least_gain: float = 0.08  # of the present plan's latency
    least_gain_s: float = 0.002
    dwell_s: float = 2.0  # a plan is kept at least so long,
    urgent_gain: float = 0.4  # unless a change saves so much

    def __post_init__(self) -> None:
        if not (0 <= self.least_gain <= self.urgent_gain < 1 and min(self.least_gain_s, self.dwell_s) >= 0):
            raise ValueError(f"a policy needs 0 <= least gain <= urgent gain < 1 and times of 0 or more, not {self}")


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a decision rests on: how fast the hosts are and what lies between them now."""

    profiles: Mapping[str, Profile]
    topology: Topology

    def __str__(self) -> str:
        """The first hop and the hosts' load: ``9.8Mbps/21 ms, cloud x1.3``."""
        words = []
        if self.topology.up:
            up, down = self.topology.up[0], self.topology.down[0]
            words.append(f"{format_rate(up.bandwidth_bps)}/{(up.latency_s + down.latency_s) * 1e3:.3g} ms")
        words += [f"{h.name} x{h.slowdown:.2g}" for h in self.topology.hosts if abs(h.slowdown - 1) >= 0.05]
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class Decision:
    """The plan to follow, priced at the present conditions, and why."""

    plan: Plan
    is_change: bool
    reason: str
    is_settled: bool = True  # False: a better plan only waits until the current one has dwelt


def decide(
    current: Plan,
    graph: Graph,
    conditions: Conditions,
    *,
    held_s: float,
    codecs: Codecs = ("raw",),
    exits: Exits | None = None,
    allowance: Allowance | None = None,
    policy: Policy = Policy(),
) -> Decision:
    """Keep the current plan, which was followed for ``held_s``, or change to the best one.

    With an ``allowance`` lossy codecs are used within it, instead of ``codecs``. With ``exits`` the best plan has the
    lowest mean latency by their measured shares, and what they lose (``policy_drop``, its upper end) is taken from the
    allowance first: where it is all gone, no codec is lossy. The plan that is returned is priced for a request that
    goes all the way: what one needs that has not left yet.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
    """
    current = reprice(current, graph, conditions)
    profiles, topology = conditions.profiles, conditions.topology
    if exits is not None:
        mean = expected_cost(graph, current.placement, profiles, topology, exits=exits, codecs=current.codecs)
        best = _best_with_exits(graph, conditions, exits, codecs=codecs, allowance=allowance)
        usual = replace(current, predicted=mean)
        decision = weigh(usual, best, held_s=held_s, policy=policy, circumstances=str(conditions))
        return replace(decision, plan=reprice(decision.plan, graph, conditions))
    if allowance is None:
        best = best_plan(graph, profiles, topology, codecs=codecs)
    else:
        best = allowance.best(lambda each: best_plan(graph, profiles, topology, codecs=each), graph.tensors)
    return weigh(current, best, held_s=held_s, policy=policy, circumstances=str(conditions))


def _best_with_exits(
    graph: Graph, conditions: Conditions, exits: Exits, *, codecs: Codecs, allowance: Allowance | None
) -> Plan:
    profiles, topology = conditions.profiles, conditions.topology
    if allowance is None:
        return plan_exits(graph, profiles, topology, exits=exits, codecs=codecs)
    lost = max(0.0, policy_drop(exits, [each.name for each in exits.exits]).high)
    rest = replace(allowance, limit=max(0.0, allowance.limit - lost))
    return rest.best(lambda each: plan_exits(graph, profiles, topology, exits=exits, codecs=each), graph.tensors)


def weigh(current: Plan, best: Plan, *, held_s: float, policy: Policy, circumstances: str = "") -> Decision:
    """Decide between two plans that are priced alike."""
    now_s, then_s = current.predicted.latency_s, best.predicted.latency_s
    saved_s = now_s - then_s
    gain = saved_s / now_s if now_s > 0 else 0.0
    at = f"at {circumstances} " if circumstances else ""
    change = f"{at}{then_s * 1e3:.4g} ms instead of {now_s * 1e3:.4g} ms, {gain:.0%} less"
    if best.id == current.id:
        return Decision(current, is_change=False, reason=f"{at}it is the best plan")
    if gain < policy.least_gain or saved_s < policy.least_gain_s:
        return Decision(current, is_change=False, reason=f"too little to gain: {change}")
    if held_s < policy.dwell_s and gain < policy.urgent_gain:
        reason = f"changed only {held_s:.1f} s ago: {change}"
        return Decision(current, is_change=False, reason=reason, is_settled=False)
    return Decision(best, is_change=True, reason=change)


def reprice(plan: Plan, graph: Graph, conditions: Conditions) -> Plan:
    """The same decision with its cost at these conditions.

    A tensor that crosses several hops with different codecs is priced with the cheapest of them on each.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
    """
    table = tabulate(graph, conditions.profiles, conditions.topology, codecs=plan.codecs)
    hosts = tuple(host.name for host in conditions.topology.hosts)
    priced = Plan.priced(graph, plan.tiers, table=table, model=plan.model, hosts=hosts, mode=plan.mode)
    return Plan(plan.model, hosts, plan.order, plan.tiers, plan.hops, priced.predicted, plan.mode)
