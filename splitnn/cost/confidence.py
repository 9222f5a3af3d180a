"""How sure an exit may claim to be, and from when on its answer is good enough: measured on held-out data.

Temperatures make the largest softmax probability mean what it says (Guo et al. 2017, temperature scaling); thresholds
are then chosen for the least work at a given accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from splitnn.cost.exit_thresholds import choose_thresholds
from splitnn.graph.exits import Exit, Exits, levels
from splitnn.graph.extract import extract
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model

_COLDEST, _HOTTEST = 0.05, 20.0


def calibrate_exits(
    model: Model,
    outputs: Mapping[str, str],
    inputs: Mapping[str, torch.Tensor],
    *,
    labels: torch.Tensor | None = None,
    max_drop: float = 0.0,
    data: str = "held-out data",
    batch: int = 64,
) -> Exits:
    """Exits that keep the accuracy of the last one but for ``max_drop`` (0.003 is 0.3 points), with the least work.

    ``outputs`` names the exits and the tensors of their logits, the first one first; ``inputs`` are samples that
    nothing was trained on, stacked along the first dimension. Without ``labels`` answers are judged by agreement with
    the last exit. Work is counted in FLOPs. Temperatures, thresholds and tallies come from the same samples: with
    thousands of them and a handful of thresholds that flatters little, but it does flatter.

    Raises:
        ValueError: no thresholds keep the accuracy, or an exit is no output of the model.
    """
    logits = logits_of(model, tuple(outputs.values()), inputs, batch=batch)
    last = logits[-1]
    truth = last.argmax(1) if labels is None else labels
    if len(truth) < len(last):
        raise ValueError(f"{len(last)} samples have {len(truth)} labels")
    truth = truth[: len(last)]
    right = [(each.argmax(1) == truth).numpy() for each in logits]
    # Judged by itself the last exit is always right, and no temperature would be cold enough.
    found = [temperature(each, truth) for each in logits[:-1]]
    found.append(1.0 if labels is None else temperature(last, truth))
    sure = [confidences(each, heat).numpy() for each, heat in zip(logits, found, strict=True)]
    exits = [Exit(name, output, heat) for (name, output), heat in zip(outputs.items(), found, strict=True)]
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


@torch.inference_mode()
def logits_of(
    model: Model, tensors: Sequence[str], inputs: Mapping[str, torch.Tensor], *, batch: int = 64
) -> list[torch.Tensor]:
    """What these tensors hold for all samples, in batches; a fixed batch of the model's leaves out what is left over.

    Raises:
        ValueError: there are fewer samples than a batch of the model, or an input is missing.
    """
    stage = extract(model, tuple(model.graph.inputs), tuple(tensors))
    parts = [stage(*chunk) for chunk in chunks(model, inputs, batch=batch)]
    if not parts:
        raise ValueError(f"the model takes batches of {model.graph.batch}; there are fewer samples")
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def chunks(model: Model, inputs: Mapping[str, torch.Tensor], *, batch: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """The samples in batches that the model takes, the tensors in the order of its inputs."""
    if missing := [name for name in model.graph.inputs if name not in inputs]:
        raise ValueError(f"no samples for the input {missing[0]!r}")
    names = model.graph.inputs
    count = min(len(inputs[name]) for name in names)
    is_fixed = not any(any(model.graph.tensors[name].batch_growth) for name in names)
    size = model.graph.batch if is_fixed else batch
    for start in range(0, count - size + 1 if is_fixed else count, size):
        yield tuple(inputs[name][start : min(count, start + size)] for name in names)
