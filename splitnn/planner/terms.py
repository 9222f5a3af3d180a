"""A planning problem in integers: layers by position, tensors by number, nanoseconds for costs.

The decision is a tier for each layer. Seen hop by hop it is one bit for each layer and hop: does the layer run beyond
the hop? Everything is then a sum over hops, which is what makes the minimum cut exact for any number of tiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import sub

from splitnn.cost.estimate import CostTable
from splitnn.graph.graph import Graph
from splitnn.graph.layout import Layout
from splitnn.planner.pins import TierRanges


@dataclass(frozen=True, slots=True)
class Terms:
    """What each decision bit costs.

    The latency of a placement is ``on_device``, plus ``move[h][v]`` for each layer v beyond hop h, plus
    ``carry[h][t]`` for each wire t whose last reader, but not whose producer, lies beyond hop h, plus ``round_trip[h]``
    when any layer does, less ``first_stage`` when none stays on the first host.
    """

    layout: Layout
    on_device: int  # everything on the first host
    move: Sequence[Sequence[int]]  # hop, layer: time there instead of here, and the download of its results
    carry: Sequence[Sequence[int]]  # hop, wire
    round_trip: Sequence[int]  # hop, with the handling of its message
    tiers: TierRanges
    first_stage: int = 0  # the part of ``on_device`` that is saved when no layer stays on the first host

    def crossing(self, hop: int) -> list[int]:
        """[k]: cost of carrying over the hop every wire from before position k to k or later."""
        steps = [0] * (self.layout.layers + 2)
        for (producer, readers), cost in zip(self.layout.wires, self.carry[hop], strict=True):
            steps[producer + 1] += cost
            steps[readers[-1] + 1] -= cost
        return list(accumulate(steps[:-1]))

    def moved(self, hop: int) -> list[int]:
        """[k]: cost of moving over the hop every layer from position k on."""
        return list(accumulate(reversed(self.move[hop]), initial=0))[::-1]


def terms_of(graph: Graph, table: CostTable, tiers: TierRanges) -> Terms:
    """The problem of placing ``graph`` at the costs in ``table``."""
    index, producer = graph.index, graph.producer
    hops = len(table.round_trip_ns)
    compute = [table.compute_ns[name] for name in index]
    times = list(zip(*compute, strict=True))  # host, layer
    move = [list(map(sub, beyond, here)) for here, beyond in pairwise(times)] if compute else [[] for _ in range(hops)]
    for tensor, costs in table.download_ns.items():
        for hop, cost in enumerate(costs):
            move[hop][index[producer[tensor]]] += cost
    return Terms(
        layout=graph.layout,
        on_device=(sum(times[0]) if compute else 0) + table.request_ns + (table.first_stage_ns if compute else 0),
        move=move,
        carry=[[table.transfers[tensor][hop].total_ns for tensor in graph.wires] for hop in range(hops)],
        round_trip=table.hop_ns,
        tiers=tiers,
        first_stage=table.first_stage_ns if compute else 0,
    )
