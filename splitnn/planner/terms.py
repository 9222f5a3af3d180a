"""A planning problem in integers: layers by position, tensors by number, nanoseconds for costs.

The decision is a tier for each layer. Seen hop by hop it is one bit for each layer and hop: does the layer run beyond
the hop? Everything is then a sum over hops, which is what makes the minimum cut exact for any number of tiers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splitnn.cost.estimate import CostTable
from splitnn.errors import InfeasiblePlan
from splitnn.graph.graph import Graph


@dataclass(frozen=True, slots=True)
class Wire:
    """A tensor that layers read."""

    producer: int  # position of the layer that makes it; -1 for a model input, which starts on the device
    readers: tuple[int, ...]  # positions, ascending


@dataclass(frozen=True, slots=True)
class Terms:
    """What each decision bit costs.

    The latency of a placement is ``on_device``, plus ``move[h][v]`` for each layer v beyond hop h, plus
    ``carry[h][t]`` for each wire t whose last reader, but not whose producer, lies beyond hop h, plus ``round_trip[h]``
    when any layer does.
    """

    wires: tuple[Wire, ...]
    on_device: int  # everything on the first host
    move: Sequence[Sequence[int]]  # hop, layer: time there instead of here, and the download of its results
    carry: Sequence[Sequence[int]]  # hop, wire
    round_trip: Sequence[int]  # hop
    lowest: Sequence[int]  # tier of each layer that the pins leave possible
    highest: Sequence[int]

    @property
    def layers(self) -> int:
        return len(self.lowest)

    @property
    def hops(self) -> int:
        return len(self.round_trip)


def wires_of(graph: Graph) -> dict[str, Wire]:
    """The tensors that layers read, by name, in graph order."""
    index = graph.index
    return {
        tensor: Wire(
            index[graph.producer[tensor]] if tensor in graph.producer else -1, tuple(index[name] for name in readers)
        )
        for tensor, readers in graph.consumers.items()
        if readers
    }


def terms_of(graph: Graph, table: CostTable, pins: Mapping[str, int]) -> Terms:
    """The problem of placing ``graph`` at the costs in ``table``, with some layers' tiers given.

    Raises:
        InfeasiblePlan: the pins contradict each other: data would flow back.
        ValueError: a pin names no layer or no tier.
    """
    wires = wires_of(graph)
    hops = len(table.round_trip_ns)
    compute = [table.compute_ns[layer.name] for layer in graph.layers]
    move = [[costs[hop + 1] - costs[hop] for costs in compute] for hop in range(hops)]
    for tensor, costs in table.download_ns.items():
        for hop, cost in enumerate(costs):
            move[hop][graph.index[graph.producer[tensor]]] += cost
    lowest, highest = _tier_ranges(graph, tuple(wires.values()), pins, hops)
    return Terms(
        wires=tuple(wires.values()),
        on_device=sum(costs[0] for costs in compute),
        move=move,
        carry=[[table.transfers[tensor][hop].total_ns for tensor in wires] for hop in range(hops)],
        round_trip=table.round_trip_ns,
        lowest=lowest,
        highest=highest,
    )


def _tier_ranges(
    graph: Graph, wires: Sequence[Wire], pins: Mapping[str, int], hops: int
) -> tuple[Sequence[int], Sequence[int]]:
    """Lowest and highest tier of each layer: a reader never runs on an earlier host than what it reads."""
    lowest, highest = [0] * len(graph), [hops] * len(graph)
    if not pins:
        return lowest, highest
    for name, tier in pins.items():
        if name not in graph.index:
            raise ValueError(f"a pin names layer {name!r}, which the model does not have")
        if not 0 <= tier <= hops:
            raise ValueError(f"layer {name!r} is pinned to tier {tier}; the topology has tiers 0 to {hops}")
        lowest[graph.index[name]] = highest[graph.index[name]] = tier
    ordered = sorted(wires, key=lambda wire: wire.producer)
    for wire in ordered:
        if wire.producer >= 0:
            for reader in wire.readers:
                lowest[reader] = max(lowest[reader], lowest[wire.producer])
    for wire in reversed(ordered):
        if wire.producer >= 0:
            highest[wire.producer] = min(highest[wire.producer], *(highest[reader] for reader in wire.readers))
    for i, layer in enumerate(graph.layers):
        if lowest[i] > highest[i]:
            raise InfeasiblePlan(
                f"the pins contradict each other at layer {layer.name!r}: layers before it are pinned to host "
                f"{lowest[i]} or later, layers after it to host {highest[i]} or earlier, and data never flows back"
            )
    return lowest, highest
