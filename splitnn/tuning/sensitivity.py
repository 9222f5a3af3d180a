"""Where in a tensor the model's answer feels a disturbance."""

from __future__ import annotations

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
    for start in range(0, len(values), _BATCH):
        progress(start / len(values), "measuring where answers are sensitive")
        given = values[start : start + _BATCH].clone().requires_grad_()
        logits = answer_from(model, tensor, given, answers=answers)
        if logits.grad_fn is None:
            raise ValueError(f"the answers {answers!r} do not depend on {tensor!r}")
        drawn = torch.multinomial(logits.detach().softmax(1), 1, generator=generator).squeeze(1)
        torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
        if given.grad is not None:
            found[start : start + _BATCH] = given.grad
    return found


def answer_from(model: Model, tensor: str, value: torch.Tensor, *, answers: str) -> torch.Tensor:
    """The answers (N, classes) when ``tensor`` holds ``value``; gradients flow back to it.

    Raises:
        ValueError: the tensor does not suffice.
    """
    nodes = model.program.needed((tensor,), (answers,))
    needed = {name for node in nodes for name in node.reads} & model.weights.keys()
    found = value
    for node, made in run_nodes(nodes, {**{name: model.weights[name] for name in needed}, tensor: value}):
        if node.name == answers:
            found = made
    return found
