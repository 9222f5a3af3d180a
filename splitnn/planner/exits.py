"""The exact best plan for a model with exits: cut, codecs, and the host that decides each exit, together.

Once it is known on which host each exit is decided, every term of the mean cost has one share of samples that pay it
(``splitnn.cost.expected``), and the rest is one minimum cut with the exits' logits pinned. Exits are decided in order,
so there are few ways to give them to hosts: 4 for three exits and two hosts, 10 for three. All are tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from splitnn.cost.cost import Cost
from splitnn.cost.energy import EnergyPrices
from splitnn.cost.estimate import Codecs, check_profiles, tabulate
from splitnn.cost.expected import Shares
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.choice import Choice, Settled, settle_or_nearest
from splitnn.planner.constraints import NO_CONSTRAINTS, Constraints
from splitnn.planner.meters import Tariff
from splitnn.planner.names import layers_named
from splitnn.planner.objective import LATENCY, Objective
from splitnn.planner.pins import TierRanges, exit_pins, tier_ranges
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.priced import PricedProblem
from splitnn.planner.search import Decision, cheapest
from splitnn.planner.terms import terms_of


def plan_exits(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    exits: Exits,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    pins: Mapping[str, str] | None = None,
) -> Plan:
    """The plan with the lowest mean latency; of equals the one that decides exits on earlier hosts.

    ``ask`` finds as quick a plan, and any other. This is what an agent does between two requests: one codec a tensor
    is chosen before the cut, which then is a matter of milliseconds.

    Its predicted cost is a mean over samples throughout, bytes included. Layers that none of the exits needs cost
    nothing wherever they are.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: the pins contradict each other or leave no order of the exits.
        ValueError: a pin names what does not exist, or an exit is no output of the graph.
    """
    hosts = [host.name for host in topology.hosts]
    model = check_profiles(graph, profiles, topology)
    table = tabulate(graph, profiles, topology, codecs=codecs)
    best: tuple[Decision, Shares, TierRanges] | None = None
    for decided_on, pinned in exit_pins(graph, exits, hosts, pins or {}):
        ranges = tier_ranges(graph, pinned, hosts)
        shares = Shares.of(graph, exits, decided_on, hosts=len(hosts))
        found = cheapest(terms_of(shares.graph, shares.table(table), ranges.of_part(graph, shares.graph)))
        if best is None or found.latency_ns < best[0].latency_ns:
            best = found, shares, ranges
    if best is None:
        raise InfeasiblePlan("the pins leave no host on which each exit could be decided after the one before it")
    found, shares, ranges = best
    tiers = ranges.filled(graph, dict(zip(shares.graph.index, found.tiers, strict=True)))
    decided = Plan.priced(graph, tiers, table=table, model=model, hosts=hosts, mode=mode, shares=shares)
    if decided.predicted.latency_ns != found.latency_ns:
        raise RuntimeError(
            f"defect of the planner: the minimum cut is worth {found.latency_ns} ns, "
            f"but its placement costs {decided.predicted.latency_ns} ns"
        )
    return decided


@dataclass(frozen=True, slots=True)
class Weighed:
    """One policy with its best plan for some goals, and the cost of a request that leaves last."""

    exits: Exits
    choice: Choice  # what it is worth, and its amounts, are means over samples
    worst: Cost
    decided_on: tuple[int, ...]  # of each exit the index of its host
    excess: float = 0.0  # by what share a request may exceed the budget that it exceeds most

    @property
    def plan(self) -> Plan:
        """Its cost is a mean over samples."""
        return self.choice.plan

    @property
    def mean(self) -> Cost:
        """The mean cost of a request."""
        return self.choice.plan.predicted

    @property
    def is_within(self) -> bool:
        """Whether every sample keeps the budgets."""
        return self.excess == 0

    def answered_by(self, tier: int) -> float:
        """The share of samples that the host of that index answers."""
        left = [left for left, host in zip(self.exits.left, self.decided_on, strict=True) if host == tier]
        return sum(left) / self.exits.samples


def ask(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    exits: Exits,
    objective: Objective = LATENCY,
    constraints: Constraints = NO_CONSTRAINTS,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    energy: EnergyPrices | None = None,
    tariff: Tariff | None = None,
    effort: int = 1000,
) -> Weighed:
    """The best plan of one policy for any objective under any constraints, as ``choose`` without exits.

    What is wanted is a mean over samples; for throughput the longest mean time for which a request keeps a host or a
    link busy. Budgets hold for every sample. Where no plan keeps them, it is one that exceeds them least. ``effort``
    is spent on each way to give the exits to hosts.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: the constraints contradict each other or leave no order of the exits.
        ValueError: a constraint names what does not exist, the objective or a budget lacks its prices, or an exit is
            no output of the graph.
    """
    hosts = [host.name for host in topology.hosts]
    pins = {layer: host for name, host in constraints.pins.items() for layer in layers_named(graph, name)}
    found: list[tuple[Settled, Cost, tuple[int, ...]]] = []
    contradictions: list[InfeasiblePlan] = []
    constraints.tier_ranges(graph, hosts)  # what contradicts itself without exits is told without them
    for decided_on, pinned in exit_pins(graph, exits, hosts, pins):
        try:
            problem = PricedProblem(
                graph,
                profiles,
                topology,
                objective=objective,
                constraints=replace(constraints, pins={**constraints.pins, **pinned}),
                codecs=codecs,
                mode=mode,
                energy=energy,
                tariff=tariff,
                exits=exits,
                decided_on=decided_on,
            )
            settled = settle_or_nearest(problem, effort=effort)
        except InfeasiblePlan as error:
            contradictions.append(error)
        else:
            found.append((settled, problem.worst(settled.placement), decided_on))
    if not found:
        if contradictions:
            raise contradictions[0]
        raise InfeasiblePlan("the pins leave no host on which each exit could be decided after the one before it")
    best, worst, decided_on = min(found, key=lambda each: _rank(each[0]))  # of equals the first: on earlier hosts
    bound = min(settled.choice.bound for settled, *_ in found)
    choice = replace(
        best.choice,
        bound=bound,
        is_optimal=bound >= best.choice.value and not best.excess,
        cuts=sum(settled.choice.cuts for settled, *_ in found),
    )
    return Weighed(exits, choice, worst, decided_on, best.excess)


def _rank(settled: Settled) -> tuple[float, int, int]:
    return settled.excess, settled.steps, settled.choice.plan.predicted.latency_ns


def weigh(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    policies: Iterable[Exits],
    objective: Objective = LATENCY,
    constraints: Constraints = NO_CONSTRAINTS,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    energy: EnergyPrices | None = None,
    tariff: Tariff | None = None,
) -> list[Weighed]:
    """Every policy with its best plan, the most accurate first; those that exceed a budget come last.

    For latency under a deadline that is the lowest mean in which no sample is late. ``splitnn.planner.deadlines`` says
    for all bandwidths at once which policy is in time; it looks at two plans of each, the lowest mean and the lowest
    worst case, so between those the mean here may be lower.

    Raises:
        ProfileMismatch, ValueError: as ``ask``.
        InfeasiblePlan: the constraints leave no policy a plan.
    """
    found, failed = [], None
    for exits in policies:
        try:
            weighed = ask(
                graph,
                profiles,
                topology,
                exits=exits,
                objective=objective,
                constraints=constraints,
                codecs=codecs,
                mode=mode,
                energy=energy,
                tariff=tariff,
            )
        except InfeasiblePlan as error:
            failed = failed or error
        else:
            found.append(weighed)
    if not found and failed is not None:
        raise failed
    return sorted(found, key=lambda each: (not each.is_within, -each.exits.accuracy, each.choice.value))
