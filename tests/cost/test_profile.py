"""A profile is a value: JSON and back, scaled, and refused by graphs that it does not belong to."""

from __future__ import annotations

import json
import math

import pytest

from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.errors import ProfileMismatch
from splitnn.graph.graph import Graph, Layer, TensorSpec


def chain(*names: str) -> Graph:
    tensors = ["x", *names]
    return Graph(
        layers=tuple(
            Layer(name, "aten.relu.default", (source,), (name,)) for source, name in zip(tensors, names, strict=False)
        ),
        tensors={name: TensorSpec((2,), "float32") for name in tensors},
        inputs=("x",),
        outputs=(names[-1],),
    )


PROFILE = Profile(
    model="ab" * 32,
    host="device",
    layers={"a": Timing(2.0, 1.0, 0.5), "b": Timing(5.0, 3.0)},
    whole=Timing(7.0, 4.0, 0.25),
    codecs={"a": {"int8": CodecCost(10, 0.25, 0.5)}},
    error=0.01,
    tail_error=0.02,
    drift=0.03,
    machine={"processor": "an abacus"},
    stage_s=0.004,
    message_s=0.006,
)


def test_json_gives_the_profile_back() -> None:
    assert Profile.from_json(json.loads(json.dumps(PROFILE.to_json()))) == PROFILE


@pytest.mark.parametrize("key", sorted(PROFILE.to_json().keys() - {"stage_s", "message_s", "slowdown"}))
def test_json_that_lacks_a_part_is_refused(key: str) -> None:
    data = PROFILE.to_json()
    del data[key]
    with pytest.raises(ValueError, match="not a profile"):
        Profile.from_json(data)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -1.0])
def test_times_that_are_no_times_are_refused(broken: float) -> None:
    data = PROFILE.to_json()
    data["layers"]["a"] = [broken, 1.0, 0.0]
    with pytest.raises(ValueError, match="'a'"):
        Profile.from_json(data)


def test_the_clock_chooses_the_planned_seconds() -> None:
    assert PROFILE.seconds("b") == 3.0
    assert Profile("", "device", PROFILE.layers, PROFILE.whole, clock="wall").seconds("b") == 5.0


def test_a_slower_host_is_slower_at_layers_and_codecs_alike() -> None:
    slow = PROFILE.scaled(4.0, "phone")
    assert slow.host == "phone"
    assert (PROFILE.slowdown, slow.slowdown, slow.scaled(0.5).slowdown) == (1.0, 4.0, 2.0)
    assert Profile.from_json(slow.to_json()) == slow
    assert slow.layers["b"] == Timing(20.0, 12.0)
    assert slow.whole == Timing(28.0, 16.0, 1.0)
    assert slow.codecs["a"]["int8"] == CodecCost(10, 1.0, 2.0)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_must_be_finite_and_above_zero(factor: float) -> None:
    with pytest.raises(ValueError, match="factor"):
        PROFILE.scaled(factor)


def test_a_profile_of_another_model_is_refused() -> None:
    PROFILE.check_fits(chain("a", "b"))
    PROFILE.check_fits(chain("a", "b"), "ab" * 32)
    with pytest.raises(ProfileMismatch, match="'c'"):
        PROFILE.check_fits(chain("a", "b", "c"))
    with pytest.raises(ProfileMismatch, match="'b'"):
        PROFILE.check_fits(chain("a"))
    with pytest.raises(ProfileMismatch, match="cdcd"):
        PROFILE.check_fits(chain("a", "b"), "cd" * 32)


def test_a_profile_written_before_fixed_times_were_measured_has_none() -> None:
    data = PROFILE.to_json()
    del data["stage_s"], data["message_s"]
    assert (Profile.from_json(data).stage_s, Profile.from_json(data).message_s) == (0.0, 0.0)


def test_a_profile_written_before_slowdowns_were_kept_says_it_elsewhere() -> None:
    data = PROFILE.to_json()
    del data["slowdown"]
    assert Profile.from_json(data).slowdown == 1.0
    data["machine"] = {"simulated_slowdown": "8"}
    assert Profile.from_json(data).slowdown == 8.0
    for broken in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="times slower than measured"):
            Profile.from_json(data | {"slowdown": broken})


def test_a_slower_host_takes_longer_for_stages_and_messages_too() -> None:
    slow = PROFILE.scaled(3.0)
    assert (slow.stage_s, slow.message_s) == pytest.approx((0.012, 0.018))
