"""The replay of exits adds up what each sample does, one by one; deadlines and thresholds are the plain definition."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.emulation.calibration import LinkOffTarget
from experiments.exits.__main__ import run, write
from experiments.exits.measure import Bench
from experiments.exits.replay import (
    Fixed,
    Track,
    Wire,
    best_in_time,
    global_threshold,
    in_time,
    late_share,
    replay,
)
from tests.runtime.exit_models import ThreeExits, batch, by_hand, captured

FIXED = Fixed(0.002, 0.003, 0.0005, 0.0007, 120)
WIRE = Wire(1e6, 0.02)


def random_track(chance: random.Random) -> Track:
    exits, samples = chance.randint(1, 4), 40
    on_device = chance.randint(0, exits)
    rng = np.random.default_rng(chance.randrange(2**32))
    return Track(
        "random",
        (*(chance.uniform(0.3, 0.95) for _ in range(exits - 1)), 0.0),
        on_device,
        rng.random((exits, samples)),
        rng.random((exits, samples)) < 0.8,
        tuple(np.cumsum(rng.random(on_device)) * 0.01),
        0.0 if on_device == exits else 0.05,
        0.0 if on_device == exits else rng.integers(10, 3000, samples).astype(float),
        tuple(np.cumsum(rng.random(exits - on_device)) * 0.005),
    )


def test_each_sample_costs_what_it_does_one_after_the_other(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(30):
        track = random_track(chance)
        found = replay(track, WIRE, FIXED)
        for sample in range(40):
            at = next(
                i
                for i, threshold in enumerate(track.thresholds)
                if track.confidences[i, sample] >= threshold or i == len(track.thresholds) - 1
            )
            seconds = FIXED.device_message_s + FIXED.device_stage_s
            size = 0.0
            if at < track.on_device:
                seconds += track.device_s[at]
            else:
                size = float(np.broadcast_to(track.sent_bytes, 40)[sample]) + FIXED.header_bytes
                seconds += track.send_s + FIXED.device_message_s + size * 8 / WIRE.bandwidth_bps + WIRE.round_trip_s
                seconds += FIXED.cloud_message_s + FIXED.cloud_stage_s + track.cloud_s[at - track.on_device]
            assert found.exit[sample] == at
            assert found.latency_s[sample] == pytest.approx(seconds)
            assert found.sent_bytes[sample] == pytest.approx(size)
            assert found.right[sample] == track.right[at, sample]
        assert sum(found.busy_s) + WIRE.round_trip_s * (found.exit >= track.on_device).mean() == pytest.approx(
            found.mean_s
        )


def test_with_an_exit_in_reach_nobody_is_late_and_without_one_nothing_changes(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(100):
        track = random_track(chance)
        before = replay(track, WIRE, FIXED)
        deadline_s = chance.uniform(0.0, 0.1)
        after = in_time(before, FIXED, deadline_s=deadline_s)
        own_s = FIXED.device_message_s + FIXED.device_stage_s
        if track.on_device and own_s + track.device_s[0] <= deadline_s:
            assert late_share(after, deadline_s=deadline_s) == 0
        else:
            assert after is before
        kept = before.latency_s <= deadline_s
        assert (after.exit[kept] == before.exit[kept]).all() and (after.right[kept] == before.right[kept]).all()


def test_the_most_accurate_in_time_is_chosen(seed: int) -> None:
    chance = random.Random(seed)
    outcomes = [replay(random_track(chance), WIRE, FIXED) for _ in range(20)]
    for deadline_s in (0.0, 0.03, 0.08, 0.1, 1.0):
        best = best_in_time(outcomes, deadline_s=deadline_s)
        fitting = [each.accuracy for each in outcomes if each.latency_s.max() <= deadline_s]
        assert (best.accuracy if best else None) == max(fitting, default=None)


def test_one_threshold_is_the_lowest_that_keeps_the_accuracy() -> None:
    rng = np.random.default_rng(3)
    confidences = rng.random((3, 500))
    right = rng.random((3, 500)) < confidences
    right[-1] = rng.random(500) < 0.8
    found = global_threshold(confidences, right, on=2, drop=0.01)

    def accuracy(threshold: float) -> float:
        exits = [next(i for i in range(3) if i == 2 or confidences[i, s] >= threshold) for s in range(500)]
        return float(np.mean([right[exits[s], s] for s in range(500)]))

    assert accuracy(found) >= right[-1].mean() - 0.01
    assert all(accuracy(t) < right[-1].mean() - 0.01 for t in np.linspace(0, 1, 201) if t < found - 1e-9)


@pytest.mark.parametrize("exits", [0, 1, 2, 3])
def test_a_measured_track_takes_the_exits_that_the_rule_by_hand_takes(exits: int) -> None:
    model = captured(ThreeExits)
    assert model.exits is not None
    samples = batch(60, seed=4)
    expected = [by_hand(model, samples[i : i + 1]) for i in range(60)]
    labels = samples.argmax(1) % 4
    bench = Bench(model, samples, labels, slowdown=10.0)
    device = (
        [layer.name for layer in model.graph.between(model.graph.inputs, model.graph.outputs[:exits])] if exits else []
    )
    track = bench.track("x", model.exits, device, {})
    found = replay(track, WIRE, FIXED)
    assert track.on_device == exits
    assert [f"exit{at + 1}" for at in found.exit] == [each.exit for each in expected]
    assert found.right.tolist() == [bool(e.logits.argmax() == label) for e, label in zip(expected, labels, strict=True)]
    assert list(track.device_s) == sorted(track.device_s) and list(track.cloud_s) == sorted(track.cloud_s)


def test_a_link_that_is_off_costs_the_run_and_not_the_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def off(*_: object, **__: object) -> None:
        raise LinkOffTarget("round trip +5.6 ms")

    monkeypatch.setattr("experiments.exits.run.run_for_real", off)
    subject = SimpleNamespace(model=None, profile=None, test=None)
    found = run(subject, [])  # type: ignore[arg-type]
    assert found == {"runs": [], "not_run": "round trip +5.6 ms"}
    write({"throughput_gain": 2.3, **found}, tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())["throughput_gain"] == 2.3
    with pytest.raises(ValueError, match="JSON compliant"):
        write({"throughput_gain": float("inf")}, tmp_path / "found.json")
