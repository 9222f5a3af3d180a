"""Training by distillation: a model learns the answers of another one, from images alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from splitnn.graph.code import run_nodes
from splitnn.graph.model import Model
from splitnn.tuning.answers import Answer, answer_of
from splitnn.tuning.evaluation import Progress, Samples, batch_size, check_data, silent
from splitnn.tuning.rebuild import BATCH_NORM


@dataclass(frozen=True, slots=True)
class Lessons:
    """How long and how fast to learn."""

    steps: int = 200
    batch: int = 16
    rate: float = 3e-4  # Adam's, falling to 0 along a cosine
    temperature: float = 2.0  # by which both models' logits are divided (Hinton et al., arXiv 1503.02531)
    seed: int = 0
    budget_s: float = 600.0  # wall time after which it ends early

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or not (self.rate > 0 and self.temperature > 0 and self.budget_s > 0):
            raise ValueError(f"batch, rate, temperature and budget are above 0, steps not below: {self}")


def learned(
    model: Model,
    data: Samples,
    targets: torch.Tensor,
    *,
    answer: Answer | None = None,
    weights: Collection[str],
    outputs: Mapping[str, float] | None = None,
    lessons: Lessons = Lessons(),
    progress: Progress = silent,
) -> dict[str, torch.Tensor]:
    """The model's weights after it learned the targets, what is to be answered to the N samples of the data: (N, ...).

    Only the named weights change. Statistics of batch normalisation stay as they are. ``outputs`` says which ones learn
    and what each counts for in the loss; the model's answer alone by default.

    Raises:
        InvalidInput: the data do not fit the model.
    """
    check_data(model, data)
    answer = answer_of(model) if answer is None else answer
    counts = {answer.output: 1.0} if outputs is None else dict(outputs)
    leaves = {name: model.weights[name].detach().clone().requires_grad_() for name in sorted(weights)}
    optimiser = torch.optim.Adam(leaves.values(), lr=lessons.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, lessons.steps)
    chance = torch.Generator().manual_seed(lessons.seed)
    size = lessons.batch if batch_size(model) != model.graph.batch else model.graph.batch
    started_s = time.monotonic()
    for step in range(lessons.steps):
        if time.monotonic() - started_s > lessons.budget_s:
            break
        progress(step / lessons.steps, f"learning, step {step + 1} of {lessons.steps}")
        rows = torch.randint(len(data.origins), (size,), generator=chance)
        said = forward(model, {name: tensor[rows] for name, tensor in data.inputs.items()}, leaves)
        distances = [
            count * _distance(answer, said[name], targets[rows], lessons.temperature) for name, count in counts.items()
        ]
        loss = torch.stack(distances).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return {**model.weights, **{name: leaf.detach() for name, leaf in leaves.items()}}


def forward(
    model: Model, inputs: Mapping[str, torch.Tensor], leaves: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The model's outputs by name, with gradients towards ``leaves``, which stand in for its weights."""
    wanted = set(model.graph.outputs)
    values = {**model.weights, **leaves, **inputs}
    return {
        node.name: value
        for node, value in run_nodes(model.program.nodes, values, call=_differentiable)
        if node.name in wanted
    }


_NO_TRAINING = torch.ops.aten._native_batch_norm_legit_no_training.default
assert BATCH_NORM.startswith("aten._native_batch_norm_legit_no_training")


def _differentiable(operator: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The call, by an operator that has a gradient where its own has none."""
    if operator is _NO_TRAINING:
        x, weight, bias, mean, variance, momentum, eps = args
        empty = torch.empty(0)
        return functional.batch_norm(x, mean, variance, weight, bias, False, momentum, eps), empty, empty
    return operator(*args, **kwargs)


def _distance(answer: Answer, said: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Divergence of softened answers, scaled so that gradients do not depend on the temperature."""
    return answer.divergence(targets / temperature, said / temperature) * temperature**2
