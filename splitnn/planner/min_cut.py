"""The exact best plan for any DAG and any chain of hosts, as one minimum cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from splitnn.cost.energy import EnergyPrices
from splitnn.cost.estimate import Codecs, check_profiles, tabulate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.choice import choose
from splitnn.planner.constraints import Constraints
from splitnn.planner.exits import ask, plan_exits
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import LATENCY, Objective
from splitnn.planner.pins import tier_ranges
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.search import cheapest
from splitnn.planner.terms import terms_of


def plan(
    graph: Graph,
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    codecs: Codecs = ("raw",),
    mode: Mode = "exact",
    pins: Mapping[str, str] | None = None,
    objective: Objective = LATENCY,
    constraints: Constraints | None = None,
    energy: EnergyPrices | None = None,
    tariff: Tariff | None = None,
    exits: Exits | None = None,
) -> Plan:
    """The plan with the lowest latency; of equally good ones, the one that keeps the most layers on earlier hosts.

    ``pins`` names the host of layers whose place is not for the planner to choose. Another objective, or constraints,
    are the work of ``splitnn.planner.choice.choose``, which also says how much is proven. With ``exits`` the mean over
    samples is what counts, and budgets hold for each of them (``splitnn.planner.exits.ask``).

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: the pins or constraints contradict each other, or no plan keeps the budgets.
        ValueError: a pin or constraint names what does not exist, or the objective lacks its prices.
    """
    if exits is not None and objective.is_latency and constraints is None:
        return plan_exits(graph, profiles, topology, exits=exits, codecs=codecs, mode=mode, pins=pins)
    if not objective.is_latency or constraints is not None:
        given = constraints or Constraints()
        limits = replace(given, pins={**given.pins, **(pins or {})})
        wanted: dict[str, Any] = {"objective": objective, "constraints": limits, "energy": energy, "tariff": tariff}
        if exits is None:
            return choose(graph, profiles, topology, codecs=codecs, mode=mode, **wanted).plan
        asked = ask(graph, profiles, topology, exits=exits, codecs=codecs, mode=mode, **wanted)
        if not asked.is_within:
            raise InfeasiblePlan(f"no plan keeps the budgets for every sample; the nearest is {asked.plan}", asked.plan)
        return asked.plan
    hosts = [host.name for host in topology.hosts]
    table = tabulate(graph, profiles, topology, codecs=codecs)
    terms = terms_of(graph, table, tier_ranges(graph, pins or {}, hosts))
    best = cheapest(terms)
    decided = Plan.priced(
        graph, best.tiers, table=table, model=check_profiles(graph, profiles, topology), hosts=hosts, mode=mode
    )
    if decided.predicted.latency_ns != best.latency_ns:
        raise RuntimeError(
            f"defect of the planner: the minimum cut is worth {best.latency_ns} ns, "
            f"but its placement costs {decided.predicted.latency_ns} ns"
        )
    return decided
