"""The ways to run a model over one link that are worth measuring: baselines and the planner's choices. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from splitnn.cost.estimate import Codecs, tabulate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph
from splitnn.planner.chain import every_cut
from splitnn.planner.envelope import Envelope
from splitnn.planner.min_cut import plan as best_plan
from splitnn.planner.pins import tier_ranges
from splitnn.planner.plan import Plan
from splitnn.planner.terms import terms_of

HOSTS = ("device", "cloud")
DEVICE, CLOUD_RAW, COMPRESSED = "device", "cloud raw", "cloud compressed"
NEUROSURGEON, NEUROSURGEON_CODED, STATIC = "neurosurgeon", "neurosurgeon+codecs", "static"
PLANNED, AGENT, CANDIDATE = "planned", "agent", "candidate"
BASELINES = (DEVICE, CLOUD_RAW, COMPRESSED, NEUROSURGEON, NEUROSURGEON_CODED, STATIC)

_IMAGE_CODECS = ("jpeg90", "png")  # what a user would send a photo as, the usual one first


@dataclass(frozen=True, slots=True)
class Way:
    """One plan and the parts that it plays: a baseline may well be what the planner chose too."""

    plan: Plan
    roles: tuple[str, ...]

    @property
    def is_remote(self) -> bool:
        return not self.plan.is_local


@dataclass(frozen=True)
class Planning:
    """Everything that a plan follows from, but the link."""

    graph: Graph
    profiles: Mapping[str, Profile]
    codecs: Sequence[str]

    def priced(self, tiers: Sequence[int], topology: Topology, *, codecs: Codecs) -> Plan:
        """The plan with these tiers, at its cost over this link."""
        table = tabulate(self.graph, self.profiles, topology, codecs=codecs)
        return Plan.priced(self.graph, tiers, table=table, model=self.profiles["device"].model, hosts=HOSTS)

    def best(self, topology: Topology) -> Plan:
        """The planner's choice."""
        return best_plan(self.graph, self.profiles, topology, codecs=self.codecs)

    def cut_latencies_s(self, topology: Topology, *, codecs: Codecs | None = None) -> list[float]:
        """[k]: predicted seconds when the device runs the first k layers."""
        table = tabulate(self.graph, self.profiles, topology, codecs=self.codecs if codecs is None else codecs)
        cuts = every_cut(terms_of(self.graph, table, tier_ranges(self.graph, {}, list(HOSTS))))
        return [cut.latency_ns * 1e-9 for cut in cuts]

    def cut_vertices(self) -> list[int]:
        """Numbers of first layers between which and the rest one made tensor crosses, with both ends.

        The chain that Neurosurgeon (Kang et al. 2017) would see. Inputs that late layers read (a mask) don't count.
        """
        graph, layers = self.graph, [layer.name for layer in self.graph.layers]
        made = {position: sum(t in graph.producer for t in graph.crossing(layers[:position]))
                for position in range(1, len(layers))}  # fmt: skip
        return [0, *(position for position, tensors in made.items() if tensors == 1), len(layers)]

    def neurosurgeon(self, topology: Topology, *, codecs: Codecs, chain: Iterable[int]) -> Plan:
        """The best cut of the chain."""
        latencies_s = self.cut_latencies_s(topology, codecs=codecs)
        best = min(chain, key=lambda position: latencies_s[position])
        return self.priced(_tiers(len(self.graph), best), topology, codecs=codecs)


def ways_over(
    planning: Planning,
    topology: Topology,
    *,
    envelope: Envelope,
    static: Plan,
    chain: Sequence[int],
) -> list[Way]:
    """Baselines and choices over one link, each plan once, the quickest by prediction first.

    The planner's choice, every plan of its envelope, both ends, and whatever the baselines chose.
    """
    size = len(planning.graph)
    best = planning.best(topology)
    named: list[tuple[str, Plan]] = [
        (PLANNED, best),
        (DEVICE, planning.priced([0] * size, topology, codecs=("raw",))),
        (CLOUD_RAW, planning.priced([1] * size, topology, codecs=("raw",))),
        *((role, planning.priced([1] * size, topology, codecs=codecs)) for role, codecs in compressed_inputs(planning)),
        (NEUROSURGEON, planning.neurosurgeon(topology, codecs=("raw",), chain=chain)),
        (NEUROSURGEON_CODED, planning.neurosurgeon(topology, codecs=planning.codecs, chain=chain)),
        (STATIC, repriced(planning, static, topology)),
        *(("envelope", repriced(planning, piece.plan, topology)) for piece in envelope.pieces()),
    ]  # fmt: skip
    roles: dict[str, list[str]] = {}
    plans: dict[str, Plan] = {}
    for role, plan in named:
        plans.setdefault(plan.id, plan)
        if role not in roles.setdefault(plan.id, []):
            roles[plan.id].append(role)
    ways = [Way(plan, tuple(roles[name])) for name, plan in plans.items()]
    return sorted(ways, key=lambda way: way.plan.predicted.latency_s)


def repriced(planning: Planning, plan: Plan, topology: Topology) -> Plan:
    """The same decision at its cost over another link."""
    return planning.priced(plan.tiers, topology, codecs=plan.codecs)


def compressed_inputs(planning: Planning) -> list[tuple[str, Codecs]]:
    """The inputs as a user would send them: photos in the usual image formats, token ids as they are."""
    inputs = {name: planning.graph.tensors[name] for name in planning.graph.inputs}
    photos = [name for name, spec in inputs.items() if spec.dtype == "uint8" and spec.shape[-1:] == (3,)]
    if not photos:
        return [(COMPRESSED, ("raw",))]
    usual, *others = _IMAGE_CODECS
    return [
        (COMPRESSED, dict.fromkeys(photos, (usual,))),
        *((f"cloud {codec}", dict.fromkeys(photos, (codec,))) for codec in others),
    ]


def _tiers(layers: int, on_device: int) -> list[int]:
    return [0] * on_device + [1] * (layers - on_device)
