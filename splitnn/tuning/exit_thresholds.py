"""Thresholds of early exits from held-out data: the least work that keeps the accuracy. Knows no torch.

For two exits the best threshold is found by one pass over the samples, the surest first. Each further exit is tried at
every candidate threshold before that pass: exact as long as there are no more candidates than ``_CANDIDATES`` (evenly
spaced ranks of what was seen are taken otherwise), and the last early exit is always exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_CANDIDATES = 2_000  # passes over the samples, all exits that are tried together

_Floats = npt.NDArray[np.floating[Any]]
_Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]

Keeps = Callable[[Numbers, Numbers], _Flags]
"""Of pairs of counts, samples that lost the last exit's right answer and samples that gained one: which may be."""


class _Found(NamedTuple):
    work: float
    net: float  # lost less gained
    thresholds: tuple[float, ...]  # of the early exits from some exit on


class _Change(NamedTuple):
    lost: float
    gained: float


def choose_thresholds(
    confidences: Sequence[_Floats], right: Sequence[_Flags], *, work: Sequence[float], keeps: Keeps
) -> tuple[float, ...]:
    """A threshold for each exit (0 for the last) with the least mean work, of those whose changes of answers may be.

    ``confidences`` are those of the early exits, (samples,) each; ``right`` says of every exit, the last one included,
    which samples it would answer rightly; ``work`` is what it costs to leave there, in any unit. Of equals the one with
    the most right answers is taken. A threshold lies half way between two confidences that were seen, so that the last
    bit of a confidence decides nothing. Where no sample leaves early nothing changes: that may always be.

    Raises:
        ValueError: nothing may be, and some samples are so sure (confidence 1) that they leave at every threshold.
    """
    if not len(confidences) + 1 == len(right) == len(work):
        raise ValueError(f"{len(right)} exits have {len(confidences)} early ones with confidences, {len(work)} works")
    everybody = np.arange(len(right[-1]))
    count = _CANDIDATES if len(right) <= 3 else max(2, int(_CANDIDATES ** (1 / (len(right) - 2))))
    found = _search(confidences, right, work, everybody, _Change(0.0, 0.0), keeps, count)
    if found is not None:
        return (*found.thresholds, 0.0)
    if any((each >= 1).any() for each in confidences):
        raise ValueError("no thresholds keep the accuracy: confidences of 1 leave at every threshold")
    return (*(_threshold(np.sort(each)[::-1], 0) for each in confidences), 0.0)


def _search(
    confidences: Sequence[_Floats],
    right: Sequence[_Flags],
    work: Sequence[float],
    rows: npt.NDArray[np.intp],
    before: _Change,
    keeps: Keeps,
    count: int,
) -> _Found | None:
    """The best thresholds for the samples ``rows``, from the first of these exits on; None when none are admissible.

    ``before`` is what the samples that left already changed.
    """
    if not confidences:
        ok = keeps(np.array([before.lost]), np.array([before.gained]))[0]
        return _Found(work[-1] * len(rows), before.lost - before.gained, ()) if ok else None
    order = rows[np.argsort(-confidences[0][rows], kind="stable")]
    sure = confidences[0][order]
    ends = _ends(sure)
    if len(confidences) > 1 and len(ends) > count:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, count).round().astype(int))]
    here, last = right[0][order], right[-1][order]
    lost = before.lost + np.concatenate(([0.0], np.cumsum(last & ~here)))[ends]
    gained = before.gained + np.concatenate(([0.0], np.cumsum(here & ~last)))[ends]
    if len(confidences) == 1:
        cost = work[0] * ends + work[1] * (len(rows) - ends)
        admissible = np.flatnonzero(keeps(lost, gained))
        if not len(admissible):
            return None
        best = admissible[np.lexsort(((lost - gained)[admissible], cost[admissible]))[0]]
        net = float(lost[best] - gained[best])
        return _Found(float(cost[best]), net, (_threshold(sure, int(ends[best])),))
    found: _Found | None = None
    for at, end in enumerate(ends.tolist()):
        if found is not None and work[0] * end + min(work[1:]) * (len(rows) - end) > found.work:
            continue  # even if all the others left where it costs least
        change = _Change(float(lost[at]), float(gained[at]))
        rest = _search(confidences[1:], right[1:], work[1:], order[end:], change, keeps, count)
        if rest is None:
            continue
        whole = _Found(work[0] * end + rest.work, rest.net, (_threshold(sure, end), *rest.thresholds))
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
