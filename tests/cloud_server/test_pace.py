"""The pace follows what is observed."""

from __future__ import annotations

import pytest

from cloud_server.pace import Pace
from splitnn.cost.profile import Profile, Timing

PROFILE = Profile("digest", "here", {"a": Timing(0.01, 0.01), "b": Timing(0.03, 0.03)}, whole=Timing(0.04, 0.04))


def test_a_host_as_fast_as_its_profile_has_slowdown_one() -> None:
    pace = Pace(PROFILE)
    assert pace.slowdown == 1.0
    pace.observe(["a", "b"], 0.04)
    assert pace.slowdown == pytest.approx(1.0)


def test_parts_of_a_model_tell_the_same_as_the_whole() -> None:
    pace = Pace(PROFILE)
    for layers, seconds in ((["a"], 0.03), (["b"], 0.09), (["a", "b"], 0.12)):
        pace.observe(layers, seconds)
        assert pace.slowdown == pytest.approx(3.0)


def test_one_run_that_was_held_up_moves_it_little_and_a_lasting_change_moves_it_all_the_way() -> None:
    pace = Pace(PROFILE)
    for _ in range(10):
        pace.observe(["a"], 0.01)
    pace.observe(["a"], 0.1)
    assert 1.0 < pace.slowdown < 2.0
    for _ in range(50):
        pace.observe(["a"], 0.02)
    assert pace.slowdown == pytest.approx(2.0, rel=0.01)


def test_runs_too_short_to_time_are_not_counted() -> None:
    pace = Pace(Profile("digest", "here", {"a": Timing(1e-6, 1e-6)}, whole=Timing(1e-6, 1e-6)))
    pace.observe(["a"], 1.0)
    pace.observe([], 1.0)
    assert pace.slowdown == 1.0
