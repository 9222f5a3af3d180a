"""Every placement of one model, priced under any conditions and for any objective that adds up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from splitnn.cost.cost import Transfer, nanoseconds
from splitnn.cost.energy import EnergyPrices
from splitnn.cost.estimate import Codecs, check_profiles, codec_options, tabulate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.graph import Graph
from splitnn.planner.aim import Steps, aim_of
from splitnn.planner.chain import ChainCut, every_cut
from splitnn.planner.conditions import NS, Conditions, Form, dot
from splitnn.planner.constraints import NO_CONSTRAINTS, Constraints
from splitnn.planner.limits import Limits
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import LATENCY, Objective
from splitnn.planner.pins import TierRanges
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.search import cheapest
from splitnn.planner.terms import Terms, terms_of


class FormProblem:
    """All placements of one model that constraints leave, priced under any conditions.

    Budgets for traffic and memory are obeyed; a deadline and a limit of energy, which rule out other plans under other
    conditions, are the caller's. ``gap`` is the largest share of what an answer takes by which a better plan may
    undercut it: 0 unless a search within budgets had to end early. An envelope whose corners were all asked for has no
    larger gap between them, for the truth is concave.

    Layers and codecs cost whole nanoseconds at the topology's own load, so that there a form and ``estimate`` differ
    by the rounding of each transfer's wire time only: less than 2 ns a transfer or result.
    """

    def __init__(
        self,
        graph: Graph,
        profiles: Mapping[str, Profile],
        topology: Topology,
        *,
        codecs: Codecs = ("raw",),
        constraints: Constraints = NO_CONSTRAINTS,
        objective: Objective = LATENCY,
        energy: EnergyPrices | None = None,
        tariff: Tariff | None = None,
    ) -> None:
        """Raises ProfileMismatch, InfeasiblePlan and ValueError as ``splitnn.planner.min_cut.plan`` does.

        ValueError also for throughput, and for operators forbidden in the middle of a chain.
        """
        self.graph = graph
        self.model = check_profiles(graph, profiles, topology)
        self.hosts = tuple(host.name for host in topology.hosts)
        self.now = Conditions.of(topology)
        self._table = table = tabulate(graph, profiles, topology, codecs=codecs)
        self._compute = [table.compute_ns[layer.name] for layer in graph.layers]  # layer, host
        if constraints.barred(graph, self.hosts):
            raise ValueError("an operator is forbidden between hosts that may run it: `splitnn plan` can, this cannot")
        self.gap = 0.0
        self.aim = aim_of(objective, hosts=len(self.hosts), energy=energy, tariff=tariff)
        self._constraints = constraints
        self._terms = terms_of(graph, table, constraints.tier_ranges(graph, self.hosts))
        self._options = []  # hop, wire: the ways to carry it
        for hop in range(len(topology.up)):
            options = codec_options(graph, hop, profiles=profiles, topology=topology, codecs=codecs)
            self._options.append([_undominated(ways) for ways in options.values()])
        self._download_bits = [0] * len(graph)  # of each layer: its results
        for tensor in table.download_ns:
            self._download_bits[graph.index[graph.producer[tensor]]] += graph.tensors[tensor].size_bytes * 8
        self._most = self._most_weights()
        self._limits = Limits(
            graph,
            constraints,
            self.hosts,
            way_bytes=[[[way.bits // 8 for way in ways] for ways in row] for row in self._options],
            download_bytes=[bits // 8 for bits in self._download_bits],
        )

    @property
    def allows_local(self) -> bool:
        """Whether the constraints let the first host run everything."""
        nowhere_else = (0,) * len(self.graph)
        return not any(self._terms.tiers.lowest) and not self._limits.exceeded(nowhere_else, 0)

    def cuts(self) -> list[ChainCut]:
        """Under today's conditions, for each number of first layers that the first host may run, the best cut.

        Their numbers are what is wanted, in a unit of their own.
        """
        return every_cut(self._scaled(self._steps(self.now)))

    def solve(self, conditions: Conditions) -> Form:
        """The best placement and codecs; of equals the quickest, and of those the one that keeps the most layers on
        earlier hosts.

        Raises:
            InfeasiblePlan: no plan within the budgets was found.
        """
        steps = self._steps(conditions)
        terms = self._scaled(steps)
        best = cheapest(terms)
        form = self._form(best.tiers, self._choices(steps))
        if form.worth(conditions) * steps.per_worth + form.at(conditions) * steps.per_ns != best.latency_ns:
            raise RuntimeError(f"defect of the planner: the cut and its form differ at {conditions}")
        if not self._exceeded(form):
            return form
        form, doubt = self._within_budgets(terms, steps, terms.tiers)
        if doubt and form.worth(conditions):
            self.gap = max(self.gap, float(doubt / form.worth(conditions)))
        return form

    def priced(self, tiers: Sequence[int], conditions: Conditions) -> Form:
        """That placement with the codecs that are best under the conditions, and keep the budgets where any do.

        ``tiers`` must let no data flow back.
        """
        steps = self._steps(conditions)
        form = self._form(tuple(tiers), self._choices(steps))
        if not self._exceeded(form):
            return form
        try:
            terms, fixed = self._scaled(steps), TierRanges(form.tiers, form.tiers)
            return self._within_budgets(terms, steps, fixed)[0]
        except InfeasiblePlan:
            return form

    def matching(self, plan: Plan) -> Form:
        """The form of a plan for this model and these hosts; a codec that nothing speaks for gives way to the best."""
        choices = self._choices(self._steps(self.now))
        for hop, row in enumerate(self._options):
            for number, ways in enumerate(row):
                named = plan.hops[hop].get(ways[0].transfer.tensor)
                for i, way in enumerate(ways):
                    if way.transfer.codec == named:
                        choices[hop][number] = i
        return self._form(plan.tiers, choices)

    def plan(self, form: Form, *, mode: Mode = "exact") -> Plan:
        """The form as a plan, priced at today's conditions."""
        sent = {(transfer.hop, transfer.tensor): transfer for transfer in form.transfers}
        transfers = {
            tensor: tuple(sent.get((hop, tensor), way) for hop, way in enumerate(ways))
            for tensor, ways in self._table.transfers.items()
        }
        table = replace(self._table, transfers=transfers)
        return Plan.priced(self.graph, form.tiers, table=table, model=self.model, hosts=self.hosts, mode=mode)

    def obstacles(self, form: Form) -> list[str]:
        """What rules the form out, as clauses; empty when nothing does."""
        found = []
        for name, bound in self._constraints.bounds(self.graph, self.hosts):
            if not bound.lowest <= form.tiers[self.graph.index[name]] <= bound.highest:
                found.append(f"layer {name!r} {bound.why}")
        return [*found, *self._exceeded(form)]

    def _exceeded(self, form: Form) -> list[str]:
        return self._limits.exceeded(form.tiers, form.traffic_bytes)

    def _steps(self, conditions: Conditions) -> Steps:
        return self.aim.steps(conditions, most=self._most)

    def _most_weights(self) -> tuple[int, ...]:
        """What the weights of no form exceed."""
        hosts = range(len(self.hosts))
        busy_ns = [sum(row[host] for row in self._compute) for host in hosts]
        for hop, row in enumerate(self._options):
            busy_ns[hop] += sum(max(way.encode_ns for way in ways) for ways in row)
            busy_ns[hop + 1] += sum(max(way.decode_ns for way in ways) for ways in row)
        handling = self._table.handling_ns(len(self._options), stays=True) or [0] * len(busy_ns)
        busy_ns = [ns + more for ns, more in zip(busy_ns, handling, strict=True)]
        up = [sum(max(way.bits for way in ways) for ways in row) * NS for row in self._options]
        return (*busy_ns, *up, *(sum(self._download_bits) * NS for _ in up), *(NS for _ in up))

    def _within_budgets(self, terms: Terms, steps: Steps, tiers: TierRanges) -> tuple[Form, Fraction]:
        """A placement within them, and by how much what it is worth may be above the best one."""
        whole = steps.units
        hosts, hops = len(self.hosts), len(self._options)
        costs = [
            [[way.cost(whole[hop], whole[hop + 1], whole[hosts + hop] * NS) for way in ways] for ways in row]
            for hop, row in enumerate(self._options)
        ]
        placement, doubt = self._limits.best(terms, costs, tiers=tiers)
        form = self._form(placement.tiers, [placement.choices[hop] for hop in range(hops)])
        return form, Fraction(doubt, steps.per_worth)

    def _choices(self, steps: Steps) -> list[list[int]]:
        """Of each hop and wire the number of the best way."""
        hosts = len(self.hosts)
        found = []
        for hop, row in enumerate(self._options):
            near, far, per_bit = steps.units[hop], steps.units[hop + 1], steps.units[hosts + hop] * NS
            found.append([min([(way.cost(near, far, per_bit), i) for i, way in enumerate(ways)])[1] for ways in row])
        return found

    def _form(self, tiers: tuple[int, ...], choices: Sequence[Sequence[int]]) -> Form:
        hops = range(len(self._options))
        compute = [0] * len(self.hosts)
        download = [0 for _ in hops]
        for position, tier in enumerate(tiers):
            compute[tier] += self._compute[position][tier]
            for hop in range(tier):
                download[hop] += self._download_bits[position]
        busy_ns, up_bits = list(compute), [0 for _ in hops]
        crossing: list[list[Transfer]] = [[] for _ in hops]
        for number, wire in enumerate(self._terms.layout.wires):
            source = tiers[wire.producer] if wire.producer >= 0 else 0
            for hop in range(source, max([tiers[reader] for reader in wire.readers])):
                way = self._options[hop][number][choices[hop][number]]
                busy_ns[hop] += way.encode_ns
                busy_ns[hop + 1] += way.decode_ns
                up_bits[hop] += way.bits
                crossing[hop].append(way.transfer)
        used = [any(tier > hop for tier in tiers) for hop in hops]
        weights = (
            *busy_ns,
            *(bits * NS for bits in up_bits),
            *(bits * NS for bits in download),
            *(NS if uses else 0 for uses in used),
        )
        sent = tuple(transfer for row in crossing for transfer in row)
        handling = self._table.handling_ns(sum(used), stays=0 in tiers) or [0] * len(compute)
        aims = tuple(weight * factor for weight, factor in zip(weights, self.aim.factors, strict=True))
        aims = (
            *(aim + ns * factor for aim, ns, factor in zip(aims, handling, self.aim.handling, strict=False)),
            *aims[len(compute) :],
        )
        weights = (*(ns + more for ns, more in zip(weights, handling, strict=False)), *weights[len(compute) :])
        constant = dot(weights, self.aim.constants)
        return Form(tiers, sent, tuple(compute), tuple(handling), tuple(download), weights, aims, constant)

    def _scaled(self, steps: Steps) -> Terms:
        """What is wanted, in whole steps."""
        whole = steps.units
        hosts, hops = len(self.hosts), len(self._options)
        up, down, trip = (whole[hosts + i * hops : hosts + (i + 1) * hops] for i in range(3))
        times = [[ns * factor for ns, factor in zip(row, whole[:hosts], strict=True)] for row in self._compute]
        message, stage = (
            [ns * price for ns, price in zip(each, steps.handling, strict=False)]
            for each in (self._table.message_ns, self._table.stage_ns)
        )
        first_stage = stage[0] if stage and self.graph.layers else 0
        return replace(
            self._terms,
            on_device=sum(row[0] for row in times) + (message[0] + first_stage if message else 0),
            move=[
                [
                    row[hop + 1] - row[hop] + bits * per_bit * NS
                    for row, bits in zip(times, self._download_bits, strict=True)
                ]
                for hop, per_bit in enumerate(down)
            ],
            carry=[
                [min([way.cost(whole[hop], whole[hop + 1], per_bit * NS) for way in ways]) for ways in row]
                for hop, (row, per_bit) in enumerate(zip(self._options, up, strict=True))
            ],
            round_trip=[
                price * NS + (message[hop] + message[hop + 1] + stage[hop + 1] if message else 0)
                for hop, price in enumerate(trip)
            ],
            first_stage=first_stage,
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """One codec for one tensor over one hop."""

    encode_ns: int
    decode_ns: int
    bits: int
    transfer: Transfer

    def cost(self, near: int, far: int, per_bit: int) -> int:
        """Steps, given what a nanosecond of each end and a bit cost."""
        return self.encode_ns * near + self.decode_ns * far + self.bits * per_bit


def _undominated(options: Sequence[Transfer]) -> list[_Way]:
    """The codecs that are the quickest under some conditions, raw before its equals."""
    kept: list[_Way] = []
    for option in sorted(options, key=lambda o: (o.size_bytes, o.encode_s + o.decode_s, o.codec != "raw", o.codec)):
        way = _Way(nanoseconds(option.encode_s), nanoseconds(option.decode_s), option.size_bytes * 8, option)
        if not any(other.encode_ns <= way.encode_ns and other.decode_ns <= way.decode_ns for other in kept):
            kept.append(way)  # none that is smaller is as quick at both ends
    return kept
