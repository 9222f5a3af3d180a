"""What a change to a model costs in accuracy, and how far a sample of that size can say so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from splitnn.cost.accuracy import paired_drop
from splitnn.graph.recipe import Drop


def drop_of(changed: Sequence[float], origins: Sequence[str]) -> Drop:
    """The mean of ``Answer.changes`` with a 95 % interval that holds for few changes and for samples of common origin.

    Parts of samples, where answers are maps, count as such; the interval is then no narrower than for whole ones.
    The interval is ``paired_interval``. Samples of one origin (crops of one photo) change together: its variance is
    multiplied by the design effect, the variance between origins over what independent samples would have.

    Raises:
        ValueError: there is no sample, or not one origin a sample.
    """
    count = len(changed)
    if count < 1 or len(origins) != count:
        raise ValueError(f"a drop needs samples, each with an origin: {count} changes, {len(origins)} origins")
    lost, gained = (sum(max(0.0, sign * each) for each in changed) for sign in (1, -1))
    return paired_drop(lost, gained, samples=count, design_effect=design_effect(changed, origins))


def drop_figures(name: str, drop: Drop) -> dict[str, float]:
    """The drop as figures of a recipe: ``NAME_drop``, and the ends of its interval."""
    return {f"{name}_drop": drop.estimate, f"{name}_drop_low": drop.low, f"{name}_drop_high": drop.high}


def design_effect(changed: Sequence[float], origins: Sequence[str]) -> float:
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
