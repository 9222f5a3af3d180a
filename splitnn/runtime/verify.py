"""Prove that a model can be cut: run head and tail as separate stages and compare with the whole, bit for bit."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch

from splitnn.graph.graph import Graph
from splitnn.graph.model import Model, Value
from splitnn.runtime.stage import stage, stages

Progress = Callable[[int, int], None]
"""Called with the cuts done and the cuts to do."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found.

    ``worst_difference`` is absolute; of values that differ in bits alone (0.0 and -0.0) it is 0 too.
    """

    layers: int
    prefix_cuts: int
    all_prefix_cuts: bool
    random_cuts: int
    seed: int
    most_crossing: int
    different: tuple[str, ...]  # for each cut that differed, the last layer of its head
    worst_difference: float
    seconds: float

    @property
    def passed(self) -> bool:
        return not self.different


def check(
    model: Model, *, random_cuts: int, seed: int, budget_s: float = 120.0, progress: Progress | None = None
) -> Verdict:
    """Try every cut of the topological order, and so many random closed cuts, on the model's example.

    When all cuts of the order would take longer than ``budget_s``, they are sampled evenly.
    """
    started = time.perf_counter()
    graph = model.graph
    whole = stage(model, graph.inputs, graph.outputs)
    expected = whole.run(model.example)
    once = time.perf_counter()
    _differences(model, graph, expected, [layer.name for layer in graph.layers[: len(graph) // 2]])
    a_cut_s = time.perf_counter() - once
    affordable = max(20, int(budget_s / a_cut_s) - random_cuts)
    heads = list(_prefixes(graph, affordable)) + list(_closed(graph, random_cuts, random.Random(seed)))
    different: list[str] = []
    worst, most = 0.0, 0
    for done, head in enumerate(heads):
        most = max(most, len(graph.crossing(head)))
        same, gap = _differences(model, graph, expected, head)
        if not same:
            different.append(head[-1] if head else "(nothing)")
            worst = max(worst, gap)
        if progress:
            progress(done + 1, len(heads))
    return Verdict(
        layers=len(graph),
        prefix_cuts=len(heads) - random_cuts,
        all_prefix_cuts=len(heads) - random_cuts == len(graph) + 1,
        random_cuts=random_cuts,
        seed=seed,
        most_crossing=most,
        different=tuple(different),
        worst_difference=worst,
        seconds=time.perf_counter() - started,
    )


def identical(one: Value, other: Value) -> bool:
    """Whether two values have one type, one shape and the same bits (NaN equals NaN, 0.0 differs from -0.0)."""
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return type(one) is type(other) and bool(one == other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    left, right = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(left, right)


def _differences(model: Model, graph: Graph, expected: dict[str, Value], head: Collection[str]) -> tuple[bool, float]:
    """Whether the cut behind these layers is bit-identical, and the largest difference when it is not."""
    rest = [layer.name for layer in graph.layers if layer.name not in set(head)]
    values: dict[str, Value] = dict(model.example)
    for part in stages(model, {"head": head, "tail": rest}):
        inputs = {name: values[name] for name in part.inputs}  # a stage sees nothing but what crosses to it
        values.update(part.run(inputs))
    same = all(identical(values[name], expected[name]) for name in graph.outputs)
    return same, 0.0 if same else max(_gap(values[name], expected[name]) for name in graph.outputs)


def _gap(one: Value, other: Value) -> float:
    left, right = torch.as_tensor(one), torch.as_tensor(other)
    if left.shape != right.shape:
        return float("inf")
    return (left.double() - right.double()).abs().nan_to_num(nan=float("inf")).max().item() if left.numel() else 0.0


def _prefixes(graph: Graph, most: int) -> Iterator[list[str]]:
    names = [layer.name for layer in graph.layers]
    count = min(most, len(names) + 1)
    for i in range(count):
        yield names[: round(i * len(names) / max(1, count - 1))]


def _closed(graph: Graph, count: int, chance: random.Random) -> Iterator[list[str]]:
    """Prefixes of random topological orders."""
    for _ in range(count):
        waiting = {
            layer.name: {graph.producer[t] for t in layer.inputs if t in graph.producer} for layer in graph.layers
        }
        order: list[str] = []
        ready = [name for name, missing in waiting.items() if not missing]
        for _ in range(chance.randint(0, len(graph))):
            name = ready.pop(chance.randrange(len(ready)))
            order.append(name)
            for tensor in graph.layer(name).outputs:
                for reader in graph.consumers[tensor]:
                    waiting[reader].discard(name)
                    if not waiting[reader] and reader not in ready and reader not in order:
                        ready.append(reader)
        yield order
