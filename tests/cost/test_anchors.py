"""Shares scaled to measured heads."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest

from splitnn.cost.anchors import equally_spaced, meet, never_falling


def test_layers_add_up_to_every_measured_head(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        shares = [rng.choice([0.0, rng.random()]) for _ in range(rng.randrange(1, 40))]
        positions = sorted([*rng.sample(range(1, len(shares) + 1), rng.randrange(1, len(shares) + 1)), len(shares)])
        heads = dict(zip(sorted(set(positions)), accumulate(rng.random() for _ in positions), strict=False))
        times = [0.0, *accumulate(meet(shares, heads))]
        assert all(times[position] == pytest.approx(seconds) for position, seconds in heads.items())


def test_between_two_anchors_layers_share_as_measured() -> None:
    assert meet([1.0, 3.0, 1.0, 1.0], {2: 8.0, 4: 10.0}) == [2.0, 6.0, 1.0, 1.0]


def test_no_time_is_negative_whatever_was_measured(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        shares = [rng.random() for _ in range(12)]
        times = meet(shares, {position: rng.random() for position in (2, 5, 7, 11, 12)} | {0: 0.3})
        assert min(times) >= 0


def test_heads_that_fall_get_their_mean_and_none_exceeds_the_whole() -> None:
    assert list(accumulate(meet([1.0, 1.0, 1.0], {1: 4.0, 2: 2.0, 3: 5.0}))) == pytest.approx([3.0, 3.0, 5.0])
    assert list(accumulate(meet([1.0, 1.0], {1: 9.0, 2: 5.0}))) == pytest.approx([5.0, 5.0])


def test_never_falling_is_the_nearest_such_sequence(seed: int) -> None:
    rng = random.Random(seed)
    grid = range(5)
    for _ in range(50):
        values = [float(rng.choice(grid)) for _ in range(4)]
        found = never_falling(values)
        assert found == sorted(found)
        error = sum((a - b) ** 2 for a, b in zip(values, found, strict=True))
        others = ([a, b, c, d] for a in grid for b in grid if b >= a for c in grid if c >= b for d in grid if d >= c)
        assert all(error <= sum((a - b) ** 2 for a, b in zip(values, o, strict=True)) + 1e-9 for o in others)


def test_positions_divide_the_cost_evenly() -> None:
    assert equally_spaced([1.0] * 12, 4) == [3, 6, 9]
    assert equally_spaced([0.0, 0.0, 8.0, 1.0, 1.0, 6.0], 2) == [3]


def test_positions_are_proper_cuts(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        shares = [rng.choice([0.0, rng.random() ** 8]) for _ in range(rng.randrange(0, 12))]
        found = equally_spaced(shares, 7)
        assert found == sorted(set(found))
        assert all(0 < position < len(shares) for position in found)


def test_heads_of_other_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="2 layers"):
        meet([1.0, 1.0], {1: 1.0})
    with pytest.raises(ValueError, match="2 layers"):
        meet([1.0, 1.0], {2: 1.0, 3: 1.0})
