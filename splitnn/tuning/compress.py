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
from splitnn.tuning.answers import Answer, answer_of
from splitnn.tuning.confidence import recounted
from splitnn.tuning.drops import drop_of
from splitnn.tuning.evaluation import Progress, Samples, check_labels, judged_on, silent, values_on
from splitnn.tuning.int8 import int8_arithmetic, int8_bytes, int8_weights
from splitnn.tuning.learning import Lessons, learned
from splitnn.tuning.prune import pruned
from splitnn.tuning.rebuild import learnable, rebuilt

Method = Literal["int8", "int8-weights", "prune", "distill"]


@dataclass(frozen=True)
class Judged:
    """Held-out data with what the base model answers on it."""

    data: Samples
    logits: torch.Tensor  # (N, ...)
    answer: Answer
    source: str  # of the data, and how answers are compared

    @classmethod
    def by(cls, model: Model, data: Samples, *, answer: Answer | None = None, progress: Progress = silent) -> Judged:
        """The base model's own answers.

        Raises:
            InvalidInput: the data do not fit, or the model has no single answer.
        """
        answer = answer_of(model) if answer is None else answer
        check_labels(model, data, answer)
        logits = logits_on(model, data, answer, progress=progress)
        return cls(data, logits, answer, judged_on(model, data, answer))

    def drop(self, logits: torch.Tensor) -> Drop:
        """What these logits for the same samples lose: accuracy by the labels, or agreement with the base."""
        count = min(len(self.logits), len(logits))  # a fixed batch may leave out the last ones
        labels = None if self.data.labels is None else self.data.labels[:count]
        changed = self.answer.changes(self.logits[:count], logits[:count], labels)
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
    model: Model,
    data: Samples,
    *,
    answer: Answer | None = None,
    flops: float,
    until: str = "",
    lessons: Lessons,
    progress: Progress = silent,
) -> Model:
    """The model without the channels that matter least, which then learns the whole model's answers on the data.

    Raises:
        InvalidInput: no such tensor, the data do not fit, or not enough channels can go.
    """
    layers = head_layers(model, until)
    progress(0.0, "weighing channels")
    small = pruned(model, data, flops=flops, layers=layers)
    return _taught(small, model, data, answer or answer_of(model), layers=layers, lessons=lessons, progress=progress)


def student_of(model: Model, student: Model, answer: Answer | None = None) -> Model:
    """The student in the model's place: it reads the model's inputs and answers under the model's name.

    Raises:
        InvalidInput: it reads something else, or answers in other classes.
    """
    answers, own = (answer or answer_of(model)).output, answer_of(student).output
    wanted, found = (tuple(each.graph.tensors[at].shape[1:]) for each, at in ((model, answers), (student, own)))
    if wanted != found:
        said = [f"{shape[0]} classes" if len(shape) == 1 else f"{shape} a sample" for shape in (wanted, found)]
        raise InvalidInput(f"the model answers in {said[0]}, the one that is to learn from it in {said[1]}")
    return stand_in(student, model, answer=own, original_answer=answers)


def distilled_version(
    model: Model,
    student: Model,
    data: Samples,
    *,
    answer: Answer | None = None,
    lessons: Lessons,
    progress: Progress = silent,
) -> Model:
    """The student, which ``student_of`` put in the model's place, after it learned the model's answers on the data.

    Raises:
        InvalidInput: the data do not fit.
    """
    return _taught(student, model, data, answer or answer_of(model), layers=None, lessons=lessons, progress=progress)


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
        drop=judged.drop(logits_on(version, judged.data, judged.answer)),
        against="model" if judged.data.labels is None else "labels",
        data=judged.source,
        samples=len(judged.logits),
        figures={
            "weight_bytes": float(sum(version.graph.weight_bytes.values())),
            **({"int8_weight_bytes": float(int8_bytes(version))} if method.startswith("int8") else {}),
            "base_weight_bytes": float(sum(base.graph.weight_bytes.values())),
            "flops": float(sum(layer.flops for layer in version.graph.layers)),
            "base_flops": float(sum(layer.flops for layer in base.graph.layers)),
            **figures,
        },
    )
    return replace(version, recipe=recipe, exits=recounted(version, judged.data))


def logits_on(model: Model, data: Samples, answer: Answer, *, progress: Progress = silent) -> torch.Tensor:
    """What the model answers on all the data: (N, ...)."""
    return values_on(model, data, [answer.output], progress=progress)[answer.output].float()


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
    answer: Answer,
    *,
    layers: set[str] | None,
    lessons: Lessons,
    progress: Progress,
) -> Model:
    if lessons.steps == 0:
        return student
    targets = logits_on(teacher, data, answer, progress=progress)
    if len(targets) != len(data.origins):
        raise InvalidInput(f"{len(data.origins)} samples do not fill the model's fixed batch of {teacher.graph.batch}")
    names = learnable(student, layers)
    return rebuilt(
        student, learned(student, data, targets, answer=answer, weights=names, lessons=lessons, progress=progress)
    )
