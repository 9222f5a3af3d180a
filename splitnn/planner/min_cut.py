"""The exact best plan for any DAG and any chain of hosts, as one minimum cut."""

from __future__ import annotations

from collections.abc import Mapping

from splitnn.cost.estimate import Codecs, check_profiles, tabulate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph
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
) -> Plan:
    """The plan with the lowest latency; of equally good ones, the one that keeps the most layers on earlier hosts.

    ``pins`` names the host of layers whose place is not for the planner to choose.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        InfeasiblePlan: the pins contradict each other.
        ValueError: a pin names an unknown layer or host.
    """
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
