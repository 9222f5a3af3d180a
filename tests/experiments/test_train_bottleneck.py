"""The arithmetic by which a trained bottleneck is judged beside closed-form ones, and the files it is written to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from experiments.train_bottleneck.__main__ import (
    Verdict,
    beside,
    bytes_at_equal_nats,
    halved,
    nats_at_equal_bytes,
    write,
)
from experiments.train_bottleneck.steps import turns
from splitnn.graph.capture import capture
from splitnn.tuning.answers import Answer
from splitnn.tuning.fitting import Ground
from splitnn.zoo.autoencoder import Bottleneck, Decoder, Encoder
from splitnn.zoo.datasets import Samples
from splitnn.zoo.planes import Planes
from splitnn.zoo.squeezed import NOTES, WEIGHTS

ROWS = np.arange(60)
ORIGINS = [f"photo {number // 5}" for number in ROWS]


def verdicts(*pairs: tuple[float, float]) -> list[Verdict]:
    """Of mean bytes and mean nats each; samples differ, and alike in all."""
    spread = np.random.default_rng(4).uniform(0.5, 1.5, len(ROWS))
    spread /= spread.mean()
    return [Verdict(str(size), size * spread, lost * spread, np.ones(len(ROWS))) for size, lost in pairs]


def test_bytes_and_nats_are_compared_on_the_line_of_the_closed_forms() -> None:
    closed = verdicts((4000, 0.01), (2000, 0.04), (1000, 0.16))  # a fourth of the loss for twice the bytes
    (learned,) = verdicts((1800, 0.02))
    assert bytes_at_equal_nats(learned, closed, ROWS) == pytest.approx(1800 / (2000 * 2**0.5))
    assert nats_at_equal_bytes(learned, closed, ROWS) == pytest.approx(0.02 / (0.04 * (2000 / 1800) ** 2))


def test_a_closed_form_is_as_good_as_itself_and_its_interval_holds_one() -> None:
    closed = verdicts((4000, 0.01), (2000, 0.04), (1000, 0.16))
    found = beside(closed[1], closed, ORIGINS)
    for key in ("bytes_at_equal_nats", "nats_at_equal_bytes"):
        assert found[key]["low"] <= 1.0001 and found[key]["high"] >= 0.9999
        assert found[key]["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert found["learned"]["agreement_low"] == found["learned"]["agreement_high"] == 1.0


def test_in_each_turn_nothing_is_fitted_to_photos_that_it_is_judged_by_and_all_are_judged_once() -> None:
    origins = tuple(f"photo {number % 10}" for number in range(50))
    judged_by = Samples({}, None, tuple(f"photo {number % 10}" for number in range(30)), "")
    fitted, held_out = torch.arange(50.0), torch.arange(30.0)
    model = capture(torch.nn.Linear(2, 2).eval(), (torch.zeros(1, 2),))
    whole = Ground(
        model, "a tensor", Planes("image"), Answer("output"), fitted, {}, fitted, origins, held_out, held_out, judged_by
    )
    seen: list[int] = []
    for part, rows in turns(whole):
        assert part.held_out.tolist() == rows.tolist()
        assert len(part.values) == len(part.teacher) == len(part.origins)
        assert [origins[int(number)] for number in part.values] == list(part.origins)
        assert not set(part.origins) & {judged_by.origins[number] for number in rows}
        seen += rows.tolist()
    assert sorted(seen) == list(range(30))


def test_what_is_written_is_the_bottleneck_that_was_judged(tmp_path: Path) -> None:
    torch.manual_seed(5)
    made = Bottleneck(Encoder(6, 4, patch=(2, 2), dead_zone=0.1, hidden=8), Decoder(4, 6, patch=(2, 2), hidden=24))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    judged = halved(made)
    write(judged, tmp_path, block=3, trained_on=["a.jpg"])
    told = json.loads((tmp_path / NOTES).read_text())
    assert told == {"block": 3, "dead_zone": 0.1, "trained_on": ["a.jpg"]}
    weights = {name: weight.float() for name, weight in load_file(tmp_path / WEIGHTS).items()}
    again = Bottleneck.of_weights(weights, dead_zone=told["dead_zone"])
    x = torch.randn(2, 6, 8, 8)
    assert torch.equal(again(x), judged(x))
    assert torch.equal(again.encoder(x), judged.encoder(x))
