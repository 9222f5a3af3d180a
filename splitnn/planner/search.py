"""Where each hop cuts: the best sequence of segments, solving only the segments that may matter.

Every segment first gets a lower bound. The best sequence by these bounds is looked up, its unsolved segments are
solved, and so on until the best sequence holds solved ones only: then nothing can beat it. Hops are ordered, a later
one cuts in the same segment or a later one; hops that share a segment are solved together when they would cross.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from splitnn.planner.region import Crossing, cut_segment
from splitnn.planner.terms import Terms

_FORBIDDEN = 1 << 1200  # cost of what the pins rule out: more than any sum, whatever a parametric search scales it by
_NOTHING = Crossing(0, ())


@dataclass(frozen=True, slots=True)
class Decision:
    """The best placement and its latency."""

    latency_ns: int
    tiers: tuple[int, ...]  # of each layer


def cheapest(terms: Terms) -> Decision:
    """The placement with the lowest latency; among equals the one whose every layer is as near to the device.

    The first host's stage costs something only where a layer stays, which no sum over hops says. So the best placement
    is sought with that cost, and once more among those that leave no layer there: exact, as it is never below 0.
    """
    best = _Search(terms).run()
    if not terms.first_stage or 0 not in best.tiers:
        return replace(best, latency_ns=best.latency_ns - terms.first_stage) if terms.first_stage else best
    if 0 in terms.tiers.highest:
        return best
    gone = replace(terms.tiers, lowest=tuple(max(1, tier) for tier in terms.tiers.lowest))
    away = _Search(replace(terms, tiers=gone)).run()
    away_ns = away.latency_ns - terms.first_stage
    return replace(away, latency_ns=away_ns) if away_ns < best.latency_ns else best


_Group = tuple[range, int]  # hops that cut in one segment, and its number


class _Search:
    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._segments = terms.layout.segments
        self._hops = len(terms.round_trip)
        self._outside: list[list[int]] = []  # hop, segment: cost of the layers and wires that it does not touch
        self._bound: list[list[int]] = []  # hop, segment: lower bound of the whole hop's cost; exact once solved
        for hop in range(self._hops):
            self._bound_hop(hop)
        self._solved: dict[tuple[int, int, int], Crossing] = {}  # first hop, last hop + 1, segment

    def run(self) -> Decision:
        while True:
            sequence = self._best_sequence()
            unsolved = [group for group in sequence if not self._is_solved(group)]
            if not unsolved:
                break
            for group in unsolved:
                self._solve(group)
        return Decision(
            self._terms.on_device + sum(self._cost(group) for group in sequence), tuple(self._tiers(sequence))
        )

    def _bound_hop(self, hop: int) -> None:
        terms = self._terms
        layers, wires = terms.layout.layers, terms.layout.wires
        move, carry = terms.move[hop], terms.carry[hop]
        crossing, moved, ends = terms.crossing(hop), terms.moved(hop), terms.tiers.ends(hop)
        outside, bound = [], []
        for segment in self._segments:
            start, stop = segment.inside.start, segment.inside.stop
            rest = moved[stop] + crossing[start] + (terms.round_trip[hop] if stop < layers else 0)
            inner = 0
            if start < stop:
                certain = dict.fromkeys(segment.inside, 0)  # to carry when the layer stays
                for number in segment.wires:
                    wire, cost = wires[number], carry[number]
                    if wire.producer < start:
                        rest -= cost
                    if wire.readers[-1] >= stop:
                        if wire.producer < start:
                            inner += cost
                        else:
                            certain[wire.producer] += cost
                inner += sum([min(move[layer], kept) for layer, kept in certain.items()])
            allowed = ends.start <= stop and start < ends.stop
            outside.append(rest if allowed else _FORBIDDEN)
            bound.append(outside[-1] + inner)
        self._outside.append(outside)
        self._bound.append(bound)

    def _best_sequence(self) -> Sequence[_Group]:
        """The cheapest groups, all hops in order; of equals the latest segments, which keep the most layers back."""
        count = len(self._segments)
        if self._hops == 1:
            bound = self._bound[0]
            return [(range(1), count - 1 - bound[::-1].index(min(bound)))]
        best = [[0] * (count + 1)]  # [h][j]: the first h hops in the first j segments
        for after in range(1, self._hops + 1):
            in_segment = [
                [before + cost for before, cost in zip(best[first], self._costs(range(first, after)), strict=False)]
                for first in range(after)
            ]
            cheapest_first = in_segment[0] if after == 1 else map(min, *in_segment)
            best.append(list(accumulate(cheapest_first, min, initial=_FORBIDDEN << 1)))
        sequence: list[_Group] = []
        after, j = self._hops, count
        while after:
            j -= 1
            for first in range(after):
                if best[first][j] + self._cost((range(first, after), j)) == best[after][j + 1]:
                    sequence.append((range(first, after), j))
                    after = first
                    break
        return sequence[::-1]

    def _costs(self, hops: range) -> list[int]:
        """What the hops cost, or a lower bound of it, when they share a segment, segment by segment."""
        if len(hops) == 1:
            return self._bound[hops.start]
        costs = [sum(bounds) for bounds in zip(*self._bound[hops.start : hops.stop], strict=True)]
        for first, after, j in self._solved:
            if (first, after) == (hops.start, hops.stop):
                costs[j] = self._cost((hops, j))
        return costs

    def _cost(self, group: _Group) -> int:
        """What the hops of a group cost, or a lower bound of it."""
        hops, j = group
        if len(hops) > 1 and (solved := self._solved.get((hops.start, hops.stop, j))):
            return solved.cost + sum(self._outside[hop][j] for hop in hops)
        return sum([self._bound[hop][j] for hop in hops])

    def _is_solved(self, group: _Group) -> bool:
        hops, j = group
        return not self._segments[j].inside or (hops.start, hops.stop, j) in self._solved

    def _solve(self, group: _Group) -> None:
        hops, j = group
        singles = [self._solve_hop(hop, j) for hop in hops]
        if len(hops) == 1:
            return
        rows = [crossing.beyond[0] for crossing in singles]
        ordered = all(a or not b for near, far in pairwise(rows) for a, b in zip(near, far, strict=True))
        self._solved[hops.start, hops.stop, j] = (
            Crossing(sum(crossing.cost for crossing in singles), tuple(rows))
            if ordered
            else cut_segment(self._terms, self._segments[j], hops)
        )

    def _solve_hop(self, hop: int, j: int) -> Crossing:
        key = (hop, hop + 1, j)
        if key not in self._solved:
            self._solved[key] = cut_segment(self._terms, self._segments[j], range(hop, hop + 1))
            self._bound[hop][j] = self._outside[hop][j] + self._solved[key].cost
        return self._solved[key]

    def _tiers(self, sequence: Sequence[_Group]) -> list[int]:
        tiers = [0] * self._terms.layout.layers
        for hops, j in sequence:
            inside = self._segments[j].inside
            for position in range(inside.stop, len(tiers)):
                tiers[position] += len(hops)
            for row in self._solved.get((hops.start, hops.stop, j), _NOTHING).beyond:
                for position, is_beyond in zip(inside, row, strict=True):
                    tiers[position] += is_beyond
        return tiers
