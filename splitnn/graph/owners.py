"""Which layer each call of a program belongs to."""

from __future__ import annotations

from splitnn.graph.graph import Graph
from splitnn.graph.program import Program


def layer_of_nodes(graph: Graph, program: Program) -> dict[str, str]:
    """Layers by the names of calls; those on weights only belong to none.

    A call that makes no tensor of the graph (several at once, or a step on the way to one) belongs to the layer that
    reads what it makes.
    """
    producer = graph.producer
    owners: dict[str, str] = {}
    for node in reversed(program.nodes):
        if node.name in program.constants:
            continue
        if node.name in producer:
            owners[node.name] = producer[node.name]
        for name in node.reads:
            if name not in producer and node.name in owners:
                owners.setdefault(name, owners[node.name])
    return owners
