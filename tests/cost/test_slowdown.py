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


def test_long_runs_tell_more_than_short_ones() -> None:
    estimator = SlowdownEstimator()
    for _ in range(4):
        estimator.observe(0.0002, profiled_s=0.002)  # within one slice of a quota, at full speed
        estimator.observe(0.22, profiled_s=0.2)
    assert estimator.factor == pytest.approx(1.1)


def test_load_that_goes_away_is_forgotten() -> None:
    estimator = SlowdownEstimator()
    for seconds in [0.05] * 9 + [0.01] * 5:
        estimator.observe(seconds, profiled_s=0.01)
    assert estimator.factor == pytest.approx(1.0)


def test_one_or_two_runs_that_were_held_up_say_nothing() -> None:
    estimator = SlowdownEstimator()
    for _ in range(2):
        estimator.observe(0.09, profiled_s=0.01)
        assert estimator.factor == 1.0
        assert not estimator.is_known


def test_work_too_short_to_time_tells_nothing() -> None:
    estimator = SlowdownEstimator()
    for _ in range(5):
        estimator.observe(0.02, profiled_s=1e-5)
    assert not estimator.is_known
    assert estimator.age_s == float("inf")


def test_the_profile_is_believed_again_when_nothing_was_observed_for_long() -> None:
    now_s = 0.0
    estimator = SlowdownEstimator(fresh_s=30, clock=lambda: now_s)
    for _ in range(5):
        estimator.observe(0.05, profiled_s=0.01)
    assert estimator.factor == pytest.approx(5.0)
    now_s = 31.0
    assert estimator.factor == 1.0
    estimator.observe(0.02, profiled_s=0.01)  # the old ones do not come back with it
    assert estimator.factor == 1.0
