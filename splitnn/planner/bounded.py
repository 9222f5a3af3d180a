"""Exact search where one minimum cut is not enough: the largest of several sums, or sums that have limits.

Branch and bound. For any weights of the wanted and the limited sums, a minimum cut bounds from below what a placement
within the limits can reach (Lagrange); the weights follow from a matrix game against the placements seen so far
(Dantzig and Wolfe 1960). Where the best bound leaves room, one decision, a layer's side of a hop or a wire's codec, is
taken both ways. Ends with the optimum proven, or, when the allowed number of cuts is spent, with a proven bound. Bounds
are exact rational numbers, whatever the game's floating-point weights are.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import count
from math import ceil

import numpy as np

from splitnn.planner.game import solve_game
from splitnn.planner.memory import Memory
from splitnn.planner.pins import TierRanges
from splitnn.planner.relaxation import Placement, Spreading, Task, Ways

_WEIGHT_BITS, _FACTOR_BITS = 40, 90
_BARRED_FROM = 1 << 799
_ROOT_ROUNDS, _NODE_ROUNDS = 40, 8
_SEEN_AT_MOST = 60


@dataclass(frozen=True, slots=True)
class Row:
    """A sum of meters with whole weights, none below 0; with a memory, that host's bytes on top of a weights meter."""

    weights: tuple[int, ...]  # meter
    limit: int | None = None  # None: wanted small
    memory: Memory | None = None
    memory_weight: int = 1

    def additive(self, placement: Placement) -> int:
        """The part that a minimum cut sees."""
        return sum([w * amount for w, amount in zip(self.weights, placement.amounts, strict=True) if w])

    def of(self, placement: Placement) -> int:
        """All of it."""
        if self.memory is not None:
            return self.memory_weight * self.memory.peak_bytes(placement.tiers)
        return self.additive(placement)

    def floor(self, tiers: TierRanges) -> int:
        """What every placement has, at least, beyond the part that a minimum cut sees."""
        return 0 if self.memory is None else self.memory_weight * self.memory.working_floor(tiers)

    def allows(self, placement: Placement) -> bool:
        """Whether the placement keeps the limit."""
        return self.limit is None or self.of(placement) <= self.limit


@dataclass(frozen=True, slots=True)
class Outcome:
    """The best placement found, None when there is none; every placement within the limits is worth ``bound`` or more.

    The value of a placement is the largest of its wanted sums.
    """

    best: Placement | None
    value: int
    bound: int
    cuts: int  # how many minimum cuts it took


@dataclass(order=True, slots=True)
class _Node:
    """A part of the placements. The lowest bound is looked at first."""

    bound: Fraction
    number: int
    tiers: TierRanges = field(compare=False)
    ways: Ways = field(compare=False)
    factors: tuple[int, ...] = field(compare=False)  # weights of the rows
    seen: list[Placement] = field(compare=False)


def minimise(
    task: Task, rows: Sequence[Row], *, start: Placement | None = None, effort: int = 1000, enough: int | None = None
) -> Outcome:
    """The placement whose largest wanted sum is smallest among those that keep all limits.

    Takes at most about ``effort`` minimum cuts, and stops as soon as a placement is worth ``enough`` or less. A
    ``start`` that keeps the limits is needed when the first cut may not.
    """
    return _Search(task, rows, effort=effort, enough=enough).run(start)


class _Search:
    def __init__(self, task: Task, rows: Sequence[Row], *, effort: int, enough: int | None) -> None:
        self._task = task
        self._rows = rows
        self._effort = effort
        self._enough = enough
        self._wanted = [number for number, row in enumerate(rows) if row.limit is None]
        self._spreading = Spreading(task.layout)
        self._numbers = count(1)  # the root is 0
        self._cuts = 0
        self._best: Placement | None = None
        self._value = 0

    def run(self, start: Placement | None) -> Outcome:
        if start is not None:
            self._consider(start)
        factors = tuple(int(row.limit is None) for row in self._rows)
        tiers = self._narrowed(self._task.tiers)
        queue = [_Node(Fraction(0), 0, tiers, {}, factors, [])] if tiers is not None else []
        closed: Fraction | None = None  # the lowest bound of parts that were given up
        while queue:
            node = heapq.heappop(queue)
            if self._is_settled(node.bound):
                continue
            if self._cuts >= self._effort or self._is_enough():
                closed = node.bound
                break
            for child in self._branches(node):
                heapq.heappush(queue, child)
        if self._best is None:
            return Outcome(None, 0, 0 if closed is None else ceil(closed), self._cuts)
        bound = self._value if closed is None else min(self._value, ceil(closed))
        return Outcome(self._best, self._value, bound, self._cuts)

    def _branches(self, node: _Node) -> list[_Node]:
        """What is left to look at of a part of the placements."""
        mixture = self._bound(node)
        if mixture is None or self._is_settled(node.bound):
            return []
        parts = self._halves(node, mixture)
        children = []
        for tiers, ways in parts:
            if (narrowed := self._narrowed(tiers)) is not None:
                # a placement outside would turn up in mixtures, and a dispute with it is no decision here
                seen = [each for each in node.seen if self._task.obeys(each, narrowed, ways)]
                children.append(_Node(node.bound, next(self._numbers), narrowed, ways, node.factors, seen))
        return children

    def _bound(self, node: _Node) -> list[tuple[float, Placement]] | None:
        """Raise the node's bound as far as it goes; the mixture of placements that keeps it there, None for no way."""
        factors = node.factors
        mixture: list[tuple[float, Placement]] = []
        for _ in range(_NODE_ROUNDS if node.number else _ROOT_ROUNDS):
            value, placement = self._cut(factors, node)
            if value >= _BARRED_FROM:
                return None
            self._consider(placement)
            is_new = placement not in node.seen
            if is_new:
                node.seen.append(placement)
                del node.seen[:-_SEEN_AT_MOST]
            bound = self._lagrange(factors, value, node)
            if bound is None:
                return None
            if bound >= node.bound:
                node.bound, node.factors = bound, factors
            if self._is_settled(node.bound) or self._cuts >= self._effort or self._is_enough():
                break
            if len(self._rows) == 1 or self._best is None or (mixture and not is_new):
                break
            weights, shares, earned = self._play(node)
            mixture = [(share, each) for share, each in zip(shares, node.seen, strict=True) if share > 1e-9]
            if earned <= 1e-12 and node.number:
                break  # no weights rule this part out; the root goes on, for its bound is everybody's
            factors = weights
        return mixture or [(1.0, placement)]

    def _cut(self, factors: Sequence[int], node: _Node) -> tuple[int, Placement]:
        weights = [
            sum(factor * row.weights[meter] for factor, row in zip(factors, self._rows, strict=True))
            for meter in range(len(self._task.meters))
        ]
        self._cuts += 1
        return self._task.cheapest(weights, node.tiers, node.ways)

    def _lagrange(self, factors: Sequence[int], value: int, node: _Node) -> Fraction | None:
        """The bound that follows from a minimum cut of that value; None when nothing can keep the limits."""
        total = value
        for factor, row in zip(factors, self._rows, strict=True):
            if factor:
                total += factor * (row.floor(node.tiers) - (row.limit or 0))
        scale = sum(factors[number] for number in self._wanted)
        if scale:
            return Fraction(total, scale)
        return None if total > 0 else node.bound

    def _play(self, node: _Node) -> tuple[tuple[int, ...], list[float], float]:
        """Weights of the rows that say most against the placements seen being better than the best one."""
        targets = [self._value if row.limit is None else row.limit for row in self._rows]
        scales = [max(1, abs(target)) for target in targets]
        floors = [row.floor(node.tiers) for row in self._rows]
        payoff = np.array(
            [
                [
                    float(Fraction(row.additive(each) + floor - target, scale))
                    for row, floor, target, scale in zip(self._rows, floors, targets, scales, strict=True)
                ]
                for each in node.seen
            ]
        )
        weights, shares, earned = solve_game(payoff)
        largest = max(scales)
        factors = tuple(
            int(weight * (1 << _WEIGHT_BITS)) * largest // scale for weight, scale in zip(weights, scales, strict=True)
        )
        excess = max(factor.bit_length() for factor in factors) - _FACTOR_BITS
        if excess > 0:  # any weights make a bound, but sums must stay below what the search takes for infinite
            factors = tuple(factor >> excess for factor in factors)
        return factors, [float(share) for share in shares], earned

    def _halves(self, node: _Node, mixture: list[tuple[float, Placement]]) -> list[tuple[TierRanges, Ways]]:
        """One open decision, both ways; where the mixture disagrees most, if it does."""
        tiers, ways = node.tiers, node.ways
        bit = self._disputed_layer(mixture) if len(mixture) > 1 else None
        if bit is None and len(mixture) > 1 and (wire := self._disputed_codec(node, mixture)) is not None:
            return self._split_codec(node, *wire)
        if bit is None:
            bit = self._open_layer(tiers)
        if bit is not None:
            hop, layer = bit
            parts = (self._spreading.at_most(tiers, layer, hop), self._spreading.at_least(tiers, layer, hop + 1))
            return [(part, ways) for part in parts if part is not None]
        _, placement = mixture[0]
        for hop in range(self._task.hops):
            for number in self._task.crossing(placement.tiers, hop):
                if len(self._left(node, hop, number)) > 1:
                    return self._split_codec(node, hop, number, placement.choices[hop][number])
        return []

    def _disputed_layer(self, mixture: list[tuple[float, Placement]]) -> tuple[int, int] | None:
        """Hop and layer whose side is nearest to a tie; of equals the one in the middle."""
        found: list[tuple[float, int, int]] = []
        for hop in range(self._task.hops):
            for layer in range(self._task.layout.layers):
                share = sum([each for each, placement in mixture if placement.tiers[layer] > hop])
                if 1e-6 < share < 1 - 1e-6:
                    found.append((abs(share - 0.5), hop, layer))
        if not found:
            return None
        least = min(found)[0]
        tied = [(hop, layer) for distance, hop, layer in found if distance <= least + 1e-6]
        return tied[len(tied) // 2]

    def _disputed_codec(self, node: _Node, mixture: list[tuple[float, Placement]]) -> tuple[int, int, int] | None:
        """Hop, wire and codec over which the mixture disagrees."""
        _, first = mixture[0]
        for hop in range(self._task.hops):
            for number in self._task.crossing(first.tiers, hop):
                if len({placement.choices[hop][number] for _, placement in mixture}) > 1:
                    return hop, number, first.choices[hop][number]
        return None

    def _open_layer(self, tiers: TierRanges) -> tuple[int, int] | None:
        """Hop and layer that are still open, in the middle of them."""
        undecided = [v for v, (low, high) in enumerate(zip(tiers.lowest, tiers.highest, strict=True)) if low < high]
        if not undecided:
            return None
        layer = undecided[len(undecided) // 2]
        return tiers.lowest[layer], layer

    def _split_codec(self, node: _Node, hop: int, wire: int, codec: int) -> list[tuple[TierRanges, Ways]]:
        rest = tuple(each for each in self._left(node, hop, wire) if each != codec)
        return [(node.tiers, {**node.ways, (hop, wire): left}) for left in ((codec,), rest)]

    def _left(self, node: _Node, hop: int, wire: int) -> tuple[int, ...]:
        return node.ways.get((hop, wire), self._task.useful[hop][wire])

    def _narrowed(self, tiers: TierRanges) -> TierRanges | None:
        """The tiers without what the memory limits rule out; None when they rule out everything."""
        left: TierRanges | None = tiers
        for row in self._rows:
            if left is not None and row.memory is not None and row.limit is not None:
                left = row.memory.narrowed(left, row.limit, self._spreading)
        return left

    def _consider(self, placement: Placement) -> None:
        """Keep a placement that obeys everything and is better than the best one."""
        if self._task.is_barred(placement) or not all(row.allows(placement) for row in self._rows):
            return
        value = max(self._rows[number].of(placement) for number in self._wanted)
        if self._best is None or value < self._value:
            self._best, self._value = placement, value

    def _is_settled(self, bound: Fraction) -> bool:
        """Whether nothing in such a part is better than the best placement; values are whole numbers."""
        return self._best is not None and bound > self._value - 1

    def _is_enough(self) -> bool:
        return self._best is not None and self._enough is not None and self._value <= self._enough
