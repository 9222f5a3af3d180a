"""Minimum closures against trying every set of vertices; implications may go round in circles."""

from __future__ import annotations

import random

from splitnn.planner.flow import Closure


def test_the_smallest_cheapest_closure_is_found(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(400):
        count = rng.randint(1, 9)
        spread = rng.choice((2, 1000))
        weights = [rng.randint(-spread, spread) for _ in range(count)]
        implications = [(rng.randrange(count), rng.randrange(count)) for _ in range(rng.randint(0, 2 * count))]
        closure = Closure()
        for weight in weights:
            closure.add_vertex(weight)
        for premise, conclusion in implications:
            closure.imply(premise, conclusion)
        closed = [
            members
            for members in range(1 << count)
            if all(members >> b & 1 or not members >> a & 1 for a, b in implications)
        ]
        worth = {members: sum(w for v, w in enumerate(weights) if members >> v & 1) for members in closed}
        least, found = closure.solve()
        assert least == min(worth.values())
        cheapest = [members for members in closed if worth[members] == least]
        smallest = min(cheapest, key=int.bit_count)  # within all others: minimum closures form a lattice
        assert sum(is_in << v for v, is_in in enumerate(found)) == smallest
        assert all(members & smallest == smallest for members in cheapest)
