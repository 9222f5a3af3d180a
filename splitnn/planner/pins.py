"""Which tiers each layer may run on when some layers' hosts are given: data never flows back, so pins spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
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

    def of_part(self, graph: Graph, part: Graph) -> TierRanges:
        """The ranges of a part of the graph's layers."""
        positions = [graph.index[layer.name] for layer in part.layers]
        return TierRanges([self.lowest[at] for at in positions], [self.highest[at] for at in positions])

    def filled(self, graph: Graph, placed: Mapping[str, int]) -> tuple[int, ...]:
        """A tier for every layer: those not placed, which nothing waits for, go as near to the device as may be."""
        found: dict[str, int] = {}
        for layer, lowest in zip(graph.layers, self.lowest, strict=True):
            sources = [found[graph.producer[tensor]] for tensor in layer.inputs if tensor in graph.producer]
            found[layer.name] = placed.get(layer.name, max([lowest, *sources]))
        return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Bound:
    """The tiers on which one layer may run, and why, as a clause: ``is pinned to 'device'``."""

    lowest: int
    highest: int
    why: str


def tier_ranges(graph: Graph, pins: Mapping[str, str], hosts: Sequence[str]) -> TierRanges:
    """What the pins (layer to host) leave open: no layer before a pinned one runs later, none after it earlier.

    Raises:
        InfeasiblePlan: two pins contradict each other.
        ValueError: a pin names an unknown layer or host.
    """
    bounds = []
    for name, host in pins.items():
        if name not in graph.index:
            raise ValueError(f"layer {name!r}, pinned to {host!r}, does not exist in this model")
        if host not in hosts:
            raise ValueError(f"layer {name!r} is pinned to host {host!r}; the topology has {list(hosts)}")
        tier = hosts.index(host)
        bounds.append((name, Bound(tier, tier, f"is pinned to {host!r}")))
    return spread(graph, bounds, hosts)


def exit_pins(
    graph: Graph, exits: Exits, hosts: Sequence[str], pins: Mapping[str, str]
) -> Iterator[tuple[tuple[int, ...], dict[str, str]]]:
    """Every way to give the exits to hosts in order that the pins allow: of each exit its host, and all pins together.

    Raises:
        InfeasiblePlan: the pins contradict each other.
        ValueError: a pin names what does not exist, or an exit is no output of the graph.
    """
    exits.check_fits(graph)
    tier_ranges(graph, pins, hosts)
    logits = [graph.producer[each.output] for each in exits.exits]
    for decided_on in combinations_with_replacement(range(len(hosts)), len(logits)):
        wanted = {(layer, hosts[tier]) for layer, tier in zip(logits, decided_on, strict=True)}
        if len(dict(wanted)) < len(wanted) or any(pins.get(layer, host) != host for layer, host in wanted):
            continue
        pinned = {**pins, **dict(wanted)}
        try:
            tier_ranges(graph, pinned, hosts)
        except InfeasiblePlan:
            continue
        yield decided_on, pinned


def spread(graph: Graph, bounds: Sequence[tuple[str, Bound]], hosts: Sequence[str]) -> TierRanges:
    """What bounds on some layers leave to all: no layer runs later than one that reads from it.

    Raises:
        InfeasiblePlan: two bounds contradict each other.
    """
    last = len(hosts) - 1
    lowest, highest = [0] * len(graph), [last] * len(graph)
    if not bounds:
        return TierRanges(lowest, highest)
    own = _merged(bounds)
    free = Bound(0, last, "")
    because = [""] * len(graph)  # the layer that raised the lowest tier
    for position, layer in enumerate(graph.layers):
        for tensor in layer.inputs:
            if tensor in graph.producer:
                source = graph.index[graph.producer[tensor]]
                if lowest[source] > lowest[position]:
                    lowest[position], because[position] = lowest[source], because[source]
        bound = own.get(layer.name, free)
        if bound.highest < lowest[position]:
            raise InfeasiblePlan(
                f"layer {layer.name!r} {bound.why}, but it needs {because[position]!r}, which "
                f"{own[because[position]].why}, and data never flows back"
            )
        if bound.lowest > lowest[position]:
            lowest[position], because[position] = bound.lowest, layer.name
        highest[position] = bound.highest
    for position in range(len(graph) - 1, -1, -1):
        for tensor in graph.layers[position].outputs:
            for reader in graph.consumers[tensor]:
                highest[position] = min(highest[position], highest[graph.index[reader]])
    return TierRanges(lowest, highest)


def _merged(bounds: Sequence[tuple[str, Bound]]) -> dict[str, Bound]:
    """One bound a layer."""
    merged: dict[str, Bound] = {}
    for name, bound in bounds:
        known = merged.get(name)
        if known is not None:
            bound = Bound(
                max(known.lowest, bound.lowest), min(known.highest, bound.highest), f"{known.why} and {bound.why}"
            )
        if bound.lowest > bound.highest:
            raise InfeasiblePlan(f"layer {name!r} {bound.why}: no host is left for it")
        merged[name] = bound
    return merged
