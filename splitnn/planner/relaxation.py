"""Placements under any weighing of meters: one minimum cut, with what has been decided already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import mul
from typing import NamedTuple

from splitnn.graph.layout import Layout
from splitnn.planner.meters import Meter
from splitnn.planner.pins import TierRanges
from splitnn.planner.search import cheapest
from splitnn.planner.terms import Terms

Ways = Mapping[tuple[int, int], tuple[int, ...]]
"""Hop and wire, to the codecs that are left to it; all of them where it is absent."""

_BARRED = 1 << 800
"""What a layer on a forbidden host costs: more than anything weighed, less than what the search holds for pins."""


class Placement(NamedTuple):
    """A tier for each layer, a codec for each wire on each hop, and what that makes each meter show."""

    tiers: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]  # hop, wire; it counts where the wire crosses
    amounts: tuple[int, ...]  # meter


@dataclass(frozen=True)
class Task:
    """A placement problem in numbers. ``barred`` holds layers and tiers that exclude each other."""

    layout: Layout
    meters: Sequence[Meter]
    hops: int
    tiers: TierRanges
    barred: frozenset[tuple[int, int]] = frozenset()
    useful: Sequence[Sequence[tuple[int, ...]]] = field(init=False)  # hop, wire: codecs that may be best

    def __post_init__(self) -> None:
        useful = [
            [_undominated([meter.ways[hop][wire] for meter in self.meters]) for wire in range(len(self.layout.wires))]
            for hop in range(self.hops)
        ]
        object.__setattr__(self, "useful", useful)

    def cheapest(self, weights: Sequence[int], tiers: TierRanges, ways: Ways) -> tuple[int, Placement]:
        """The least weighted sum of meters among the placements that are left, and one that has it.

        The sum is at least 2**799 when every placement has a layer where it must not run.
        """
        used = [(weight, meter) for weight, meter in zip(weights, self.meters, strict=True) if weight]
        factors = [weight for weight, _ in used]
        move, carry, choices = [], [], []
        for hop in range(self.hops):
            columns = zip(*(meter.move[hop] for _, meter in used), strict=True)
            move.append([sum(map(mul, factors, column)) for column in columns] or [0] * self.layout.layers)
            rows = [meter.ways[hop] for _, meter in used]
            chosen = [
                _best(factors, rows, wire, ways.get((hop, wire), codecs) if ways else codecs)
                for wire, codecs in enumerate(self.useful[hop])
            ]
            carry.append([cost for cost, _ in chosen])
            choices.append(tuple([codec for _, codec in chosen]))
        for layer, tier in self.barred:
            if tier:
                move[tier - 1][layer] += _BARRED
            if tier < self.hops:
                move[tier][layer] -= _BARRED
        terms = Terms(
            layout=self.layout,
            on_device=sum(weight * meter.on_device for weight, meter in used)
            + _BARRED * sum(tier == 0 for _, tier in self.barred),
            move=move,
            carry=carry,
            round_trip=[sum(weight * meter.use[hop] for weight, meter in used) for hop in range(self.hops)],
            tiers=tiers,
            first_stage=sum(weight * meter.first_stage for weight, meter in used),
        )
        best = cheapest(terms)
        return best.latency_ns, self.placement(best.tiers, tuple(choices))

    def placement(self, tiers: tuple[int, ...], choices: tuple[tuple[int, ...], ...]) -> Placement:
        """That placement with what each meter shows."""
        amounts = [meter.on_device - (0 if 0 in tiers else meter.first_stage) for meter in self.meters]
        for hop in range(self.hops):
            beyond = [layer for layer, tier in enumerate(tiers) if tier > hop]
            if not beyond:
                break
            wires = [(wire, choices[hop][wire]) for wire in self.crossing(tiers, hop)]
            for number, meter in enumerate(self.meters):
                move, ways = meter.move[hop], meter.ways[hop]
                amounts[number] += (
                    meter.use[hop]
                    + sum([move[layer] for layer in beyond])
                    + sum([ways[w][codec] for w, codec in wires])
                )
        return Placement(tiers, choices, tuple(amounts))

    def crossing(self, tiers: Sequence[int], hop: int) -> list[int]:
        """The wires that cross a hop."""
        return [
            number
            for number, (producer, readers) in enumerate(self.layout.wires)
            if (tiers[producer] if producer >= 0 else 0) <= hop and any(tiers[reader] > hop for reader in readers)
        ]

    def obeys(self, placement: Placement, tiers: TierRanges, ways: Ways) -> bool:
        """Whether a placement is among those that are left."""
        return all(
            low <= tier <= high for low, tier, high in zip(tiers.lowest, placement.tiers, tiers.highest, strict=True)
        ) and all(placement.choices[hop][wire] in codecs for (hop, wire), codecs in ways.items())

    def is_barred(self, placement: Placement) -> bool:
        """Whether a layer lies where it must not run."""
        return any(placement.tiers[layer] == tier for layer, tier in self.barred)


def _best(
    factors: Sequence[int], rows: Sequence[Sequence[Sequence[int]]], wire: int, codecs: Sequence[int]
) -> tuple[int, int]:
    """Cost and number of a wire's best codec."""
    costs = [row[wire] for row in rows]
    return min([(sum([f * cost[codec] for f, cost in zip(factors, costs, strict=True)]), codec) for codec in codecs])


def _undominated(ways: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The codecs (by number) that no other codec is at least as good as by every meter, the first one of equals."""
    columns = list(zip(*ways, strict=True)) if ways else [()]
    return tuple(
        [
            i
            for i, mine in enumerate(columns)
            if not any(
                j != i and all(map(int.__le__, other, mine)) and (other != mine or j < i)
                for j, other in enumerate(columns)
            )
        ]
    )


class Spreading:
    """Narrows the tiers of layers; what one may no longer do, its readers or sources may not do either."""

    def __init__(self, layout: Layout) -> None:
        self._after: list[list[int]] = [[] for _ in range(layout.layers)]
        self._before: list[list[int]] = [[] for _ in range(layout.layers)]
        for producer, readers in layout.wires:
            if producer >= 0:
                self._after[producer].extend(readers)
                for reader in readers:
                    self._before[reader].append(producer)

    def at_least(self, tiers: TierRanges, layer: int, tier: int) -> TierRanges | None:
        """``layer`` on that tier or later; None when that is impossible."""
        lowest, open_layers = list(tiers.lowest), [layer]
        while open_layers:
            at = open_layers.pop()
            if lowest[at] < tier:
                if tiers.highest[at] < tier:
                    return None
                lowest[at] = tier
                open_layers.extend(self._after[at])
        return replace(tiers, lowest=lowest)

    def at_most(self, tiers: TierRanges, layer: int, tier: int) -> TierRanges | None:
        """``layer`` on that tier or earlier; None when that is impossible."""
        highest, open_layers = list(tiers.highest), [layer]
        while open_layers:
            at = open_layers.pop()
            if highest[at] > tier:
                if tiers.lowest[at] > tier:
                    return None
                highest[at] = tier
                open_layers.extend(self._before[at])
        return replace(tiers, highest=highest)
