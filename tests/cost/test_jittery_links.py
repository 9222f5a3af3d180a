"""Links with jitter up to a quarter of the round trip: what other transfers will take must be foreseen."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable

import pytest

from splitnn.cost.round_trips import RoundTrips
from tests.cost.rhythm import JitteryLink, Rhythm

Mixes = Callable[[], tuple[int, int]]


def mixes_of(kind: str, chance: random.Random) -> Mixes:
    if kind == "mixed":
        return lambda: (int(10 ** chance.uniform(3.3, 5.2)), 400)
    return lambda: (int(kind), 400)


@pytest.mark.parametrize("jitter", [0.125, 0.25])
@pytest.mark.parametrize("kind", ["20000", "60000", "mixed"])
@pytest.mark.parametrize("link", ["5Mbps/40ms", "18.88Mbps/40ms"])
def test_rate_and_transfers_of_other_sizes_are_foreseen(link: str, kind: str, jitter: float, seed: int) -> None:
    chance = random.Random(seed)
    off, small, large = [], [], []
    for _ in range(5):
        jittery = JitteryLink(link, jitter_s=0.0, seed=chance.randrange(2**31))
        jittery.jitter_s = jitter * (jittery.up.latency_s + jittery.down.latency_s)
        rhythm = Rhythm(jittery)
        for requests in (100, 40):
            rhythm.run(requests, mixes_of(kind, chance))
            if not rhythm.estimator.is_bound:
                off.append(rhythm.rate_error())
            small.append(rhythm.error(2_000))
            large.append(rhythm.error(150_000))
    assert statistics.median(off or [0.0]) < 0.3  # 0.02 to 0.11 in the median over 50 seeds
    assert statistics.median(small) < 0.2
    assert statistics.median(large) < 0.2


def test_small_requests_alone_are_only_a_bound_where_jitter_is_as_long(seed: int) -> None:
    chance = random.Random(seed)
    honest = 0
    for _ in range(9):
        rhythm = Rhythm(JitteryLink("18.88Mbps/40ms", jitter_s=0.01, seed=chance.randrange(2**31)), is_probing=False)
        rhythm.run(80, lambda: (20_000, 400))
        honest += rhythm.estimator.is_bound or rhythm.rate_error() < 0.25
    assert honest >= 5


def test_jitter_alone_changes_the_round_trip_little_whichever_ping_came_last(seed: int) -> None:
    chance = random.Random(seed)
    now_s = 0.0
    trips = RoundTrips(0.05, clock=lambda: now_s)
    believed_s = []
    for n in range(200):
        now_s += 2.0
        trips.observe(0.04 + chance.uniform(-0.01, 0.01) + chance.uniform(-0.01, 0.01))
        believed_s += [trips.seconds] * (n >= 20)
    assert statistics.median(believed_s) == pytest.approx(0.04, rel=0.1)
    assert sum(abs(s / 0.04 - 1) < 0.25 for s in believed_s) > 0.9 * len(believed_s)


def test_a_round_trip_that_grows_beneath_the_jitter_is_followed_within_three_pings(seed: int) -> None:
    chance = random.Random(seed)
    now_s = 0.0
    trips = RoundTrips(0.05, clock=lambda: now_s)
    grew = []
    for round_trip_s in [0.04] * 15 + [0.12] * 3:
        now_s += 2.0
        grew.append(trips.observe(round_trip_s + chance.uniform(-0.01, 0.01)))
    assert any(grew[15:])
    assert trips.seconds == pytest.approx(0.12, abs=0.01)
