"""One host's memory as a planner sees it: not a sum, but bounded by one once some layers are known to be there."""

from __future__ import annotations

from collections.abc import Sequence

from splitnn.cost.memory import working_bytes
from splitnn.graph.graph import Graph
from splitnn.planner.pins import TierRanges
from splitnn.planner.relaxation import Spreading


class Memory:
    """Weights and working sets of the layers on one host, as ``splitnn.cost.memory`` defines them."""

    def __init__(self, graph: Graph, tier: int) -> None:
        self.tier = tier
        self._working = list(working_bytes(graph).values())
        self._weights = [tuple(dict.fromkeys(layer.weights)) for layer in graph.layers]
        self._size = graph.weight_bytes

    def peak_bytes(self, tiers: Sequence[int]) -> int:
        """Bytes that the host needs under a placement."""
        return self._needs([layer for layer, tier in enumerate(tiers) if tier == self.tier])

    def working_floor(self, tiers: TierRanges) -> int:
        """The largest working set that the host will certainly have."""
        return max((self._working[layer] for layer in self._certain(tiers)), default=0)

    def narrowed(self, tiers: TierRanges, limit_bytes: int, spreading: Spreading) -> TierRanges | None:
        """The tiers without layers that do not fit beside those that are certain; None when these do not fit."""
        certain = self._certain(tiers)
        if self._needs(certain) > limit_bytes:
            return None
        held = {weight for layer in certain for weight in self._weights[layer]}
        weights = sum(self._size[weight] for weight in held)
        working = max((self._working[layer] for layer in certain), default=0)
        for layer in range(len(self._working)):
            low, high = tiers.lowest[layer], tiers.highest[layer]
            if low == high or self.tier not in (low, high):
                continue
            own = sum(self._size[weight] for weight in self._weights[layer] if weight not in held)
            if weights + own + max(working, self._working[layer]) > limit_bytes:
                left = (
                    spreading.at_least(tiers, layer, self.tier + 1)
                    if self.tier == low
                    else spreading.at_most(tiers, layer, self.tier - 1)
                )
                if left is None:
                    return None
                tiers = left
        return tiers

    def _certain(self, tiers: TierRanges) -> list[int]:
        return [
            layer
            for layer, (low, high) in enumerate(zip(tiers.lowest, tiers.highest, strict=True))
            if low == high == self.tier
        ]

    def _needs(self, layers: Sequence[int]) -> int:
        held = {weight for layer in layers for weight in self._weights[layer]}
        return sum(self._size[weight] for weight in held) + max((self._working[layer] for layer in layers), default=0)
