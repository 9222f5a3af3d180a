"""A model's inner tensors and answers on data, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch

from splitnn.errors import InvalidInput
from splitnn.graph.extract import extract
from splitnn.graph.model import Model
from splitnn.tuning.drops import answers_of

Progress = Callable[[float, str], None]
"""Told how much of the work is done, 0 to 1, and what is being done."""

_BATCH = 16


class Samples(Protocol):
    """What is needed of data; ``splitnn.zoo.datasets.samples`` makes such."""

    @property
    def inputs(self) -> Mapping[str, torch.Tensor]:
        """By input name, each (N, ...)."""
        ...

    @property
    def labels(self) -> torch.Tensor | None:
        """(N,), int64."""
        ...

    @property
    def origins(self) -> tuple[str, ...]:
        """Of each sample what it is of; those of one origin are no independent draws."""
        ...

    @property
    def source(self) -> str: ...


def silent(done: float, what: str) -> None:
    """No progress report."""


def batch_size(model: Model) -> int:
    """How many samples the model takes at once here: its own number where it takes no other."""
    graph = model.graph
    grows = all(graph.tensors[name].batch_growth[:1] == (1,) for name in graph.inputs)
    return _BATCH if grows else graph.batch


def check_data(model: Model, data: Samples) -> None:
    """Raises InvalidInput unless the data are of the model's inputs, fill its batch, and can be judged.

    As many of each input, no NaN among them, and labels as ``check_labels`` wants them. Where the model has no single
    answer, nobody can say here how many classes there are.
    """
    graph = model.graph
    if set(data.inputs) != set(graph.inputs):
        raise InvalidInput(f"{data.source} holds {sorted(data.inputs)}; the model reads {list(graph.inputs)}")
    for name, tensor in data.inputs.items():
        spec = graph.tensors[name]
        if tuple(tensor.shape[1:]) != spec.shape[1:] or str(tensor.dtype).removeprefix("torch.") != spec.dtype:
            raise InvalidInput(
                f"{data.source}: {name!r} is {tensor.dtype} {tuple(tensor.shape)}; the model reads {spec.dtype} "
                f"{spec.shape}, with samples along the first dimension"
            )
        if len(tensor) != len(data.origins):
            raise InvalidInput(f"{data.source}: {len(tensor)} samples of {name!r}, but {len(data.origins)} origins")
        check_numbers(tensor, f"{data.source}: {name!r}")
    if len(data.origins) < graph.batch:
        raise InvalidInput(f"{data.source} holds {len(data.origins)} samples; the model takes {graph.batch} at once")
    try:
        classes = graph.tensors[answers_of(model)].shape[1]
    except ValueError:
        classes = None
    check_labels(data, classes)


def check_labels(data: Samples, classes: int | None) -> None:
    """Raises InvalidInput unless labels, if there are any, are int64 (N,) from 0 to below ``classes`` (None: any)."""
    labels = data.labels
    if labels is None:
        return
    if labels.dtype != torch.int64 or tuple(labels.shape) != (len(data.origins),):
        raise InvalidInput(
            f"{data.source}: labels are int64 ({len(data.origins)},), one a sample, not {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    low, high = (int(end) for end in labels.aminmax()) if len(labels) else (0, 0)
    if low < 0 or (classes is not None and high >= classes):
        told = "" if classes is None else f" to {classes - 1}: the model has {classes} classes"
        raise InvalidInput(f"{data.source}: labels lie between {low} and {high}, and must be from 0{told}")


def check_numbers(tensor: torch.Tensor, what: str) -> None:
    """Raises InvalidInput where a tensor (N, ...) holds NaN; the message begins with ``what``."""
    if not tensor.is_floating_point():
        return
    for number, row in enumerate(tensor):  # one mask of a whole data set might not fit into memory
        if row.isnan().any():
            raise InvalidInput(f"{what} holds NaN (sample {number}), by which nothing can be judged")


def batches(model: Model, data: Samples) -> Iterator[dict[str, torch.Tensor]]:
    """The inputs in batches that the model takes; what does not fill a fixed batch is left out."""
    size, total = batch_size(model), len(data.origins)
    if size == model.graph.batch != _BATCH:
        total -= total % size
    for start in range(0, total, size):
        yield {name: tensor[start : start + size] for name, tensor in data.inputs.items()}


def values_on(
    model: Model, data: Samples, tensors: Sequence[str], *, progress: Progress = silent, what: str = "running the model"
) -> dict[str, torch.Tensor]:
    """What these tensors hold on all the data, by name, each (N, ...).

    Raises:
        InvalidInput: the data do not fit the model, or it makes NaN of them.
    """
    check_data(model, data)
    run = extract(model, model.graph.inputs, tuple(tensors))
    parts: list[tuple[torch.Tensor, ...]] = []
    total = max(1, len(data.origins) // batch_size(model))
    with torch.inference_mode():
        for done, batch in enumerate(batches(model, data)):
            progress(min(1.0, done / total), what)
            parts.append(tuple(value.clone() for value in run(*(batch[name] for name in model.graph.inputs))))
    found = {name: torch.cat(column) for name, column in zip(tensors, zip(*parts, strict=True), strict=True)}
    for name, values in found.items():
        check_numbers(values, f"{data.source}: what the model makes of it, {name!r},")
    return found
