"""What comes before a tensor. Knows no torch."""

from __future__ import annotations

from collections.abc import Iterable

from splitnn.graph.graph import Graph


def layers_before(graph: Graph, wanted: Iterable[str]) -> set[str]:
    """The layers that these tensors depend on, whatever else reads theirs."""
    found: set[str] = set()
    stack = list(wanted)
    while stack:
        layer = graph.producer.get(stack.pop())
        if layer is not None and layer not in found:
            found.add(layer)
            stack.extend(graph.layer(layer).inputs)
    return found
