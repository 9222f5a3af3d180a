"""Where in a tensor the model's answer feels a disturbance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from splitnn.graph.code import run_nodes
from splitnn.graph.model import Model
from splitnn.tuning.answers import Answer
from splitnn.tuning.evaluation import Progress, silent

_BATCH = 16

Answering = Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor]
"""Of values (N, ...) of a tensor, and of the inputs that are read beside it, what the model answers: (N, ...)."""


def gradients(
    model: Model,
    tensor: str,
    values: torch.Tensor,
    *,
    beside: Mapping[str, torch.Tensor],
    answer: Answer,
    seed: int = 0,
    progress: Progress = silent,
) -> torch.Tensor:
    """Gradients of the log-likelihood of answers that the model itself draws, with respect to ``tensor``.

    Of the shape of ``values``, (N, ...), which are what the tensor holds, ``beside`` what ``read_beside`` names. Their
    second moment is the Fisher information: a disturbance d moves the answers by about d' F d / 2 nats
    (``Answer.divergence``), whatever the label is.

    Raises:
        ValueError: the answers do not follow from the tensor alone, or do not depend on it.
    """
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty_like(values)
    run = answering(model, tensor, answers=answer.output)
    for start in range(0, len(values), _BATCH):
        progress(start / len(values), "measuring where answers are sensitive")
        given = values[start : start + _BATCH].clone().requires_grad_()
        said = run(given, {name: rows[start : start + _BATCH] for name, rows in beside.items()})
        if said.grad_fn is None:
            raise ValueError(f"the answers {answer.output!r} do not depend on {tensor!r}")
        torch.autograd.backward(answer.drawn(said, generator))
        if given.grad is not None:
            found[start : start + _BATCH] = given.grad
    return found


def read_beside(model: Model, tensor: str, answers: str) -> tuple[str, ...]:
    """The model's inputs that the answers need beside the tensor, such as the mask of its tokens.

    Raises:
        ValueError: they need every input, so that the tensor replaces none: a cut there sends all that one before the
            model would.
    """
    inputs = model.graph.inputs
    nodes = model.program.needed((tensor, *inputs), (answers,))
    read = {name for node in nodes for name in node.reads} | {answers}
    if set(inputs) <= read:
        model.program.needed((tensor,), (answers,))
    return tuple(name for name in inputs if name in read and name != tensor)


def answering(model: Model, tensor: str, *, answers: str) -> Answering:
    """What gives the answers for values of ``tensor``; gradients flow back to them.

    Raises:
        ValueError: the tensor and what ``read_beside`` names do not suffice.
    """
    nodes = model.program.needed((tensor, *read_beside(model, tensor, answers)), (answers,))
    needed = {name for node in nodes for name in node.reads} & model.weights.keys()

    def laid_out(layout: torch.memory_format) -> Answering:
        weights = {name: _laid_out(model.weights[name], layout) for name in needed}

        def answer(value: torch.Tensor, beside: Mapping[str, torch.Tensor]) -> torch.Tensor:
            found = value = _laid_out(value, layout)
            for node, made in run_nodes(nodes, {**weights, **beside, tensor: value}):
                if node.name == answers:
                    found = made
            return found

        return answer

    quickest = laid_out(torch.channels_last)  # for the convolutions of a CPU
    try:
        with torch.inference_mode():
            quickest(torch.zeros(model.graph.tensors[tensor].shape), model.example)
    except RuntimeError:  # who flattens a picture by a view needs the layout that was captured
        return laid_out(torch.contiguous_format)
    return quickest


def _laid_out(value: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    return value.contiguous(memory_format=layout) if value.dim() == 4 else value
