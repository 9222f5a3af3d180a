"""Where in a tensor the model's answer feels a disturbance."""

from __future__ import annotations

from collections.abc import Callable

import torch

from splitnn.graph.code import run_nodes
from splitnn.graph.model import Model
from splitnn.tuning.evaluation import Progress, silent

_BATCH = 16


def gradients(
    model: Model, tensor: str, values: torch.Tensor, *, answers: str, seed: int = 0, progress: Progress = silent
) -> torch.Tensor:
    """Gradients of the log-likelihood of answers that the model itself draws, with respect to ``tensor``.

    Of the shape of ``values``, (N, ...), which are what the tensor holds. Their second moment is the Fisher
    information: a disturbance d moves the answers by about d' F d / 2 nats (Kullback-Leibler), whatever the label is.

    Raises:
        ValueError: the answers do not follow from the tensor alone, or do not depend on it.
    """
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty_like(values)
    answer = answering(model, tensor, answers=answers)
    for start in range(0, len(values), _BATCH):
        progress(start / len(values), "measuring where answers are sensitive")
        given = values[start : start + _BATCH].clone().requires_grad_()
        logits = answer(given)
        if logits.grad_fn is None:
            raise ValueError(f"the answers {answers!r} do not depend on {tensor!r}")
        drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator).squeeze(1)
        torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
        if given.grad is not None:
            found[start : start + _BATCH] = given.grad
    return found


def answering(model: Model, tensor: str, *, answers: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """What gives the answers (N, classes) for values of ``tensor``; gradients flow back to them.

    Raises:
        ValueError: the tensor does not suffice.
    """
    nodes = model.program.needed((tensor,), (answers,))
    needed = {name for node in nodes for name in node.reads} & model.weights.keys()

    def laid_out(layout: torch.memory_format) -> Callable[[torch.Tensor], torch.Tensor]:
        weights = {name: _laid_out(model.weights[name], layout) for name in needed}

        def answer(value: torch.Tensor) -> torch.Tensor:
            found = value = _laid_out(value, layout)
            for node, made in run_nodes(nodes, {**weights, tensor: value}):
                if node.name == answers:
                    found = made
            return found

        return answer

    quickest = laid_out(torch.channels_last)  # for the convolutions of a CPU
    try:
        with torch.inference_mode():
            quickest(torch.zeros(model.graph.tensors[tensor].shape))
    except RuntimeError:  # who flattens a picture by a view needs the layout that was captured
        return laid_out(torch.contiguous_format)
    return quickest


def _laid_out(value: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    return value.contiguous(memory_format=layout) if value.dim() == 4 else value
