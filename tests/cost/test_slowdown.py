"""The factor between what was profiled and what is observed."""

from __future__ import annotations

import math
import random

import pytest

from splitnn.cost.slowdown import MedianEstimator, SlowdownEstimator


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


def test_fixed_time_and_factor_are_told_apart_by_runs_of_different_lengths(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(50):
        fixed_s, factor = chance.uniform(-0.004, 0.009), chance.uniform(0.5, 3.0)
        estimator = SlowdownEstimator(grain_s=0.01)
        for n in range(15):
            # Without a run of ten grains that was not held up no factor below 1 is believed.
            profiled_s = 0.15 if n == 0 else chance.choice((0.02, 0.05, 0.15))
            seconds = fixed_s + factor * profiled_s * chance.uniform(0.995, 1.005)
            estimator.observe(seconds * (6 if n % 6 == 5 else 1), profiled_s=profiled_s)
        assert estimator.factor == pytest.approx(factor, rel=0.05)
        assert estimator.fixed_s == pytest.approx(fixed_s, abs=0.004)


def test_the_only_long_run_does_not_outvote_the_short_ones_where_it_was_held_up() -> None:
    estimator = SlowdownEstimator(grain_s=0.01)
    for n in range(14):
        profiled_s = (0.02, 0.05)[n % 2]
        estimator.observe(0.002 + 1.5 * profiled_s, profiled_s=profiled_s)
    estimator.observe(6 * (0.002 + 1.5 * 0.15), profiled_s=0.15)
    assert estimator.factor == pytest.approx(1.5)
    assert estimator.fixed_s == pytest.approx(0.002)


def test_short_runs_alone_do_not_speak_for_long_ones_within_the_schedulers_grain() -> None:
    estimator = SlowdownEstimator(grain_s=0.005)
    for _ in range(5):
        estimator.observe(0.003, profiled_s=0.006)  # within one slice of half a core, at full speed
    assert estimator.factor == pytest.approx(1.0)
    assert estimator.fixed_s + estimator.factor * 0.006 == pytest.approx(0.003)  # and they are still predicted


def test_a_host_that_is_slower_by_more_than_the_grain_is_slower() -> None:
    estimator = SlowdownEstimator(grain_s=0.005)
    for _ in range(5):
        estimator.observe(0.4, profiled_s=0.2)
    assert estimator.factor == pytest.approx(2.0, rel=0.03)


def test_what_costs_the_same_each_time_is_the_median_of_what_was_seen_lately() -> None:
    now_s = 0.0
    estimator = MedianEstimator(fresh_s=60, clock=lambda: now_s)
    for seconds in (0.01, 0.02):
        estimator.observe(seconds)
        assert estimator.seconds is None
    estimator.observe(9.0)
    assert estimator.seconds == 0.02
    now_s = 61.0
    assert estimator.seconds is None


@pytest.mark.parametrize("seconds", [math.inf, math.nan, 0.0, -1.0])
def test_a_time_that_no_stage_takes_tells_nothing(seconds: float) -> None:
    estimator = SlowdownEstimator()
    for _ in range(5):
        estimator.observe(seconds, profiled_s=0.01)
    assert not estimator.is_known
    assert estimator.factor == 1.0


def test_short_runs_at_full_speed_do_not_promise_it_to_long_ones() -> None:
    estimator = SlowdownEstimator(grain_s=0.005, clock=lambda: 0.0)
    for _ in range(9):
        estimator.observe(0.003, profiled_s=0.03)  # 3 ms of work fit into one slice of a tenth of a core
    assert estimator.factor == pytest.approx(1.0)
    for _ in range(9):
        estimator.observe(0.3, profiled_s=0.6)
    assert estimator.factor == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("long_runs", [1, 2, 4])
def test_many_short_runs_do_not_take_the_word_from_the_long_ones_before_them(long_runs: int) -> None:
    estimator = SlowdownEstimator(grain_s=0.005, clock=lambda: 0.0)
    for _ in range(long_runs):
        estimator.observe(1.8, profiled_s=1.5)
    for n in range(11):  # heads of candidate cuts, at full speed in one slice of a tenth of a core
        estimator.observe(0.003 + n * 1e-4, profiled_s=0.03 + n * 1e-3)
    least = 1.2 if long_runs >= 3 else 1.0
    assert least * 0.99 <= estimator.factor <= 1.21
