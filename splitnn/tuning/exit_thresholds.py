"""Thresholds of early exits from held-out data: the least work that keeps the accuracy. Knows no torch.

For two exits the best threshold is found by one pass over the samples, the surest first. Each further exit is tried at
every candidate threshold before that pass: exact as long as there are no more candidates than ``_CANDIDATES`` (evenly
spaced ranks of what was seen are taken otherwise), and the last early exit is always exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_CANDIDATES = 2_000  # passes over the samples, all exits that are tried together

_Floats = npt.NDArray[np.floating[Any]]
_Flags = npt.NDArray[np.bool_]


class _Found(NamedTuple):
    work: float
    wrong: int
    thresholds: tuple[float, ...]  # of the early exits from some exit on


def choose_thresholds(
    confidences: Sequence[_Floats], right: Sequence[_Flags], *, work: Sequence[float], least_right: int
) -> tuple[float, ...]:
    """A threshold for each exit (0 for the last) with the least mean work and at least so many right answers.

    ``confidences`` are those of the early exits, (samples,) each; ``right`` says of every exit, the last one included,
    which samples it would answer rightly; ``work`` is what it costs to leave there, in any unit. Of equals the one with
    the most right answers is taken. A threshold lies half way between two confidences that were seen, so that the last
    bit of a confidence decides nothing.

    Raises:
        ValueError: no thresholds keep so many right answers; the message says how many the last exit alone has.
    """
    if not len(confidences) + 1 == len(right) == len(work):
        raise ValueError(f"{len(right)} exits have {len(confidences)} early ones with confidences, {len(work)} works")
    everybody = np.arange(len(right[-1]))
    count = _CANDIDATES if len(right) <= 3 else max(2, int(_CANDIDATES ** (1 / (len(right) - 2))))
    found = _search(confidences, right, work, everybody, len(everybody) - least_right, count)
    if found is None:
        alone = int(right[-1].sum())
        raise ValueError(
            f"no thresholds give {least_right} right answers of {len(everybody)}; the last exit alone has {alone}"
        )
    return (*found.thresholds, 0.0)


def _search(
    confidences: Sequence[_Floats],
    right: Sequence[_Flags],
    work: Sequence[float],
    rows: npt.NDArray[np.intp],
    most_wrong: int,
    count: int,
) -> _Found | None:
    """The best thresholds for the samples ``rows``, from the first of these exits on; None when none are admissible."""
    if not confidences:
        missed = len(rows) - int(right[-1][rows].sum())
        return _Found(work[-1] * len(rows), missed, ()) if missed <= most_wrong else None
    order = rows[np.argsort(-confidences[0][rows], kind="stable")]
    sure = confidences[0][order]
    ends = _ends(sure)
    wrong_here = np.concatenate(([0], np.cumsum(~right[0][order])))
    if len(confidences) == 1:
        wrong_after = np.concatenate((np.cumsum(~right[1][order][::-1])[::-1], [0]))
        wrong = (wrong_here + wrong_after)[ends]
        cost = work[0] * ends + work[1] * (len(rows) - ends)
        admissible = np.flatnonzero(wrong <= most_wrong)
        if not len(admissible):
            return None
        best = admissible[np.lexsort((wrong[admissible], cost[admissible]))[0]]
        return _Found(float(cost[best]), int(wrong[best]), (_threshold(sure, int(ends[best])),))
    if len(ends) > count:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, count).round().astype(int))]
    found: _Found | None = None
    for end in ends.tolist():
        allowed = most_wrong - int(wrong_here[end])
        if allowed < 0:
            break
        rest = _search(confidences[1:], right[1:], work[1:], order[end:], allowed, count)
        if rest is None:
            continue
        whole = _Found(
            work[0] * end + rest.work,
            int(wrong_here[end]) + rest.wrong,
            (_threshold(sure, end), *rest.thresholds),
        )
        if found is None or whole[:2] < found[:2]:
            found = whole
    return found


def _ends(sure: _Floats) -> npt.NDArray[np.intp]:
    """How many of the surest samples may leave: none, or all down to one that is surer than the next."""
    steps = np.flatnonzero(np.diff(sure) != 0) + 1
    ends = np.concatenate(([0], steps, [len(sure)])) if len(sure) else np.zeros(1, dtype=np.intp)
    if len(sure) and sure[0] >= 1:  # a threshold is at most 1: these leave whatever it is
        ends = ends[ends >= int((sure >= 1).sum())]
    return ends.astype(np.intp)


def _threshold(sure: _Floats, end: int) -> float:
    """The threshold at which that many leave, of confidences in descending order."""
    if end == 0:
        return 1.0 if not len(sure) else float((1 + sure[0]) / 2)
    if end == len(sure):
        return 0.0
    if sure[end - 1] >= 1:
        return 1.0
    return float((sure[end - 1] + sure[end]) / 2)
