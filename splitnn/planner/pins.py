"""Which tiers each layer may run on when some layers' hosts are given: data never flows back, so pins spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splitnn.errors import InfeasiblePlan
from splitnn.graph.graph import Graph


@dataclass(frozen=True, slots=True)
class TierRanges:
    """Lowest and highest tier that is left to each layer."""

    lowest: Sequence[int]
    highest: Sequence[int]

    def ends(self, hop: int) -> range:
        """How many of the first layers can stay before the hop, all others lying beyond it."""
        first_moved = next((i for i, tier in enumerate(self.lowest) if tier > hop), len(self.lowest))
        last_kept = next((i for i in range(len(self.highest) - 1, -1, -1) if self.highest[i] <= hop), -1)
        return range(last_kept + 1, first_moved + 1)


def tier_ranges(graph: Graph, pins: Mapping[str, str], hosts: Sequence[str]) -> TierRanges:
    """What the pins (layer to host) leave open: no layer before a pinned one runs later, none after it earlier.

    Raises:
        InfeasiblePlan: two pins contradict each other.
        ValueError: a pin names an unknown layer or host.
    """
    last = len(hosts) - 1
    lowest, highest = [0] * len(graph), [last] * len(graph)
    if not pins:
        return TierRanges(lowest, highest)
    because = [""] * len(graph)  # the pinned layer that raised the lowest tier
    for name, host in pins.items():
        if name not in graph.index:
            raise ValueError(f"layer {name!r}, pinned to {host!r}, does not exist in this model")
        if host not in hosts:
            raise ValueError(f"layer {name!r} is pinned to host {host!r}; the topology has {list(hosts)}")
    for position, layer in enumerate(graph.layers):
        for tensor in layer.inputs:
            if tensor in graph.producer:
                source = graph.index[graph.producer[tensor]]
                if lowest[source] > lowest[position]:
                    lowest[position], because[position] = lowest[source], because[source]
        if layer.name in pins:
            tier = hosts.index(pins[layer.name])
            if tier < lowest[position]:
                raise InfeasiblePlan(
                    f"layer {layer.name!r} is pinned to {hosts[tier]!r}, but it needs {because[position]!r}, which is "
                    f"pinned to {hosts[lowest[position]]!r}, and data never flows back"
                )
            lowest[position], because[position], highest[position] = tier, layer.name, tier
    for position in range(len(graph) - 1, -1, -1):
        for tensor in graph.layers[position].outputs:
            for reader in graph.consumers[tensor]:
                highest[position] = min(highest[position], highest[graph.index[reader]])
    return TierRanges(lowest, highest)
