"""The exact best plan for any DAG and any chain of hosts, as one minimum cut."""

from __future__ import annotations

from collections.abc import Mapping

from splitnn.cost.estimate import Codecs, tabulate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import ProfileMismatch
from splitnn.graph.graph import Graph
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.region import cheapest_tiers
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
    tiers = {host.name: i for i, host in enumerate(topology.hosts)}
    pinned: dict[str, int] = {}
    for layer, host in (pins or {}).items():
        if host not in tiers:
            raise ValueError(f"layer {layer!r} is pinned to host {host!r}; the topology has {list(tiers)}")
        pinned[layer] = tiers[host]
    table = tabulate(graph, profiles, topology, codecs=codecs)
    terms = terms_of(graph, table, pinned)
    latency_ns, chosen = cheapest_tiers(terms)
    decided = Plan.priced(graph, chosen, table=table, model=one_model(profiles, topology), hosts=tiers, mode=mode)
    if decided.predicted.latency_ns != latency_ns:
        raise RuntimeError(
            f"the minimum cut is worth {latency_ns} ns, but its placement costs {decided.predicted.latency_ns} ns; "
            "this is a defect of the planner"
        )
    return decided


def one_model(profiles: Mapping[str, Profile], topology: Topology) -> str:
    """Digest of the model that all hosts' profiles belong to.

    Raises:
        ProfileMismatch: they belong to different models.
    """
    models = {host.name: profiles[host.name].model for host in topology.hosts}
    if len(set(models.values())) > 1:
        raise ProfileMismatch(f"the profiles belong to different models: {models}")
    return models[topology.hosts[0].name]
