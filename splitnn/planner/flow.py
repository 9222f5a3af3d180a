"""Minimum closures by maximum flow: the only place where a flow is pushed. Knows neither layers nor hosts.

A *closure* is a set of vertices that obeys implications ("when a is in, so is b"); the cheapest one is a minimum cut
(Picard 1976). The flow is Dinic's (1970), with both terminals implicit: a vertex that costs something when it is in
is fed by the source, one that saves something drains into the sink, and every other arc is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence


class Closure:
    """A minimum-closure problem that is built up and then solved once; weights are integers of any size."""

    def __init__(self) -> None:
        self._weight: list[int] = []
        self._arcs: list[list[int]] = []  # of each vertex; arc e ends in _to[e], and e ^ 1 is its reverse
        self._to: list[int] = []

    def add_vertex(self, weight: int) -> int:
        """A vertex that adds ``weight`` when it is in; returns its number."""
        self._weight.append(weight)
        self._arcs.append([])
        return len(self._weight) - 1

    def add_weight(self, vertex: int, weight: int) -> None:
        """Make a vertex dearer (or cheaper)."""
        self._weight[vertex] += weight

    def imply(self, premise: int, conclusion: int) -> None:
        """When ``premise`` is in, ``conclusion`` has to be in."""
        self._arcs[conclusion].append(len(self._to))
        self._to.append(premise)
        self._arcs[premise].append(len(self._to))
        self._to.append(conclusion)

    def solve(self) -> tuple[int, Sequence[bool]]:
        """Weight of a minimum closure (0 for the empty one), and who is in the smallest such closure."""
        excess = [max(0, weight) for weight in self._weight]
        room = [max(0, -weight) for weight in self._weight]
        if not any(room):
            return 0, [False] * len(room)
        infinite = sum(excess) + 1
        capacity = [infinite, 0] * (len(self._to) // 2)
        saved, pushed = sum(room), 0
        while True:
            level = self._levels(room, capacity)
            sources = [v for v, amount in enumerate(excess) if amount and level[v]]
            if not sources:
                return pushed - saved, [bool(depth) for depth in level]
            next_arc = [0] * len(level)
            for source in sources:
                pushed += self._push(source, excess, room, capacity, level, next_arc)

    def _levels(self, room: Sequence[int], capacity: Sequence[int]) -> list[int]:
        """One more than the residual arcs between each vertex and one with room; 0 where there is no way."""
        level = [1 if amount else 0 for amount in room]
        frontier = [v for v, amount in enumerate(room) if amount]
        depth = 1
        while frontier:
            depth += 1
            reached = []
            for v in frontier:
                for arc in self._arcs[v]:
                    u = self._to[arc]
                    if not level[u] and capacity[arc ^ 1]:
                        level[u] = depth
                        reached.append(u)
            frontier = reached
        return level

    def _push(
        self,
        source: int,
        excess: list[int],
        room: list[int],
        capacity: list[int],
        level: list[int],
        next_arc: list[int],
    ) -> int:
        """Send what the source holds down the levels until it is empty or the ways are blocked."""
        to, arcs = self._to, self._arcs
        path: list[int] = []
        v, pushed = source, 0
        while True:
            if room[v]:
                amount = min(excess[source], room[v])
                for arc in path:
                    amount = min(amount, capacity[arc])
                room[v] -= amount
                excess[source] -= amount
                pushed += amount
                for arc in path:
                    capacity[arc] -= amount
                    capacity[arc ^ 1] += amount
                if not excess[source]:
                    return pushed
                for depth, arc in enumerate(path):
                    if not capacity[arc]:
                        v = to[arc ^ 1]
                        del path[depth:]
                        break
                continue
            below = level[v] - 1
            mine = arcs[v]
            i = next_arc[v]
            while i < len(mine) and not (capacity[mine[i]] and level[to[mine[i]]] == below and below):
                i += 1
            next_arc[v] = i
            if i < len(mine):
                path.append(mine[i])
                v = to[mine[i]]
            elif path:
                v = to[path.pop() ^ 1]
                next_arc[v] += 1
            else:
                return pushed
