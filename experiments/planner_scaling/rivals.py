"""How others find a cut between two hosts, on the same integer terms: each returns nanoseconds.

networkx      DADS' network (Hu et al. 2019; one auxiliary vertex a tensor) and networkx' preflow-push
dads          the same cut over all layers at once, by our own flow solver
qdmp          blocks between layers that nothing skips (Zhang et al. 2021), each solved by our flow solver
chain scan    every cut of the order (Neurosurgeon); exact for chains only
"""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx

from splitnn.graph.layout import Segment, landmarks, segments_between
from splitnn.planner.chain import every_cut
from splitnn.planner.region import cut_segment
from splitnn.planner.terms import Terms

_HOP = range(1)


def networkx_dads(terms: Terms) -> int:
    """On the sink's side are the layers that run in the cloud; an arc without a capacity is infinite."""
    network = nx.DiGraph()
    network.add_nodes_from(("device", "cloud"))
    saved = 0
    for layer, cost in enumerate(terms.move[0]):
        network.add_edge("round trip", layer)
        if cost > 0:
            network.add_edge("device", layer, capacity=cost)
        else:
            network.add_edge(layer, "cloud", capacity=-cost)
            saved -= cost
    network.add_edge("device", "round trip", capacity=terms.round_trip[0])
    for number, wire in enumerate(terms.layout.wires):
        source = "device" if wire.producer < 0 else wire.producer
        network.add_edge(source, ("tensor", number), capacity=terms.carry[0][number])
        for reader in wire.readers:
            network.add_edge(("tensor", number), reader)
            if wire.producer >= 0:
                network.add_edge(reader, source)
    value: int = nx.minimum_cut_value(network, "device", "cloud")
    return terms.on_device + value - saved


def dads(terms: Terms) -> int:
    whole = segments_between([], terms.layout.layers, terms.layout.wires)[0]
    return terms.on_device + cut_segment(terms, whole, _HOP).cost


def qdmp(terms: Terms) -> int:
    layers, wires = terms.layout.layers, terms.layout.wires
    skipped = [0] * (layers + 1)
    for wire in wires:
        skipped[wire.producer + 1] += 1
        skipped[wire.readers[-1]] -= 1
    marks, open_wires = [], 0
    landmark = set(landmarks(layers, wires))
    for position in range(layers):
        open_wires += skipped[position]
        if position in landmark and not open_wires:
            marks.append(position)
    crossing, moved = terms.crossing(0), terms.moved(0)

    def cost(segment: Segment) -> int:
        start, stop = segment.inside.start, segment.inside.stop
        inner = cut_segment(terms, segment, _HOP).cost if segment.inside else 0
        touched = sum(terms.carry[0][number] for number in segment.wires if wires[number].producer < start)
        return moved[stop] + crossing[start] - touched + inner + (terms.round_trip[0] if stop < layers else 0)

    return terms.on_device + min(cost(segment) for segment in segments_between(marks, layers, wires))


def chain_scan(terms: Terms) -> int:
    return min(cut.latency_ns for cut in every_cut(terms))


EXACT_RIVALS: dict[str, Callable[[Terms], int]] = {"networkx": networkx_dads, "dads": dads, "qdmp": qdmp}
