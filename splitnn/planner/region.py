"""One run of consecutive layers whose tiers are free, everything before it staying and everything after it moving."""

from __future__ import annotations

from collections.abc import Sequence

from splitnn.planner.flow import Closure
from splitnn.planner.terms import Terms, Wire


def cheapest_tiers(terms: Terms) -> tuple[int, tuple[int, ...]]:
    """Latency of the best placement in nanoseconds, and the tier of each layer; the lowest tiers among equals."""
    cost, beyond = cut_region(terms, range(terms.layers), range(terms.hops))
    return terms.on_device + cost, tuple(sum(row[v] for row in beyond) for v in range(terms.layers))


def cut_region(terms: Terms, inside: range, hops: range) -> tuple[int, Sequence[Sequence[bool]]]:
    """The cheapest way to lay the given hops through one run of layers.

    Layers before ``inside`` stay on this side of every one of the hops, layers after it lie beyond all of them.
    Returns the part of the cost that these hops make, the layers after ``inside`` included, and for each hop which
    of the layers inside lie beyond it: as few as possible.
    """
    builder = _Builder(terms, inside, hops)
    for hop in hops:
        builder.add_layers(hop)
    for hop in hops:
        for number, wire in enumerate(terms.wires):
            builder.add_wire(hop, wire, terms.carry[hop][number])
        builder.add_round_trip(hop)
    builder.order_hops()
    return builder.solve()


class _Builder:
    """The closure problem of a region: a vertex for each undecided layer and hop, one for each undecided wire."""

    def __init__(self, terms: Terms, inside: range, hops: range) -> None:
        self._terms = terms
        self._inside = inside
        self._hops = hops
        self._closure = Closure()
        self._known = 0
        self._vertices: dict[int, dict[int, int]] = {hop: {} for hop in hops}  # hop -> layer -> vertex

    def add_layers(self, hop: int) -> None:
        """A layer is in the closure when it lies beyond the hop."""
        move = self._terms.move[hop]
        vertices = self._vertices[hop]
        for layer in self._inside:
            if self._terms.lowest[layer] > hop:
                self._known += move[layer]
            elif self._terms.highest[layer] > hop:
                vertices[layer] = self._closure.add_vertex(move[layer])
        self._known += sum(move[self._inside.stop :])

    def add_wire(self, hop: int, wire: Wire, carry: int) -> None:
        """A tensor crosses once when any reader lies beyond the hop and its producer does not.

        It needs no vertex of its own when that is known already or hangs on one reader only.
        """
        closure, vertices = self._closure, self._vertices[hop]
        producer = vertices.get(wire.producer)
        if producer is None and self._is_beyond(wire.producer, hop):
            return
        undecided = [vertices[reader] for reader in wire.readers if reader in vertices]
        if producer is not None:
            closure.add_weight(producer, -carry)
            for reader in undecided:  # no way back
                closure.imply(producer, reader)
        if any(reader not in vertices and self._is_beyond(reader, hop) for reader in wire.readers):
            self._known += carry
        elif len(undecided) == 1:
            closure.add_weight(undecided[0], carry)
        elif undecided:
            crossing = closure.add_vertex(carry)
            for reader in undecided:
                closure.imply(reader, crossing)

    def add_round_trip(self, hop: int) -> None:
        """The hop's round trip is paid once when anything lies beyond it: a vertex that every layer implies."""
        terms, vertices = self._terms, self._vertices[hop]
        if self._inside.stop < terms.layers or any(terms.lowest[layer] > hop for layer in self._inside):
            self._known += terms.round_trip[hop]
        elif vertices:
            paid = self._closure.add_vertex(terms.round_trip[hop])
            for vertex in vertices.values():
                self._closure.imply(vertex, paid)

    def order_hops(self) -> None:
        """What lies beyond a hop lies beyond the hops before it."""
        for hop in self._hops[1:]:
            for layer, vertex in self._vertices[hop].items():
                if layer in self._vertices[hop - 1]:
                    self._closure.imply(vertex, self._vertices[hop - 1][layer])

    def solve(self) -> tuple[int, Sequence[Sequence[bool]]]:
        weight, members = self._closure.solve()
        return self._known + weight, [
            [
                members[self._vertices[hop][layer]] if layer in self._vertices[hop] else self._terms.lowest[layer] > hop
                for layer in self._inside
            ]
            for hop in self._hops
        ]

    def _is_beyond(self, layer: int, hop: int) -> bool:
        """Whether a layer that is not undecided lies beyond the hop."""
        return layer >= self._inside.stop or (layer in self._inside and self._terms.lowest[layer] > hop)
