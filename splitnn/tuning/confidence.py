"""How sure an exit may claim to be, and from when on its answer is good enough: measured on held-out data.

Temperatures make the largest softmax probability mean what it says (Guo et al. 2017, temperature scaling); thresholds
are then chosen for the least work at a given accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from splitnn.cost.accuracy import paired_interval, policy_drop
from splitnn.errors import InvalidInput
from splitnn.graph.exits import Exit, Exits, levels
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model
from splitnn.graph.recipe import NO_DROP, Recipe
from splitnn.runtime.exits import confidences
from splitnn.tuning.answers import Answer
from splitnn.tuning.drops import design_effect
from splitnn.tuning.evaluation import Samples, check_labels, values_on
from splitnn.tuning.exit_thresholds import Keeps, Numbers, choose_thresholds

LEAST_SAMPLES = 100
"""Thresholds that fewer held-out samples chose would be chance."""

_TRIES, _STRICTER = 12, 1.25
_COLDEST, _HOTTEST = 0.05, 20.0


def calibrate_exits(
    model: Model,
    outputs: Mapping[str, str],
    held_out: Samples,
    *,
    max_drop: float = 0.0,
    truth: torch.Tensor | None = None,
) -> Exits:
    """Exits with the least work that lose at most ``max_drop`` of the last one's accuracy (0.003 is 0.3 points).

    The loss is the upper end of its 95 % interval, of the answers of the same samples in pairs (``policy_drop``); where
    no such thresholds are found no sample leaves early. ``outputs`` names the exits and the tensors of their logits,
    the first one first; nothing was trained on ``held_out``. Where that has no labels, answers are judged by agreement
    with the last exit, or with ``truth``, int64 (N,): the answers of the model that this one was made of. Work is
    counted in FLOPs. Temperatures, thresholds and tallies come from the same samples, so that the estimate flatters,
    and the interval, which knows nothing of the choice, a little.

    Raises:
        ValueError: no thresholds keep the accuracy, or an exit is no output of the model.
        InvalidInput: the data do not fit the model, or are fewer than ``LEAST_SAMPLES``.
    """
    if not 0 <= max_drop <= 1:
        raise ValueError(f"a drop is a share of all answers, 0 to 1, not {max_drop}")
    seen = _Seen.of(model, list(outputs.values()), held_out, truth)
    if len(outputs) > 1 and seen.samples < LEAST_SAMPLES:
        raise InvalidInput(
            f"{held_out.source} holds {seen.samples} samples to judge exits by; fewer than {LEAST_SAMPLES} say "
            "nothing: give more, of which a part is for judging alone"
        )
    # Judged by itself the last exit is always right, and no temperature would be cold enough.
    heats = [temperature(each, seen.truth) for each in seen.logits[:-1]]
    by_itself = held_out.labels is None and truth is None
    heats.append(1.0 if by_itself else temperature(seen.logits[-1], seen.truth))
    exits = [Exit(name, output, heat) for (name, output), heat in zip(outputs.items(), heats, strict=True)]
    sure, right = seen.sure(exits), seen.right
    plain = Exits.counted(exits, [([True] * len(exits),) * 2], against="model", data="")
    work = work_until(model.graph, plain)
    effect = 1.0
    for _ in range(_TRIES):
        thresholds = choose_thresholds(sure[:-1], right, work=work, keeps=_within(max_drop, seen.samples, effect))
        chosen = [replace(each, threshold=threshold) for each, threshold in zip(exits, thresholds, strict=True)]
        found = seen.counted(chosen, held_out)
        if policy_drop(found, list(outputs)).high <= max_drop:
            return found
        # Which samples change decides how alike those of one origin are: it is known only afterwards.
        effect = max(found.design_effect, _STRICTER * effect)
    nobody = [choose_thresholds(sure[:-1], right, work=work, keeps=lambda lost, gained: np.zeros(len(lost), bool))]
    return seen.counted([replace(e, threshold=t) for e, t in zip(exits, nobody[0], strict=True)], held_out)


def recounted(model: Model, data: Samples) -> Exits | None:
    """The model's own exits, as they are, with tallies of what they do on these data; None where it has none.

    Raises:
        InvalidInput: the data do not fit the model.
    """
    if model.exits is None:
        return None
    exits = model.exits.exits
    return _Seen.of(model, [each.output for each in exits], data).counted(exits, data)


def recipe_of_exits(base: Model, exits: Exits) -> Recipe:
    """Of a model that was given exits: its last exit answers what the base does, so the base's own recipe holds.

    One that has none is what the new model was made of, and nothing is lost but what the exits lose.
    """
    return base.recipe or Recipe(
        method="exits", base=base.digest, drop=NO_DROP, against=exits.against, data=exits.data, samples=exits.samples
    )


@dataclass(frozen=True)
class _Seen:
    """The logits of every exit on some data, and which of them are right."""

    logits: list[torch.Tensor]  # (N, classes) of each exit
    truth: torch.Tensor  # int64 (N,): labels, or what the last exit answers

    @classmethod
    def of(cls, model: Model, outputs: Sequence[str], data: Samples, answers: torch.Tensor | None = None) -> _Seen:
        """``answers``, int64 (N,), are right where the data have no labels; the last exit's by default."""
        found = values_on(model, data, tuple(outputs))
        logits = [found[output] for output in outputs]
        check_labels(model, data, Answer(outputs[-1]))
        own = logits[-1].argmax(1) if answers is None else answers
        truth = own if data.labels is None else data.labels[: len(logits[-1])]
        return cls(logits, truth)

    @property
    def samples(self) -> int:
        return len(self.truth)

    @property
    def right(self) -> list[npt.NDArray[np.bool_]]:
        return [(each.argmax(1) == self.truth).numpy() for each in self.logits]

    def sure(self, exits: Sequence[Exit]) -> list[npt.NDArray[np.float64]]:
        return [confidences(logits, each.temperature).numpy() for logits, each in zip(self.logits, exits, strict=True)]

    def counted(self, exits: Sequence[Exit], data: Samples) -> Exits:
        """The exits with what they do here."""
        right = np.stack(self.right)  # (exits, N)
        stays = np.stack([row >= each.threshold for row, each in zip(self.sure(exits), exits, strict=True)])
        leaves = stays.argmax(0)  # the last one always answers
        changed = right[-1].astype(int) - right[leaves, np.arange(self.samples)].astype(int)
        origins = data.origins[: self.samples]
        apart = len(set(origins))
        return Exits.counted(
            exits,
            zip(stays.T.tolist(), right.T.tolist(), strict=True),
            against="model" if data.labels is None else "labels",
            data=data.source + ("" if apart == len(origins) else f", {apart} origins"),
            design_effect=design_effect(changed.tolist(), origins),
        )


def _within(max_drop: float, samples: int, effect: float) -> Keeps:
    """Whether the upper end of what is lost is at most ``max_drop``."""

    def keeps(lost: Numbers, gained: Numbers) -> npt.NDArray[np.bool_]:
        _, high = paired_interval(lost, gained, samples=samples, design_effect=effect)
        worst = np.minimum(1.0, np.maximum(high, (lost - gained) / samples))
        return np.asarray(worst <= max_drop)

    return keeps


def temperature(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """The temperature with the least negative log-likelihood of ``truth``, int64 (N,), between 0.05 and 20.

    The likelihood is concave in the inverse of the temperature, so that a golden section finds the best one.
    """
    wide = logits.double()

    def loss(inverse: float) -> float:
        return float(torch.nn.functional.cross_entropy(wide * inverse, truth))

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    loss_a, loss_b = loss(a), loss(b)
    for _ in range(40):
        if loss_a <= loss_b:
            high, b, loss_b = b, a, loss_a
            a = high - ratio * (high - low)
            loss_a = loss(a)
        else:
            low, a, loss_a = a, b, loss_b
            b = low + ratio * (high - low)
            loss_b = loss(b)
    return round(2 / (low + high), 4)


def work_until(graph: Graph, exits: Exits) -> list[float]:
    """FLOPs until each exit's answer, the exits before it included; every layer counts for one at least."""
    found = [0.0] * len(exits.exits)
    for name, level in levels(graph, exits).items():
        for at in range(level, len(found)):
            found[at] += max(1, graph.layer(name).flops)
    return found
