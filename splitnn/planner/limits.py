"""Budgets that mean the same under all conditions (traffic, memory), around a minimum cut that does not know them.

Since they rule out the same plans at every bandwidth and load, what is left still has a lower envelope, and whoever can
find the best of it at one place finds all of it. One cut does that when its placement keeps the budgets; else branch
and bound does, exactly, or with a bound that it states when it runs out of effort.
"""

from __future__ import annotations

from collections.abc import Sequence

from splitnn.errors import InfeasiblePlan
from splitnn.graph.graph import Graph
from splitnn.planner.bounded import Row, minimise
from splitnn.planner.budget import Budget, nearest_to
from splitnn.planner.constraints import Constraints
from splitnn.planner.memory import Memory
from splitnn.planner.meters import Meter, weight_owners
from splitnn.planner.pins import TierRanges
from splitnn.planner.relaxation import Placement, Task
from splitnn.planner.terms import Terms

Ways = Sequence[Sequence[Sequence[int]]]
"""Of each hop and wire a number for each codec."""

_EFFORT = 400  # minimum cuts for one place


class Limits:
    """The budgets of ``constraints`` for traffic and memory; ``way_bytes`` are the sizes of what may cross."""

    def __init__(
        self,
        graph: Graph,
        constraints: Constraints,
        hosts: Sequence[str],
        *,
        way_bytes: Ways,
        download_bytes: Sequence[int],  # layer
    ) -> None:
        hops = len(hosts) - 1
        nothing = [[tuple(0 for _ in ways) for ways in row] for row in way_bytes]
        self.meters: list[Meter] = []
        self.rows: list[tuple[str, Row]] = []
        self._hops = hops
        self._known: Placement | None = None  # keeps the budgets: where the next search starts
        named = [*(["traffic"] if constraints.max_bytes is not None else []), *constraints.memory_bytes]
        for number, name in enumerate(named):
            weights = tuple(int(other == number) for other in range(len(named)))
            if name == "traffic" and constraints.max_bytes is not None and number == 0:
                move = [list(download_bytes) for _ in range(hops)]
                ways = [[tuple(sizes) for sizes in row] for row in way_bytes]
                self.meters.append(Meter(0, move, ways, [0] * hops))
                self.rows.append(("the traffic", Row((0, *weights), int(constraints.max_bytes))))
                continue
            tier = hosts.index(name)
            own = weight_owners(graph, tier, hops)
            move = [[size * ((hop + 1 == tier) - (hop == tier)) for size in own] for hop in range(hops)]
            self.meters.append(Meter(sum(own) * (tier == 0), move, nothing, [0] * hops))
            limit = int(constraints.memory_bytes[name])
            self.rows.append((f"the memory of {name}", Row((0, *weights), limit, Memory(graph, tier))))

    def exceeded(self, tiers: tuple[int, ...], traffic_bytes: int) -> list[str]:
        """The budgets that such a plan does not keep, each with what it takes."""
        found = []
        for name, row in self.rows:
            takes = traffic_bytes if row.memory is None else row.memory.peak_bytes(tiers)
            if row.limit is not None and takes > row.limit:
                found.append(f"takes {takes} bytes of {name}, which is limited to {row.limit}")
        return found

    def best(self, terms: Terms, costs: Ways, *, tiers: TierRanges) -> tuple[Placement, int]:
        """The cheapest placement within the budgets, and by how much it may be above the optimum at most.

        ``costs`` are those of each codec in the units of ``terms``.

        Raises:
            InfeasiblePlan: no placement within the budgets was found.
        """
        wanted = Meter(
            terms.on_device,
            terms.move,
            [[tuple(ways) for ways in row] for row in costs],
            terms.round_trip,
            terms.first_stage,
        )
        task = Task(terms.layout, [wanted, *self.meters], self._hops, tiers)
        start = self._known
        if start is None or not task.obeys(start, tiers, {}):
            budgets = [Budget(name, row, "bytes", 1) for name, row in self.rows]
            nearest = nearest_to(task, budgets, effort=_EFFORT)
            if not nearest.is_within:
                names = " and ".join(name for name, _ in self.rows)
                raise InfeasiblePlan(f"found no plan that keeps the budgets for {names}")
            start = nearest.placement
        rows = [Row((1, *(0 for _ in self.meters))), *(row for _, row in self.rows)]
        start = task.placement(start.tiers, start.choices)  # counted at these costs
        found = minimise(task, rows, start=start, effort=_EFFORT)
        if found.best is None:
            raise RuntimeError("defect of the planner: the placement within the budgets was lost")
        self._known = found.best
        return found.best, found.value - found.bound
