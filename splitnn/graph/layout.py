"""The shape of a graph, by numbers: who reads what, and which layers every cut passes in one order.

Most layers of real networks are *landmarks*: comparable to all others, each either before or after them on some path.
On one hop a landmark's side settles everything before it (when it moves on, so does all after it), so the cut lies
between two neighbouring landmarks, and only the layers between those two (the branches of one block) are open. This
is the block contraction of QDMP (Zhang et al. 2021), with a weaker condition: a skip connection around a landmark
does no harm, so a residual chain has no blocks at all. Exact for any DAG.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple


class Wire(NamedTuple):
    """A tensor that layers read. A tuple, because a layout holds one a tensor."""

    producer: int  # position of the layer that makes it; -1 for a model input, which starts on the device
    readers: tuple[int, ...]  # positions, ascending


class Segment(NamedTuple):
    """The open layers between two neighbouring landmarks (or the ends of the model), where a hop may cut."""

    inside: range  # positions; the landmark before it is inside.start - 1, the one after it inside.stop
    wires: tuple[int, ...]  # numbers of the wires that layers inside read or make


@dataclass(frozen=True, slots=True)
class Layout:
    """Layers by position, the tensors between them by number, and the segments in order."""

    layers: int
    wires: tuple[Wire, ...]
    segments: tuple[Segment, ...]


def layout_of(layers: int, wires: Sequence[Wire]) -> Layout:
    """The layout of so many layers with these wires between them."""
    return Layout(layers, tuple(wires), segments_between(landmarks(layers, wires), layers, wires))


def segments_between(marks: Sequence[int], layers: int, wires: Sequence[Wire]) -> tuple[Segment, ...]:
    """The open layers between the ascending positions ``marks``, before the first and after the last."""
    marks = [-1, *marks, layers]
    insides = [range(before + 1, after) for before, after in pairwise(marks)]
    touching: list[list[int]] = [[] for _ in insides]
    if len(marks) < layers + 2:
        segment_at = [-1] * (layers + 1)  # position -> segment that it is inside of; the last entry is for position -1
        for number, inside in enumerate(insides):
            for position in inside:
                segment_at[position] = number
        for number, (producer, readers) in enumerate(wires):
            at = {segment_at[position] for position in readers}
            at.add(segment_at[producer])
            at.discard(-1)
            for segment in at:
                touching[segment].append(number)
    return tuple([Segment(inside, tuple(touched)) for inside, touched in zip(insides, touching, strict=True)])


def landmarks(layers: int, wires: Sequence[Wire]) -> list[int]:
    """Positions that lie after everything before them and before everything after them.

    Everything before position k leads to it exactly when each earlier layer has a reader at k or earlier; everything
    after it comes from it exactly when each later layer reads from k or later.
    """
    first_reader, last_source = [layers] * layers, [-1] * layers
    for producer, readers in wires:
        if producer >= 0:
            first_reader[producer] = min(first_reader[producer], readers[0])
            for reader in readers:
                last_source[reader] = max(last_source[reader], producer)
    waits_until = accumulate(first_reader, max, initial=0)  # [k]: the first reader of the layer that waits longest
    reads_from = list(accumulate(reversed(last_source), min, initial=layers))[-2::-1]  # [k]: of the layers after k
    return [k for k, (until, since) in enumerate(zip(waits_until, reads_from, strict=False)) if until <= k <= since]
