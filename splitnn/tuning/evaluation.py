"""A model's inner tensors and answers on data, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open

from splitnn.errors import InvalidInput
from splitnn.graph.extract import extract
from splitnn.graph.model import Model
from splitnn.tuning.answers import Answer

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
        """int64: one a sample (N,), or one a place of a map (N, ...)."""
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
    """Raises InvalidInput unless the data are of the model's inputs and fill its batch.

    As many of each input, and no NaN among them.
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
        check_numbers(tensor, f"{data.source}: {name!r}", names_of(data))
    if len(data.origins) < graph.batch:
        raise InvalidInput(f"{data.source} holds {len(data.origins)} samples; the model takes {graph.batch} at once")


def check_labels(model: Model, data: Samples, answer: Answer) -> None:
    """Raises InvalidInput unless labels, if there are any, are classes of the answer, int64, one a sample or place."""
    labels = data.labels
    if labels is None:
        return
    if answer.cosine is not None:
        raise InvalidInput(
            f"{data.source} has labels, and the model answers with an embedding, {answer.output!r}, which is judged by "
            "how near it stays to itself: give data without labels"
        )
    shape = model.graph.tensors[answer.output].shape
    classes = shape[answer.axis]
    places = [size for at, size in enumerate(shape) if at not in (0, answer.axis)]
    wanted = (len(data.origins), *places)
    if labels.dtype != torch.int64 or tuple(labels.shape) != wanted:
        raise InvalidInput(
            f"{data.source}: labels are int64 {wanted}, one a {'place' if places else 'sample'}, not {labels.dtype} "
            f"{tuple(labels.shape)}; without labels the model is compared with itself"
        )
    low, high = (int(end) for end in labels.aminmax()) if labels.numel() else (0, 0)
    if low < 0 or high >= classes:
        raise InvalidInput(
            f"{data.source}: labels lie between {low} and {high}, and must be from 0 to {classes - 1}: the model has "
            f"{classes} classes"
        )


def judged_on(model: Model, data: Samples, answer: Answer) -> str:
    """The data's name for a report, with what answers were compared by unless that is the usual largest logit.

    It is always said where the model has several outputs, of which exits leave no choice.
    """
    usual = answer.cosine is None and len(model.graph.tensors[answer.output].shape) == 2
    sole = model.exits is not None or len(set(model.graph.outputs)) == 1
    return data.source if usual and sole else f"{data.source}, judged by {answer}"


def names_of(data: Samples) -> list[str]:
    """Of each sample what a message calls it: its row in a file, from 0, whichever rows were drawn."""
    return [origin.removeprefix(f"{Path(data.source).name} ") for origin in data.origins]


def check_file(source: str, model: Model) -> None:
    """Raises InvalidInput where any row of a file holds NaN, drawn or not: other commands and seeds draw others."""
    if not Path(source).is_file():
        return
    with safe_open(source, framework="pt") as file:
        for name in model.graph.inputs:
            check_numbers(file.get_tensor(name), f"{source}: {name!r}")


def check_numbers(tensor: torch.Tensor, what: str, names: Sequence[str] = ()) -> None:
    """Raises InvalidInput where a tensor (N, ...) holds NaN.

    The message begins with ``what`` and has the sample's name, else its number.
    """
    if not tensor.is_floating_point():
        return
    for number, row in enumerate(tensor):  # one mask of a whole data set might not fit into memory
        if row.isnan().any():
            raise InvalidInput(
                f"{what} holds NaN (sample {names[number] if names else number}), by which nothing can be judged"
            )


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
        check_numbers(values, f"{data.source}: what the model makes of it, {name!r},", names_of(data))
    return found
