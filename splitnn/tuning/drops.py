"""What a change to a model costs in accuracy, and how far a sample of that size can say so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from splitnn.cost.accuracy import paired_drop
from splitnn.graph.model import Model
from splitnn.graph.recipe import Drop


def answers_of(model: Model) -> str:
    """The output whose largest entry is the model's answer, (N, classes): its last exit's, or the only such output.

    Raises:
        ValueError: no output, or more than one, can be read so.
    """
    if model.exits is not None:
        return model.exits.exits[-1].output
    tensors = model.graph.tensors
    logits = [
        output
        for output in model.graph.outputs
        if len(tensors[output].shape) == 2 and tensors[output].dtype.startswith(("float", "bfloat"))
    ]
    if len(set(logits)) != 1:
        found = {output: tensors[output].shape for output in model.graph.outputs}
        raise ValueError(f"accuracy needs one output of logits (N, classes); the model has {found}")
    return logits[0]


def changes(whole: torch.Tensor, other: torch.Tensor, labels: torch.Tensor | None) -> list[int]:
    """Of each sample 1 where ``other`` loses what ``whole`` answered right, -1 where it gains, else 0.

    Both are logits (N, classes). Right is the label; without labels it is what ``whole`` answers.
    """
    first, second = whole.argmax(1), other.argmax(1)
    right = first if labels is None else labels
    found: list[int] = ((first == right).int() - (second == right).int()).tolist()
    return found


def drop_of(changed: Sequence[int], origins: Sequence[str]) -> Drop:
    """The mean of ``changes`` with a 95 % interval that holds for few changes and for samples of common origin.

    The interval is ``paired_interval``. Samples of one origin (crops of one photo) change together: its variance is
    multiplied by the design effect, the variance between origins over what independent samples would have.

    Raises:
        ValueError: there is no sample, or not one origin a sample.
    """
    count = len(changed)
    if count < 1 or len(origins) != count:
        raise ValueError(f"a drop needs samples, each with an origin: {count} changes, {len(origins)} origins")
    lost, gained = (sum(each == sign for each in changed) for sign in (1, -1))
    return paired_drop(lost, gained, samples=count, design_effect=design_effect(changed, origins))


def drop_figures(name: str, drop: Drop) -> dict[str, float]:
    """The drop as figures of a recipe: ``NAME_drop``, and the ends of its interval."""
    return {f"{name}_drop": drop.estimate, f"{name}_drop_low": drop.low, f"{name}_drop_high": drop.high}


def design_effect(changed: Sequence[int], origins: Sequence[str]) -> float:
    """Variance of the mean with whole origins drawn, over that with single samples drawn; at least 1."""
    mean = sum(changed) / len(changed)
    residuals: dict[str, float] = defaultdict(float)
    for change, origin in zip(changed, origins, strict=True):
        residuals[origin] += change - mean
    alone = sum((change - mean) ** 2 for change in changed)
    groups = len(residuals)
    if alone == 0 or groups < 2:
        return 1.0
    together = sum(each**2 for each in residuals.values()) * groups / (groups - 1)
    return max(1.0, together / alone)
