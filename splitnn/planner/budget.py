"""Budgets as rows of a search, and what to say when no plan keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitnn.planner.bounded import Row, minimise
from splitnn.planner.relaxation import Placement, Task

_ONE = 1 << 120  # the relative use of a budget that is just kept


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit under the name that a user knows it by; ``unit_scale`` turns the row's whole numbers into ``unit``."""

    name: str  # "the deadline"
    row: Row
    unit: str
    unit_scale: float

    @property
    def limit(self) -> int:
        """Of the row, which has one."""
        return self.row.limit or 0

    def show(self, amount: int) -> str:
        """An amount as text."""
        return f"{amount} bytes" if self.unit == "bytes" else f"{amount * self.unit_scale:.6g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Feasibility:
    """A placement that keeps all budgets or, when ``is_within`` is false, exceeds them least.

    The relative excess of the budget that is exceeded most is what counts. ``is_proven``: nothing is nearer.
    """

    placement: Placement
    is_within: bool
    is_proven: bool


def nearest_to(task: Task, budgets: Sequence[Budget], *, effort: int) -> Feasibility:
    """The placement whose most exceeded budget is exceeded least; any that keeps all of them will do."""
    rows = [_relative(budget.row) for budget in budgets]
    found = minimise(task, rows, effort=effort, enough=_ONE)
    if found.best is None:
        raise RuntimeError("defect of the planner: no placement although none of its layers is barred everywhere")
    is_within = all(budget.row.allows(found.best) for budget in budgets)
    return Feasibility(found.best, is_within, is_proven=is_within or found.bound > _ONE)


def excess_of(budgets: Sequence[Budget], placement: Placement) -> float:
    """By what share a placement exceeds the budget that it exceeds most, 0 for none; a limit of 0 is half a step."""
    uses = [(budget.row.of(placement), budget.limit) for budget in budgets]
    return max([use / (limit or 0.5) - 1 for use, limit in uses if use > limit], default=0.0)


def _relative(row: Row) -> Row:
    """The same sum, wanted small, as a share of the limit: 2**120 is all of it. A limit of 0 counts as half a step."""
    factor = _ONE // row.limit if row.limit else 2 * _ONE
    return Row(
        tuple(weight * factor for weight in row.weights),
        memory=row.memory,
        memory_weight=factor,
    )


def describe_excess(task: Task, budgets: Sequence[Budget], nearest: Feasibility, *, effort: int) -> str:
    """Which budgets the nearest placement exceeds and by how much, and which of them no placement keeps at all."""
    parts = []
    for budget in budgets:
        amount = budget.row.of(nearest.placement)
        if amount <= budget.limit:
            continue
        over = f"{amount / budget.limit - 1:.1%} over" if budget.limit else ""
        part = f"{budget.name} of {budget.show(budget.limit)} by {budget.show(amount - budget.limit)}"
        parts.append(part + (f" ({over})" if over else ""))
    alone = []
    for budget in budgets:
        only = Row(budget.row.weights, memory=budget.row.memory)
        least = minimise(task, [only], effort=effort)
        if least.bound > budget.limit:
            shown, limit = budget.show(least.value), budget.show(budget.limit)
            alone.append(f"no plan takes less than {shown}; {budget.name} is {limit}")
    reason = "; ".join(alone) if alone else "each budget alone can be kept"
    excess = f"the nearest one exceeds {' and '.join(parts)}"
    if not nearest.is_proven:
        return f"found no plan that keeps the budgets, and ruled none out: {excess}; {reason}"
    return f"no plan keeps the budgets: {excess}; {reason}"
