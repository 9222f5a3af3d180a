"""The cheapest way to lay hops through one segment: a closure problem over its open layers."""

from __future__ import annotations

from dataclasses import dataclass

from splitnn.graph.layout import Segment, Wire
from splitnn.planner.flow import Closure
from splitnn.planner.terms import Terms


@dataclass(frozen=True, slots=True)
class Crossing:
    """How some hops cut one segment: as few layers as possible beyond them, among the cheapest ways."""

    cost: int  # what the layers inside, and the wires that they read or make, add for these hops
    beyond: tuple[tuple[bool, ...], ...]  # hop, layer inside


def cut_segment(terms: Terms, segment: Segment, hops: range) -> Crossing:
    """The best way for ``hops`` to cut ``segment``, while all before it stays and all after it lies beyond each."""
    builder = _Builder(terms, segment, hops)
    for hop in hops:
        builder.add_layers(hop)
        for number in segment.wires:
            builder.add_wire(hop, terms.layout.wires[number], terms.carry[hop][number])
        builder.add_round_trip(hop)
    builder.order_hops()
    return builder.solve()


class _Builder:
    """A vertex for each undecided layer and hop, one for each undecided tensor, one for an undecided round trip."""

    def __init__(self, terms: Terms, segment: Segment, hops: range) -> None:
        self._terms = terms
        self._inside = segment.inside
        self._hops = hops
        self._closure = Closure()
        self._known = 0
        self._vertices: dict[int, dict[int, int]] = {hop: {} for hop in hops}  # hop -> layer -> vertex

    def add_layers(self, hop: int) -> None:
        """A layer is in the closure when it lies beyond the hop."""
        move = self._terms.move[hop]
        vertices = self._vertices[hop]
        for layer in self._inside:
            if self._terms.tiers.lowest[layer] > hop:
                self._known += move[layer]
            elif self._terms.tiers.highest[layer] > hop:
                vertices[layer] = self._closure.add_vertex(move[layer])

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
        """The hop's round trip is paid once when anything lies beyond it: a vertex that every layer implies.

        Only the last segment can leave nothing beyond a hop; anywhere else the round trip is paid anyway.
        """
        terms, vertices = self._terms, self._vertices[hop]
        if self._inside.stop < terms.layout.layers:
            return
        if any(terms.tiers.lowest[layer] > hop for layer in self._inside):
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

    def solve(self) -> Crossing:
        weight, members = self._closure.solve()
        beyond = tuple(
            tuple(
                members[vertices[layer]] if layer in vertices else self._terms.tiers.lowest[layer] > hop
                for layer in self._inside
            )
            for hop, vertices in self._vertices.items()
        )
        return Crossing(self._known + weight, beyond)

    def _is_beyond(self, layer: int, hop: int) -> bool:
        """Whether a layer that is not undecided lies beyond the hop."""
        return layer >= self._inside.stop or (layer in self._inside and self._terms.tiers.lowest[layer] > hop)
