"""How sure an exit may claim to be, and from when on its answer is good enough: measured on held-out data.

Temperatures make the largest softmax probability mean what it says (Guo et al. 2017, temperature scaling); thresholds
are then chosen for the least work at a given accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from splitnn.graph.exits import Exit, Exits, levels
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model
from splitnn.tuning.evaluation import Samples, values_on
from splitnn.tuning.exit_thresholds import choose_thresholds

_COLDEST, _HOTTEST = 0.05, 20.0


def calibrate_exits(
    model: Model,
    outputs: Mapping[str, str],
    held_out: Samples,
    *,
    max_drop: float = 0.0,
) -> Exits:
    """Exits that keep the accuracy of the last one but for ``max_drop`` (0.003 is 0.3 points), with the least work.

    ``outputs`` names the exits and the tensors of their logits, the first one first; nothing was trained on
    ``held_out``. Where that has no labels, answers are judged by agreement with the last exit. Work is counted in
    FLOPs. Temperatures, thresholds and tallies come from the same samples: with thousands of them and a handful of
    thresholds that flatters little, but it does flatter.

    Raises:
        ValueError: no thresholds keep the accuracy, or an exit is no output of the model.
        InvalidInput: the data do not fit the model.
    """
    found = values_on(model, held_out, tuple(outputs.values()))
    logits = [found[output] for output in outputs.values()]
    last, labels = logits[-1], held_out.labels
    truth = last.argmax(1) if labels is None else labels[: len(last)]
    right = [(each.argmax(1) == truth).numpy() for each in logits]
    # Judged by itself the last exit is always right, and no temperature would be cold enough.
    heats = [temperature(each, truth) for each in logits[:-1]]
    heats.append(1.0 if labels is None else temperature(last, truth))
    sure = [confidences(each, heat).numpy() for each, heat in zip(logits, heats, strict=True)]
    exits = [Exit(name, output, heat) for (name, output), heat in zip(outputs.items(), heats, strict=True)]
    plain = Exits.counted(exits, [([True] * len(exits),) * 2], against="model", data="")
    thresholds = choose_thresholds(
        sure[:-1],
        right,
        work=work_until(model.graph, plain),
        least_right=math.ceil(int(right[-1].sum()) - max_drop * len(last) - 1e-9),
    )
    chosen = [replace(each, threshold=threshold) for each, threshold in zip(exits, thresholds, strict=True)]
    rows = zip(
        zip(*(each >= threshold for each, threshold in zip(sure, thresholds, strict=True)), strict=True),
        zip(*right, strict=True),
        strict=True,
    )
    origins = len(set(held_out.origins))
    data = held_out.source + ("" if origins == len(held_out.origins) else f", {origins} origins")
    return Exits.counted(chosen, rows, against="model" if labels is None else "labels", data=data)


def confidences(logits: torch.Tensor, heat: float) -> torch.Tensor:
    """The largest probability of each row of logits (N, classes) at that temperature, float64 (N,)."""
    return (logits.double() / heat).softmax(1).amax(1)


def temperature(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """The temperature with the least negative log-likelihood of ``truth``, int64 (N,), between 0.05 and 20.

    The likelihood is concave in the inverse of the temperature, so that a golden section finds the best one.
    """
    wide = logits.double()

    def loss(inverse: float) -> float:
        return float(torch.nn.functional.cross_entropy(wide * inverse, truth))

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    loss_a, loss_b = loss(a), loss(b)
    for _ in range(40):
        if loss_a <= loss_b:
            high, b, loss_b = b, a, loss_a
            a = high - ratio * (high - low)
            loss_a = loss(a)
        else:
            low, a, loss_a = a, b, loss_b
            b = low + ratio * (high - low)
            loss_b = loss(b)
    return round(2 / (low + high), 4)


def work_until(graph: Graph, exits: Exits) -> list[float]:
    """FLOPs until each exit's answer, the exits before it included; every layer counts for one at least."""
    found = [0.0] * len(exits.exits)
    for name, level in levels(graph, exits).items():
        for at in range(level, len(found)):
            found[at] += max(1, graph.layer(name).flops)
    return found
