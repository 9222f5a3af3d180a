"""Which samples every exit was sure of and right about, and which answers change when a codec is in the way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch

from splitnn.cost.exit_drops import MOST_ASKED, Asked
from splitnn.graph.ancestors import layers_before
from splitnn.graph.exits import Exit
from splitnn.graph.model import Model
from splitnn.graph.recipe import Drop
from splitnn.runtime.exits import confidences
from splitnn.tuning.answers import Answer
from splitnn.tuning.drops import drop_of

_Flags = npt.NDArray[np.bool_]
_Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Of some samples at every exit."""

    sure: _Flags  # (exits, samples); the last exit always is
    right: _Shares  # (exits, samples): 0 or 1, or the share of a map's places

    @classmethod
    def of(
        cls, exits: Sequence[Exit], logits: Mapping[str, torch.Tensor], truth: torch.Tensor, answer: Answer
    ) -> Outcomes:
        """What exits with these logits, (samples, ...) by output, say where ``truth`` is right (``Answer.truth``).

        A sample whose confidence is NaN is one that no exit but the last is sure of.
        """
        sure = [(confidences(logits[each.output], each.temperature) >= each.threshold).numpy() for each in exits[:-1]]
        sure.append(np.ones(len(logits[exits[-1].output]), bool))
        right = [answer.right(logits[each.output], truth).numpy() for each in exits]
        return cls(np.stack(sure), np.stack(right))

    @classmethod
    def joined(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """Of the samples of all parts, in order."""
        return cls(np.hstack([each.sure for each in parts]), np.hstack([each.right for each in parts]))


def judges(model: Model, answer: Answer) -> tuple[Exit, ...]:
    """The model's exits; where it has none its answer as the only one."""
    return (Exit("answer", answer.output),) if model.exits is None else model.exits.exits


def touched(model: Model, exits: Sequence[Exit], tensor: str) -> tuple[bool, ...]:
    """Of each exit whether its logits depend on the tensor."""
    readers = set(model.graph.consumers[tensor])
    return tuple(each.output == tensor or bool(readers & layers_before(model.graph, [each.output])) for each in exits)


def drop_by_policy(
    exits: Sequence[Exit],
    before: Outcomes,
    after: Outcomes,
    *,
    touched: Sequence[bool],
    origins: Sequence[str],
) -> dict[Asked, Drop]:
    """What each way to ask the exits loses when a tensor goes through a codec, (``before`` and ``after`` it).

    A host may decide exits before it sends the tensor: those see it as it was. Of all ways to divide them the one with
    the highest upper end counts. Where there are more than ``MOST_ASKED`` ways, those with one exit and with all.
    """
    found: dict[Asked, Drop] = {}
    for asked in _ways(len(exits)):
        divided = [near for near in range(len(asked)) if near == 0 or touched[asked[near - 1]]]
        drops = [drop_of(_changed(before, after, asked, near=near), origins) for near in divided]
        found[tuple(exits[at].name for at in asked)] = max(drops, key=lambda drop: (drop.high, drop.estimate))
    return found


def _ways(exits: int) -> Iterator[tuple[int, ...]]:
    """Choices among so many exits, by position."""
    sizes = range(1, exits + 1) if 2**exits - 1 <= MOST_ASKED else (1, exits)
    for size in sizes:
        yield from combinations(range(exits), size)


def _changed(before: Outcomes, after: Outcomes, asked: Sequence[int], *, near: int) -> list[float]:
    """As ``Answer.changes``, when the first ``near`` of the exits asked are untouched."""
    rows = list(asked)
    sure = np.vstack([before.sure[rows[:near]], after.sure[rows[near:]]])
    right = np.vstack([before.right[rows[:near]], after.right[rows[near:]]])
    was = _answers(before.sure[rows], before.right[rows])
    found: list[float] = (was.astype(float) - _answers(sure, right).astype(float)).tolist()
    return found


def _answers(sure: _Flags, right: _Shares) -> _Shares:
    """Of each sample whether the first exit that is sure, else the last one, is right; both (exits, samples)."""
    leaves = np.where(sure[:-1].any(0), sure[:-1].argmax(0), len(sure) - 1) if len(sure) > 1 else 0
    answers: _Shares = right[leaves, np.arange(right.shape[1])]
    return answers
