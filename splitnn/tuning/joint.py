"""Exits and the layers beneath them trained together: every exit learns what the model's last one answered before.

BranchyNet's joint loss (Teerapittayanon et al. 2016, arXiv 1709.01686), with the untrained model as teacher in place of
labels. The layers change, so the result is another version of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

import torch

from splitnn.errors import InvalidInput
from splitnn.graph.model import Model
from splitnn.graph.recipe import Recipe
from splitnn.tuning.answers import Answer
from splitnn.tuning.confidence import calibrate_exits
from splitnn.tuning.drops import drop_of
from splitnn.tuning.evaluation import Progress, Samples, silent, values_on
from splitnn.tuning.learning import Lessons, learned
from splitnn.tuning.rebuild import learnable, rebuilt

_EARLY, _LAST = 0.5, 1.0  # what an exit counts for in the loss: the last one is to stay what it was
LESSONS = Lessons(steps=400, batch=32, rate=1e-3)


def train_jointly(
    model: Model,
    *,
    train: Samples,
    held_out: Samples,
    base: str = "",
    max_drop: float = 0.0,
    lessons: Lessons = LESSONS,
    progress: Progress = silent,
) -> Model:
    """A version of a model with exits, all of whose weights learned what its last exit answers to ``train``.

    Labels of ``train`` are not looked at. Thresholds are chosen anew on ``held_out``, as ``calibrate_exits`` does it;
    right there is a label, or what the last exit answered before. The recipe names ``base``, the digest of the model
    that the exits were given to (by default this one), what the last exit lost by the training, and how often each
    exit alone is right: ``NAME_right``, and ``NAME_right_frozen`` before it.

    Raises:
        InvalidInput: the model has no exits, or the data do not fit it.
        ValueError: no thresholds keep the accuracy.
    """
    if model.exits is None:
        raise InvalidInput("training exits together with the model takes a model that has exits")
    outputs = {each.name: each.output for each in model.exits.exits}
    last = list(outputs.values())[-1]
    counts = {output: _LAST if output == last else _EARLY for output in outputs.values()}
    targets = values_on(model, train, [last], progress=progress, what="asking the teacher")[last]
    weights = learned(
        model, train, targets, weights=learnable(model), outputs=counts, lessons=lessons, progress=progress
    )
    made = rebuilt(replace(model, exits=None), weights)
    before, after = (values_on(each, held_out, list(outputs.values())) for each in (model, made))
    answers = before[last].argmax(1)
    exits = calibrate_exits(made, outputs, held_out, max_drop=max_drop, truth=answers)
    truth = answers if held_out.labels is None else held_out.labels[: len(answers)]
    figures = {
        **{f"{name}_right": _share(after[output], truth) for name, output in outputs.items()},
        **{f"{name}_right_frozen": _share(before[output], truth) for name, output in outputs.items()},
    }
    recipe = Recipe(
        method="joint",
        base=base or model.digest,
        settings={**_settings(lessons), "early_weight": _EARLY, "exits": ",".join(outputs), "train": train.source},
        drop=drop_of(
            Answer(last).changes(before[last], after[last], held_out.labels), held_out.origins[: len(answers)]
        ),
        against=exits.against,
        data=held_out.source,
        samples=len(answers),
        figures=figures,
    )
    return replace(made, exits=exits, recipe=recipe)


def _share(logits: torch.Tensor, truth: torch.Tensor) -> float:
    return (logits.argmax(1) == truth).float().mean().item()


def _settings(lessons: Lessons) -> Mapping[str, int | float]:
    return {name: value for name, value in asdict(lessons).items() if name != "budget_s"}
