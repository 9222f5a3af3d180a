"""Versions of a model that are smaller or faster, each with a recipe that says what it costs in accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from splitnn.errors import InvalidInput
from splitnn.graph.ancestors import layers_before
from splitnn.graph.model import Model
from splitnn.graph.recipe import Drop, Recipe, Setting
from splitnn.graph.stand_in import stand_in
from splitnn.tuning.confidence import recounted
from splitnn.tuning.drops import answers_of, changes, drop_of
from splitnn.tuning.evaluation import Progress, Samples, silent, values_on
from splitnn.tuning.int8 import int8_arithmetic, int8_weights
from splitnn.tuning.learning import Lessons, learned
from splitnn.tuning.prune import pruned
from splitnn.tuning.rebuild import learnable, rebuilt

Method = Literal["int8", "int8-weights", "prune", "distill"]


@dataclass(frozen=True)
class Judged:
    """Held-out data with what the base model answers on it."""

    data: Samples
    logits: torch.Tensor  # (N, classes)

    @classmethod
    def by(cls, model: Model, data: Samples, *, progress: Progress = silent) -> Judged:
        """The base model's own answers."""
        return cls(data, logits_on(model, data, progress=progress))

    def drop(self, logits: torch.Tensor) -> Drop:
        """What these logits for the same samples lose: accuracy by the labels, or agreement with the base."""
        count = min(len(self.logits), len(logits))  # a fixed batch may leave out the last ones
        labels = None if self.data.labels is None else self.data.labels[:count]
        changed = changes(self.logits[:count], logits[:count], labels)
        return drop_of(changed, self.data.origins[:count])


def int8_version(model: Model, data: Samples, *, until: str = "", progress: Progress = silent) -> Model:
    """The model for arithmetic in int8, ranges by the data; before the tensor ``until`` only if it is given.

    Raises:
        InvalidInput: no such tensor, no weight to quantise, or the data do not fit.
    """
    return int8_arithmetic(model, data, head_layers(model, until), progress=progress)


def int8_weights_version(model: Model, *, until: str = "") -> Model:
    """The model with weights in int8, those before the tensor ``until`` only if it is given; it computes in floats.

    Raises:
        InvalidInput: no such tensor, or no weight to quantise.
    """
    return int8_weights(model, head_layers(model, until))


def pruned_version(
    model: Model, data: Samples, *, flops: float, until: str = "", lessons: Lessons, progress: Progress = silent
) -> Model:
    """The model without the channels that matter least, which then learns the whole model's answers on the data.

    Raises:
        InvalidInput: no such tensor, the data do not fit, or not enough channels can go.
    """
    layers = head_layers(model, until)
    progress(0.0, "weighing channels")
    small = pruned(model, data, flops=flops, layers=layers)
    return _taught(small, model, data, layers=layers, lessons=lessons, progress=progress)


def student_of(model: Model, student: Model) -> Model:
    """The student in the model's place: it reads the model's inputs and answers under the model's name.

    Raises:
        InvalidInput: it reads something else, or answers in other classes.
    """
    answers, own = answers_of(model), answers_of(student)
    classes, learnt = model.graph.tensors[answers].shape[1], student.graph.tensors[own].shape[1]
    if classes != learnt:
        raise InvalidInput(f"the model answers in {classes} classes, the one that is to learn from it in {learnt}")
    return stand_in(student, model, answer=own, original_answer=answers)


def distilled_version(
    model: Model, student: Model, data: Samples, *, lessons: Lessons, progress: Progress = silent
) -> Model:
    """The student, which ``student_of`` put in the model's place, after it learned the model's answers on the data.

    Raises:
        InvalidInput: the data do not fit.
    """
    return _taught(student, model, data, layers=None, lessons=lessons, progress=progress)


def with_recipe(
    version: Model,
    base: Model,
    judged: Judged,
    *,
    method: Method,
    settings: Mapping[str, Setting],
    figures: Mapping[str, float],
) -> Model:
    """The version with what made it, and what it loses on the held-out data.

    Exits keep their thresholds; what they do is counted again, since the tallies that came along are the base's.
    """
    recipe = Recipe(
        method=method,
        base=base.digest,
        settings=dict(settings),
        drop=judged.drop(logits_on(version, judged.data)),
        against="model" if judged.data.labels is None else "labels",
        data=judged.data.source,
        samples=len(judged.logits),
        figures={
            "weight_bytes": float(sum(version.graph.weight_bytes.values())),
            "base_weight_bytes": float(sum(base.graph.weight_bytes.values())),
            "flops": float(sum(layer.flops for layer in version.graph.layers)),
            "base_flops": float(sum(layer.flops for layer in base.graph.layers)),
            **figures,
        },
    )
    return replace(version, recipe=recipe, exits=recounted(version, judged.data))


def logits_on(model: Model, data: Samples, *, progress: Progress = silent) -> torch.Tensor:
    """The model's answers on all the data: (N, classes)."""
    answers = answers_of(model)
    return values_on(model, data, [answers], progress=progress)[answers].float()


def head_layers(model: Model, until: str) -> set[str] | None:
    """The layers before a tensor; None, for all, where none is named.

    Raises:
        InvalidInput: there is no such tensor.
    """
    if not until:
        return None
    if until not in model.graph.producer:
        raise InvalidInput(f"no layer of the model makes a tensor {until!r}")
    return layers_before(model.graph, [until])


def _taught(
    student: Model,
    teacher: Model,
    data: Samples,
    *,
    layers: set[str] | None,
    lessons: Lessons,
    progress: Progress,
) -> Model:
    if lessons.steps == 0:
        return student
    targets = logits_on(teacher, data, progress=progress)
    if len(targets) != len(data.origins):
        raise InvalidInput(f"{len(data.origins)} samples do not fill the model's fixed batch of {teacher.graph.batch}")
    names = learnable(student, layers)
    return rebuilt(student, learned(student, data, targets, weights=names, lessons=lessons, progress=progress))
