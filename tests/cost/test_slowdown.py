"""The factor between what was profiled and what is observed."""

from __future__ import annotations

import pytest

from splitnn.cost.slowdown import SlowdownEstimator


def test_factor_is_the_median_ratio_and_one_before_the_first() -> None:
    estimator = SlowdownEstimator()
    assert estimator.factor == 1.0
    for seconds in (0.02, 0.03, 0.9):
        estimator.observe(seconds, profiled_s=0.01)
    assert estimator.factor == pytest.approx(3.0)


def test_load_that_goes_away_is_forgotten() -> None:
    estimator = SlowdownEstimator()
    for seconds in [0.05] * 9 + [0.01] * 5:
        estimator.observe(seconds, profiled_s=0.01)
    assert estimator.factor == pytest.approx(1.0)


def test_work_too_short_to_time_tells_nothing() -> None:
    now_s = 0.0
    estimator = SlowdownEstimator(clock=lambda: now_s)
    estimator.observe(0.02, profiled_s=1e-5)
    assert estimator.factor == 1.0
    assert estimator.age_s == float("inf")
    estimator.observe(0.02, profiled_s=0.02)
    now_s = 4.0
    assert estimator.age_s == 4.0
