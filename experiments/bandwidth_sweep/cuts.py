"""The candidate cuts that an oracle is the best of, and how many of them were measured. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from experiments.bandwidth_sweep.ways import Planning
from splitnn.cost.estimate import tabulate
from splitnn.cost.network import Topology
from splitnn.graph.layout import Layout, Segment
from splitnn.planner.plan import Plan

_MOST_HEADS = 2000  # within one block: where there are more, those of the graph's own order stand for them


@dataclass(frozen=True, slots=True)
class Survey:
    """What became of the candidate cuts of one cell. All counts are of cuts."""

    candidates: int
    measured: int
    left_out: int  # predicted slower than ``within`` times both the quickest measured and the quickest predicted
    unanswered: int  # asked for, and no request was answered that way
    within: float  # infinite: none is left out

    def __str__(self) -> str:
        if not self.candidates:
            return "baselines and the planner's choices only"
        text = f"{self.measured} of {self.candidates} candidate cuts"
        if self.left_out:
            text += f"; {self.left_out} left out, predicted above {self.within:g} times the quickest"
        return text + f"; {self.unanswered} unanswered" * bool(self.unanswered)


@dataclass(frozen=True, slots=True)
class Cut:
    """One way to divide the layers between two hosts that lets data flow forwards only."""

    tiers: tuple[int, ...]
    crossing: tuple[int, ...]  # numbers of the graph's wires
    is_in_chain: bool  # at most one made tensor crosses


@dataclass(frozen=True)
class Cuts:
    """All cuts of one model, whatever the link. Made once a model."""

    planning: Planning

    def candidates(self, topology: Topology) -> list[Plan]:
        """Each candidate cut with its quickest codecs over this link, the quickest by prediction first.

        Every cut that one made tensor crosses (those that Neurosurgeon sees, and both ends), and of the others those
        that are not dominated: no other cut has as short a head and as few bytes. A dominated cut is slower on every
        link, as long as the device is no quicker than the cloud at any layer.
        """
        graph, profiles = self.planning.graph, self.planning.profiles
        table = tabulate(graph, profiles, topology, codecs=self.planning.codecs)
        head_ns = [table.compute_ns[layer.name][0] for layer in graph.layers]
        sizes = [table.transfers[tensor][0].size_bytes for tensor in graph.wires]
        costs = {
            cut: (
                sum(ns for ns, tier in zip(head_ns, cut.tiers, strict=True) if not tier),
                sum(sizes[wire] for wire in cut.crossing),
            )
            for cut in self.all
        }
        fewest_bytes = math.inf
        chosen = [cut for cut in self.all if cut.is_in_chain]
        for cut, (_, size_bytes) in sorted(costs.items(), key=lambda item: item[1]):
            if size_bytes < fewest_bytes:
                fewest_bytes = size_bytes
                if not cut.is_in_chain:
                    chosen.append(cut)
        plans = (self.planning.priced(cut.tiers, topology, codecs=self.planning.codecs) for cut in chosen)
        return sorted(plans, key=lambda plan: plan.predicted.latency_s)

    @cached_property
    def all(self) -> tuple[Cut, ...]:
        """Every cut; in a block with more than 2000 those of the graph's own order.

        A cut runs all layers up to one landmark of the graph on the device, and of the block behind it what it likes.
        """
        layout = self.planning.graph.layout
        found: dict[frozenset[int], None] = {}
        for segment in layout.segments:
            start = segment.inside.start
            for inside in _heads(layout, segment):
                found[frozenset(range(start)) | inside] = None
            found[frozenset(range(segment.inside.stop))] = None
        found[frozenset(range(layout.layers))] = None
        return tuple(_cut(layout, head) for head in found)


def _cut(layout: Layout, head: frozenset[int]) -> Cut:
    crossing = tuple(
        number
        for number, (producer, readers) in enumerate(layout.wires)
        if (producer < 0 or producer in head) and any(reader not in head for reader in readers)
    )
    made = sum(layout.wires[number].producer >= 0 for number in crossing)
    tiers = tuple(int(position not in head) for position in range(layout.layers))
    return Cut(tiers, crossing, is_in_chain=made <= 1)


def _heads(layout: Layout, segment: Segment) -> Sequence[frozenset[int]]:
    """The sets of layers inside of a block that contain whatever their members read there."""
    needs: dict[int, set[int]] = {position: set() for position in segment.inside}
    for number in segment.wires:
        producer, readers = layout.wires[number]
        for reader in readers:
            if producer in needs and reader in needs:
                needs[reader].add(producer)
    heads = []
    for head in _grown(needs):
        heads.append(head)
        if len(heads) > _MOST_HEADS:
            start = segment.inside.start
            return [frozenset(range(start, stop)) for stop in range(start, segment.inside.stop + 1)]
    return heads


def _grown(needs: dict[int, set[int]]) -> Iterator[frozenset[int]]:
    """Breadth first from the empty set, each once."""
    level = [frozenset[int]()]
    while level:
        yield from level
        larger: dict[frozenset[int], None] = {}
        for head in level:
            for position, needed in needs.items():
                if position not in head and needed <= head:
                    larger[head | {position}] = None
        level = list(larger)
