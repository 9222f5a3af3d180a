"""What a plan is weighed against before a person believes it: other cuts, and no cut at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from splitnn.cost.energy import EnergyPrices
from splitnn.cost.energy import energy as price_energy
from splitnn.cost.estimate import Codecs, check_profiles, tabulate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph
from splitnn.planner.chain import alternatives
from splitnn.planner.constraints import Constraints
from splitnn.planner.memory import Memory
from splitnn.planner.plan import Plan

_IMAGE_CODECS = ("png", "jpeg90")  # as a user would send a photo: losslessly, and as cameras do


@dataclass(frozen=True, slots=True)
class Option:
    """A plan that was not chosen, under a name that says what it does."""

    name: str
    plan: Plan
    is_ruled_out: bool = False  # by a goal: shown for comparison only


def other_cuts(
    graph: Graph, profiles: Mapping[str, Profile], topology: Topology, *, best: Plan, codecs: Codecs
) -> list[Option]:
    """The three best cuts elsewhere, the quickest first."""
    found = alternatives(graph, profiles, topology, best=best, codecs=codecs, count=3)
    return [Option(_crossing(graph, plan), plan) for plan in found if len(set(plan.tiers)) > 1]


def _crossing(graph: Graph, plan: Plan) -> str:
    """What crosses which hop: ``features.3 as int8``, hops separated by semicolons; plain integers are not named."""
    hops = [
        ", ".join(f"{name} as {codec}" for name, codec in hop.items() if graph.tensors[name].dtype != "int")
        for hop in plan.hops
    ]
    return "; ".join(hop for hop in hops if hop) or "plain integers"


def obeys(plan: Plan, graph: Graph, *, constraints: Constraints, energy: EnergyPrices | None) -> bool:
    """Whether the constraints allow a plan that was found without them; energy is asked only with its prices."""
    cost, limits = plan.predicted, constraints
    placed = all(
        bound.lowest <= plan.tiers[graph.index[layer]] <= bound.highest
        for layer, bound in limits.bounds(graph, plan.hosts)
    )
    within = [
        (cost.latency_s, limits.deadline_s),
        (cost.traffic_bytes, limits.max_bytes),
        *(
            (Memory(graph, plan.hosts.index(host)).peak_bytes(plan.tiers), most)
            for host, most in limits.memory_bytes.items()
        ),
        *([(price_energy(cost, energy).total_j, limits.max_energy_j)] if energy else []),
    ]
    return placed and all(most is None or amount <= most for amount, most in within)


def no_cut(graph: Graph, profiles: Mapping[str, Profile], topology: Topology) -> list[Option]:
    """Everything on one host, the quickest first; the input travels raw and, where it is an image, as an image file."""
    model = check_profiles(graph, profiles, topology)
    hosts = [host.name for host in topology.hosts]
    options = []
    for codec in ("raw", *_IMAGE_CODECS):
        measured = all(codec in found.codecs.get(name, {}) for found in profiles.values() for name in graph.inputs)
        table = tabulate(graph, profiles, topology, codecs=(codec,))
        for tier, host in enumerate(hosts):
            if codec == "raw" or (tier and measured):
                plan = Plan.priced(graph, [tier] * len(graph), table=table, model=model, hosts=hosts)
                options.append(Option(f"all on {host}" + (f", input as {codec}" if tier else ""), plan))
    return sorted(options, key=lambda option: option.plan.predicted.latency_ns)
