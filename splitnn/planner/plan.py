"""A plan: which host runs which layers, and how the tensors between them travel. A value; knows no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from splitnn.cost.estimate import Cost

Mode = Literal["exact", "fast"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A decision about one model. Two plans with one ``id`` run alike, whatever they were predicted to cost."""

    model: str  # digest
    hosts: tuple[str, ...]
    layers: tuple[tuple[str, ...], ...]  # of each host, in topological order
    codecs: Mapping[str, tuple[str, ...]]  # crossing tensor -> its codec on each hop that it crosses, in hop order
    predicted: Cost
    mode: Mode = "exact"

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that name the decision."""
        text = repr((self.model, self.hosts, self.layers, sorted(self.codecs.items()), self.mode))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def placement(self) -> dict[str, str]:
        """Host of each layer."""
        return {layer: host for host, names in zip(self.hosts, self.layers, strict=True) for layer in names}
