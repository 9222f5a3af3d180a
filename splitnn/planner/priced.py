"""All placements of one model that constraints leave, priced: what planners of any objective minimise over.

Of a model with exits what is wanted is a mean over samples, and what is limited holds for every one of them: budgets
are those of a request that leaves at the last exit, which pays for everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from math import floor

from splitnn.cost.cost import Cost, Transfer
from splitnn.cost.energy import EnergyPrices
from splitnn.cost.estimate import Codecs, CostTable, check_profiles, price
from splitnn.cost.expected import Shares
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.planner.bounded import Outcome, Row, minimise
from splitnn.planner.budget import Budget
from splitnn.planner.constraints import Constraints
from splitnn.planner.memory import Memory
from splitnn.planner.meters import Meter, Metering, Tariff
from splitnn.planner.objective import METER_UNITS, QUANTITIES, Objective, Quantity
from splitnn.planner.plan import Mode, Plan
from splitnn.planner.relaxation import Placement, Task

_BARRED_FROM = 1 << 799  # half of what a layer on a forbidden host costs (``relaxation``): no sum of others gets there


class PricedProblem:
    """All placements of one model that constraints leave, with a meter for each quantity that matters.

    ``decided_on`` has the index of the host that decides each of the ``exits``; the constraints pin it there.
    """

    def __init__(
        self,
        graph: Graph,
        profiles: Mapping[str, Profile],
        topology: Topology,
        *,
        objective: Objective,
        constraints: Constraints,
        codecs: Codecs,
        mode: Mode,
        energy: EnergyPrices | None,
        tariff: Tariff | None,
        exits: Exits | None = None,
        decided_on: Sequence[int] = (),
    ) -> None:
        self._graph = graph
        self._model = check_profiles(graph, profiles, topology)
        self._hosts = hosts = [host.name for host in topology.hosts]
        self.objective = objective
        self._constraints = constraints
        self._mode: Mode = mode
        self._energy = energy
        self._shares = self._at_worst = None
        if exits is not None:
            self._shares = Shares.of(graph, exits, decided_on, hosts=len(hosts))
            self._at_worst = Shares.of(graph, exits.at_worst(), decided_on, hosts=len(hosts))
        self._metering = metering = Metering(graph, profiles, topology, codecs=codecs, shares=self._shares)
        meters = {"latency": metering.latency(), "bytes": metering.traffic()}
        if energy is not None:
            meters["energy"] = metering.energy(energy)
        if tariff is not None:
            meters["cost"] = metering.money(tariff)
        loads = metering.loads() if objective.is_throughput else []
        meters |= {f"load {number}": meter for number, meter in enumerate(loads)}
        for host in constraints.memory_bytes:
            constraints.check_hosts(hosts)
            meters[f"weights {host}"] = metering.weights(hosts.index(host))
        if self._at_worst is not None:
            meters |= self._limited(Metering(graph, profiles, topology, codecs=codecs, shares=self._at_worst))
        self._names = list(meters)
        self._ranges = constraints.tier_ranges(graph, hosts)
        self._part = part = metering.graph
        layers = graph.layers
        barred = ((layers[layer].name, tier) for layer, tier in constraints.barred(graph, hosts))
        self.task = Task(
            layout=metering.layout,
            meters=list(meters.values()),
            hops=metering.hops,
            tiers=self._ranges.of_part(graph, part),
            barred=frozenset((part.index[layer], tier) for layer, tier in barred if layer in part.index),
        )

    def _limited(self, metering: Metering) -> dict[str, Meter]:
        """What is limited, of the request that pays most."""
        limits = self._constraints
        found = {"worst latency": metering.latency()} if limits.deadline_s is not None else {}
        if limits.max_bytes is not None:
            found["worst bytes"] = metering.traffic()
        if limits.max_energy_j is not None and self._energy is not None:
            found["worst energy"] = metering.energy(self._energy)
        return found

    def wanted(self) -> tuple[list[Row], int]:
        """The sums to make small, and how many of their steps are one step of the objective; what is below is ties.

        Raises:
            ValueError: the objective weighs what has no prices.
        """
        if self.objective.is_throughput:
            return [self._row({name: 1}) for name in self._names if name.startswith("load ")], 1
        factors = {str(quantity): factor for quantity, factor in self.objective.factors().items()}
        for quantity in factors:
            if quantity not in self._names:
                needs = "EnergyPrices of the device" if quantity == "energy" else "a Tariff"
                raise ValueError(f"the objective weighs {quantity}: that takes {needs}")
        if set(factors) == {"latency"}:
            return [self._row(factors)], 1
        scale = 1 + self.most("latency")
        weights = {name: factor * scale for name, factor in factors.items()}
        weights["latency"] = weights.get("latency", 0) + 1
        return [self._row(weights)], scale

    def budgets(self) -> list[Budget]:
        """The limits that the constraints set.

        Raises:
            ValueError: energy is limited, but has no prices.
        """
        limits, found = self._constraints, []
        whose = "" if self._at_worst is None else "worst "
        if limits.deadline_s is not None:
            steps = floor(Fraction(repr(float(limits.deadline_s))) * 10**9)
            found.append(Budget("the deadline", self._row({f"{whose}latency": 1}, limit=steps), "ms", 1e-6))
        if limits.max_bytes is not None:
            row = self._row({f"{whose}bytes": 1}, limit=int(limits.max_bytes))
            found.append(Budget("the traffic", row, "bytes", 1))
        if limits.max_energy_j is not None:
            if self._energy is None:
                raise ValueError("the energy is limited: that takes EnergyPrices of the device")
            steps = floor(Fraction(repr(float(limits.max_energy_j))) * 10**9)
            found.append(Budget("the energy", self._row({f"{whose}energy": 1}, limit=steps), "J", 1e-9))
        for host, budget in limits.memory_bytes.items():
            memory = Memory(self._part, self._hosts.index(host))
            row = self._row({f"weights {host}": 1}, limit=int(budget), memory=memory)
            found.append(Budget(f"the memory of {host}", row, "bytes", 1))
        return found

    def cut(self, weights: list[int]) -> Placement:
        """The placement with the least weighted sum of the meters, whatever the budgets are.

        Raises:
            InfeasiblePlan: forbidden hosts leave none.
        """
        value, placement = self.task.cheapest(weights, self.task.tiers, {})
        if value >= _BARRED_FROM:
            layers = [layer for layer, tier in self.task.barred if placement.tiers[layer] == tier]
            name = self._part.layers[layers[0]].name
            raise InfeasiblePlan(f"no host is left for layer {name!r}: where it is forbidden, other constraints put it")
        return placement

    def quickest(self, wanted: list[Row], limits: list[Row], found: Outcome, *, effort: int) -> Placement:
        """The quickest placement, as far as ``effort`` goes, that is worth as much as the one that was found."""
        kept = [replace(row, limit=found.value) for row in wanted]
        quicker = minimise(self.task, [self._row({"latency": 1}), *kept, *limits], start=found.best, effort=effort)
        if quicker.best is None:
            raise RuntimeError("defect of the planner: the placement to start from was lost")
        return quicker.best

    def amounts(self, placement: Placement) -> dict[Quantity, float]:
        """What a placement takes of each quantity that has a price."""
        shown = dict(zip(self._names, placement.amounts, strict=True))
        return {name: float(shown[name] * METER_UNITS[name]) for name in QUANTITIES if name in shown}

    def plan(self, placement: Placement) -> Plan:
        """The plan of a placement, priced as ``estimate`` does it; with exits its cost is a mean over samples."""
        plan = Plan.priced(
            self._graph,
            self._tiers(placement),
            table=self._table(placement),
            model=self._model,
            hosts=self._hosts,
            mode=self._mode,
            shares=self._shares,
        )
        expected = placement.amounts[self._names.index("latency")]
        if plan.predicted.latency_ns != expected:
            raise RuntimeError(
                f"defect of the planner: the meters say {expected} ns, the estimate {plan.predicted.latency_ns} ns"
            )
        return plan

    def worst(self, placement: Placement) -> Cost:
        """What a request costs that leaves at the last exit; without exits, what each does."""
        placed = dict(zip(self._graph.index, self._tiers(placement), strict=True))
        if self._at_worst is None:
            return price(self._graph, placed, self._table(placement))
        return self._at_worst.price(placed, self._table(placement))

    def peak_bytes(self, placement: Placement) -> tuple[int, ...]:
        """What each host needs of its memory, for the layers that are used."""
        return tuple(Memory(self._part, tier).peak_bytes(placement.tiers) for tier in range(len(self._hosts)))

    def meter(self, name: str) -> int:
        """The number of a quantity's meter in the task."""
        return self._names.index(name)

    def most(self, name: str) -> int:
        """What no placement exceeds of a quantity, in steps of its meter."""
        return _most(self.task.meters[self.meter(name)])

    def _row(self, weights: Mapping[str, int], *, limit: int | None = None, memory: Memory | None = None) -> Row:
        return Row(tuple([weights.get(name, 0) for name in self._names]), limit, memory)

    def _tiers(self, placement: Placement) -> tuple[int, ...]:
        """A tier for every layer, those that no exit needs included."""
        return self._ranges.filled(self._graph, dict(zip(self._part.index, placement.tiers, strict=True)))

    def _table(self, placement: Placement) -> CostTable:
        """The costs with the codecs of that placement, of a request that pays them."""
        metering = self._metering
        transfers: dict[str, tuple[Transfer, ...]] = {}
        for number, tensor in enumerate(metering.tensors):
            transfers[tensor] = tuple(
                [metering.options[hop][number][placement.choices[hop][number]] for hop in range(metering.hops)]
            )
        return replace(metering.full, transfers={**metering.full.transfers, **transfers})


def _most(meter: Meter) -> int:
    """What no placement exceeds."""
    return meter.on_device + sum(
        sum(max(0, step) for step in move) + sum(max(costs) for costs in ways) + use
        for move, ways, use in zip(meter.move, meter.ways, meter.use, strict=True)
    )
