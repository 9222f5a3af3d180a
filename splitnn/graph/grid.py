"""Tensors on a grid of 256 steps: how a program says that a tensor has eight bits, and how an engine hears it.

The program divides by the step, rounds, clamps and multiplies, in floats, so that torch computes what a processor with
int8 arithmetic does; an engine that has such arithmetic finds the four calls and computes in int8 indeed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from splitnn.graph.program import Node, Ref

STEPS = 255  # from the lowest to the highest value

_DIVIDE, _ROUND, _CLAMP, _MULTIPLY = "aten.div.Tensor", "aten.round.default", "aten.clamp.default", "aten.mul.Tensor"


@dataclass(frozen=True, slots=True)
class Grid:
    """The values ``step * k`` for whole numbers k from ``low`` to ``low + 255``."""

    step: float  # a float32 number, above 0
    low: int  # from -255 to 0, so that 0 is on the grid

    def __post_init__(self) -> None:
        if not (0 < self.step < math.inf) or not -STEPS <= self.low <= 0:
            raise ValueError(f"a grid has a step above 0 and starts between -{STEPS} and 0: {self}")

    @classmethod
    def between(cls, low: float, high: float) -> Grid:
        """The grid for values from ``low`` to ``high``, widened to hold 0."""
        low, high = min(low, 0.0), max(high, 0.0)
        step = torch.tensor((high - low) / STEPS).clamp_min(1e-12).item()
        return cls(step, max(-STEPS, min(0, round(low / step))))

    def rounded(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest values of the grid, as the program computes them."""
        return values.div(self.step).round_().clamp_(self.low, self.low + STEPS).mul_(self.step)


def grid_nodes(name: str, source: str, grid: Grid) -> list[Node]:
    """Calls that make ``name``, the value ``source`` on a grid."""
    return [
        Node(f"{name}.steps", _DIVIDE, (Ref(source), grid.step), {}),
        Node(f"{name}.whole", _ROUND, (Ref(f"{name}.steps"),), {}),
        Node(f"{name}.within", _CLAMP, (Ref(f"{name}.whole"), grid.low, grid.low + STEPS), {}),
        Node(name, _MULTIPLY, (Ref(f"{name}.within"), grid.step), {}),
    ]


def is_on_grid(node: Node) -> bool:
    """Whether the call is the last of ``grid_nodes``."""
    return node.op == _MULTIPLY and node.reads == (f"{node.name}.within",)


def grids_in(graph: fx.Graph) -> Iterator[tuple[fx.Node, fx.Node, Grid]]:
    """What ``grid_nodes`` wrote, found again in compiled code: the value on the grid, its source, and the grid."""
    for node in graph.nodes:
        if (found := _grid_of(node)) is not None:
            yield node, *found


def _grid_of(node: fx.Node) -> tuple[fx.Node, Grid] | None:
    """Source and grid, where the node ends such calls and nothing else reads what lies between."""
    given: list[tuple[Any, ...]] = []
    at: Any = node
    for op, count in ((_MULTIPLY, 2), (_CLAMP, 3), (_ROUND, 1), (_DIVIDE, 2)):
        if not isinstance(at, fx.Node) or str(at.target) != op or len(at.args) != count:
            return None
        if at is not node and len(at.users) > 1:
            return None
        given.append(at.args)
        at = at.args[0]
    (_, again), (_, low, high), _, (_, step) = given
    numbers = isinstance(step, float) and isinstance(low, int) and again == step and high == low + STEPS
    if not isinstance(at, fx.Node) or not numbers or not (-STEPS <= low <= 0 < step < math.inf):
        return None
    return at, Grid(step, low)
