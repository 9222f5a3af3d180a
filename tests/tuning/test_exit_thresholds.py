"""Thresholds against the oracle that tries all of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from splitnn.tuning.exit_thresholds import Keeps, choose_thresholds


def _outcome(
    thresholds: Sequence[float], sure: np.ndarray, right: np.ndarray, work: Sequence[float]
) -> tuple[float, int]:
    """Work and right answers, sample by sample."""
    total, good = 0.0, 0
    for sample in range(right.shape[1]):
        at = next((i for i in range(len(sure)) if sure[i, sample] >= thresholds[i]), len(sure))
        total += work[at]
        good += int(right[at, sample])
    return total, good


def _net_at_most(spare: int) -> Keeps:
    return lambda lost, gained: np.asarray(lost - gained <= spare)


@pytest.mark.parametrize("exits", [2, 3, 4])
def test_thresholds_equal_brute_force(exits: int) -> None:
    for seed in range(40):
        print(f"seed {seed}")
        rng = np.random.default_rng(seed)
        samples = int(rng.integers(1, 9 if exits < 4 else 6))
        sure = rng.choice((0.2, 0.4, 0.5, 0.7, 0.9, 1.0), (exits - 1, samples))
        right = rng.random((exits, samples)) < 0.7
        work = sorted(rng.integers(1, 50, exits).tolist())
        spare = int(rng.integers(0, 3))
        least = int(right[-1].sum()) - spare
        candidates = [sorted({0.0, 1.0, *row.tolist()}) for row in sure]
        outcomes = [_outcome(each, sure, right, work) for each in itertools.product(*candidates)]
        possible = [(cost, -good) for cost, good in outcomes if good >= least]
        if not possible:
            with pytest.raises(ValueError, match="no thresholds keep"):
                choose_thresholds(list(sure), list(right), work=work, keeps=_net_at_most(spare))
            continue
        found = choose_thresholds(list(sure), list(right), work=work, keeps=_net_at_most(spare))
        assert found[-1] == 0 and all(0 <= threshold <= 1 for threshold in found)
        cost, good = _outcome(found[:-1], sure, right, work)
        assert (cost, -good) == min(possible)


def test_many_samples_are_tried_at_ranks_and_the_accuracy_is_kept() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random((3, 2000))
    sure = [np.clip(1 - truth[at] * 0.9, 0, 1) for at in range(2)]
    right = [rng.random(2000) < 1 - 0.5 * truth[0], rng.random(2000) < 1 - 0.3 * truth[1], rng.random(2000) < 0.93]
    spare = 15
    least = int(right[-1].sum()) - spare
    found = choose_thresholds(sure, right, work=[1, 3, 9], keeps=_net_at_most(spare))
    cost, good = _outcome(found[:-1], np.array(sure), np.array(right), [1, 3, 9])
    assert good >= least
    assert cost < 9 * 2000 * 0.8


def test_where_nothing_may_change_nobody_leaves_early() -> None:
    sure, right = [np.array([0.5, 0.99])], [np.array([True, True]), np.array([True, True])]
    found = choose_thresholds(sure, right, work=[1, 9], keeps=lambda lost, gained: np.zeros(len(lost), bool))
    assert 0.99 < found[0] <= 1
    assert found[1] == 0
