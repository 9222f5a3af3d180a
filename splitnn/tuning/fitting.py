"""Bottlenecks for one tensor of a model, fitted to some data and judged on other data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles

import torch

from splitnn.graph.extract import extract
from splitnn.graph.model import Model
from splitnn.graph.recipe import Drop, Recipe, Setting
from splitnn.transport.codec import CODECS
from splitnn.tuning.answers import Answer, answer_of
from splitnn.tuning.bottleneck import crossing_tensor, insert, patch_that_fits
from splitnn.tuning.drops import drop_of
from splitnn.tuning.evaluation import Progress, Samples, batch_size, check_labels, judged_on, silent, values_on
from splitnn.tuning.planes import planes_of
from splitnn.tuning.sensitivity import answering, gradients, read_beside
from splitnn.tuning.transform import Basis, basis, transform_bottleneck
from splitnn.zoo.autoencoder import Bottleneck
from splitnn.zoo.planes import Planes

CODEC = "entropy"
"""What the symbols travel in."""

_FELT_SAMPLES = 320  # enough for the second moment of a patch; each costs a backward pass


@dataclass(frozen=True)
class Ground:
    """A tensor of a model on the data to fit to and on the data to judge by, computed once."""

    model: Model
    tensor: str
    planes: Planes  # how the tensor is seen
    answer: Answer
    values: torch.Tensor  # (N, C, H, W): the planes, of the data to fit to
    beside: Mapping[str, torch.Tensor]  # inputs that the rest of the model reads beside the tensor, there
    teacher: torch.Tensor  # (N, ...): what the model answers there
    origins: tuple[str, ...]  # of each of these samples
    held_out: torch.Tensor  # as the model has it
    held_out_answers: torch.Tensor
    judged_by: Samples

    def answering(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """What answers for planes (n, C, H, W) in place of the tensor's at these rows (n,) of ``values``."""
        run = answering(self.model, self.tensor, answers=self.answer.output)
        return lambda planes, rows: run(
            self.planes.back(planes), {name: inputs[rows] for name, inputs in self.beside.items()}
        )


@dataclass(frozen=True)
class Judgement:
    """A version on held-out data: answers lost, and bytes of its symbols a request."""

    drop: Drop
    median_bytes: float
    p95_bytes: float


def ground(
    model: Model,
    tensor: str,
    *,
    fit_to: Samples,
    judge_by: Samples,
    answer: Answer | None = None,
    progress: Progress = silent,
) -> Ground:
    """Run the model on both parts of the data.

    Raises:
        InvalidInput: the data do not fit the model, or it has no single answer.
        ValueError: the tensor does not suffice for the answer (``read_beside``), or has no planes.
    """
    answer = answer_of(model) if answer is None else answer
    answers, planes = answer.output, planes_of(model.graph, tensor)
    beside = read_beside(model, tensor, answers)
    check_labels(model, judge_by, answer)
    fitted, judged = (
        values_on(model, data, (tensor, answers), progress=progress, what="running the model on the data")
        for data in (fit_to, judge_by)
    )
    count = len(fitted[answers])
    return Ground(
        model=model,
        tensor=tensor,
        planes=planes,
        answer=answer,
        values=planes.of(fitted[tensor]).contiguous(),
        beside={name: fit_to.inputs[name][:count] for name in beside},
        teacher=fitted[answers],
        origins=fit_to.origins[:count],
        held_out=judged[tensor],
        held_out_answers=judged[answers],
        judged_by=judge_by,
    )


def transform_versions(
    given: Ground, *, steps: Sequence[float], patch: int = 1, seed: int = 0, progress: Progress = silent
) -> Iterator[Model]:
    """For each step the version with the closed-form bottleneck, judged; the recipe says how it did.

    A larger step sends fewer bytes and loses more answers.

    Raises:
        InvalidInput: patches do not tile the tensor.
        ValueError: a step is not above 0 or leaves nothing, or the tensor is within a bottleneck.
    """
    found = transform_basis(given, patch=patch, seed=seed, progress=progress)
    for step in steps:
        progress(0.9, f"fitting a step of {step:g}")
        made = transform_bottleneck(given.values, found, step=step, kernel=given.planes.kernel(3))
        yield judged(given, made, method="transform", settings={"step": step, "patch": patch, "seed": seed})


def transform_basis(given: Ground, *, patch: int, seed: int, progress: Progress = silent) -> Basis:
    """The basis of the tensor, from the answers' gradients on some of the data.

    Raises:
        InvalidInput: patches do not tile the tensor.
    """
    sides = given.planes.sides(patch)
    patch_that_fits(given.values, sides)
    model = given.model
    count = len(given.values) - len(given.values) % batch_size(model)
    count = min(count, _FELT_SAMPLES)
    felt = gradients(
        model,
        given.tensor,
        given.planes.back(given.values[:count]),
        beside={name: rows[:count] for name, rows in given.beside.items()},
        answer=given.answer,
        seed=seed,
        progress=progress,
    )
    return basis(given.values, given.planes.of(felt), patch=sides)


def judged(given: Ground, bottleneck: Bottleneck, *, method: str, settings: Mapping[str, Setting]) -> Model:
    """The model with the bottleneck, its recipe saying what it costs on the data to judge by."""
    version = insert(given.model, given.tensor, bottleneck)
    found = judgement(given, version)
    data = given.judged_by
    recipe = Recipe(
        method=f"{method} bottleneck",
        base=given.model.digest,
        settings={"tensor": given.tensor, **settings, "fitted_to_samples": len(given.values)},
        drop=found.drop,
        against="model" if data.labels is None else "labels",
        data=judged_on(given.model, data, given.answer),
        samples=len(given.held_out),
        figures={"median_bytes": found.median_bytes, "p95_bytes": found.p95_bytes},
    )
    return replace(version, recipe=recipe)


def judgement(given: Ground, version: Model) -> Judgement:
    """What the version answers and sends on the data to judge by."""
    crossing, answers, beside = crossing_tensor(version), given.answer.output, tuple(given.beside)
    run: Callable[..., tuple[torch.Tensor, ...]] = extract(version, (given.tensor, *beside), (crossing, answers))
    request = version.graph.batch
    sizes: list[int] = []
    changed: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(given.held_out), batch_size(given.model)):
            part = slice(start, start + batch_size(given.model))
            symbols, logits = run(
                given.held_out[part].clone(), *(given.judged_by.inputs[name][part] for name in beside)
            )
            labels = None if given.judged_by.labels is None else given.judged_by.labels[part]
            changed += given.answer.changes(given.held_out_answers[part], logits, labels)
            sizes += [len(memoryview(CODECS[CODEC].encode(each.clone()))) for each in symbols.split(request)]
    drop = drop_of(changed, given.judged_by.origins[: len(changed)])
    top = quantiles(sizes, n=20, method="inclusive")[-1] if len(sizes) > 1 else float(sizes[0])
    return Judgement(drop, float(median(sizes)), float(top))
