"""Links faster or slower downwards than was guessed: mixes of requests and answers tell it, small answers do not."""

from __future__ import annotations

import random
import statistics

import pytest

from splitnn.cost.directions import Directions, Mix
from splitnn.cost.network import parse_link
from tests.cost.rhythm import JitteryLink, Rhythm

QUESTIONS = [(20_000, 400), (150_000, 400), (20_000, 20_000), (20_000, 150_000), (150_000, 150_000)]
LINKS = ["10Mbps:2Mbps/40ms", "2Mbps:20Mbps/40ms", "10Mbps/40ms"]


def believed(rhythm: Rhythm) -> float:
    up, down = rhythm.estimator.links()
    return down.bandwidth_bps / up.bandwidth_bps


@pytest.mark.parametrize("guess", ["5Mbps/50ms", "5Mbps:25Mbps/50ms"])
@pytest.mark.parametrize("link", LINKS)
def test_requests_of_different_mixes_tell_both_rates(link: str, guess: str, seed: int) -> None:
    chance = random.Random(seed)
    rhythm = Rhythm(JitteryLink(link, jitter_s=0.0, seed=seed), guess=guess, is_probing=False)
    rhythm.run(60, lambda: chance.choice([(100_000, 400), (20_000, 100_000)]))
    assert rhythm.rate_error() < 0.05
    assert max(rhythm.error(*question) for question in QUESTIONS) < 0.05


@pytest.mark.parametrize(
    ("link", "guess"), [*[(link, "5Mbps/50ms") for link in LINKS], (LINKS[2], "5Mbps:25Mbps/50ms")]
)
@pytest.mark.parametrize("mix", [(60_000, 60_000), (20_000, 200_000)])
def test_probes_tell_the_ratio_though_all_requests_are_alike(
    link: str, guess: str, mix: tuple[int, int], seed: int
) -> None:
    rhythm = Rhythm(JitteryLink(link, jitter_s=0.0, seed=seed), guess=guess)
    rhythm.run(30, lambda: mix)
    assert rhythm.rate_error() < 0.05
    assert max(rhythm.error(*question) for question in QUESTIONS) < 0.05


@pytest.mark.parametrize("link", LINKS)
def test_jitter_leaves_the_two_rates_about_right(link: str, seed: int) -> None:
    chance = random.Random(seed)
    errors: dict[tuple[int, int], list[float]] = {question: [] for question in QUESTIONS}
    for _ in range(5):
        rhythm = Rhythm(JitteryLink(link, jitter_s=0.005, seed=chance.randrange(2**31)))
        rhythm.run(60, lambda: (int(10 ** chance.uniform(3.7, 5.2)), int(10 ** chance.uniform(3.7, 5.2))))
        for question, found in errors.items():
            found.append(rhythm.error(*question))
    assert max(statistics.median(found) for found in errors.values()) < 0.12


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("jitter_s", [0.0, 0.01])
def test_small_answers_change_nothing(link: str, jitter_s: float, seed: int) -> None:
    chance = random.Random(seed)
    rhythm = Rhythm(JitteryLink(link, jitter_s=jitter_s, seed=seed), guess="5Mbps:15Mbps/50ms")
    rhythm.run(80, lambda: (int(10 ** chance.uniform(4, 5.2)), 4_000))
    assert believed(rhythm) == pytest.approx(3.0)


def test_a_link_that_gets_slower_both_ways_keeps_its_ratio(seed: int) -> None:
    rhythm = Rhythm(JitteryLink("10Mbps/40ms", jitter_s=0.0, seed=seed), guess="5Mbps/50ms", is_probing=False)
    rhythm.run(40, lambda: (60_000, 60_000))
    rhythm.link = JitteryLink("2Mbps/40ms", jitter_s=0.0, seed=seed)
    rhythm.run(40, lambda: (60_000, 60_000))
    assert believed(rhythm) == pytest.approx(1.0)
    assert rhythm.rate_error() < 0.05


@pytest.mark.parametrize("outliers", [1, 2])
def test_no_outlier_decides(outliers: int) -> None:
    directions = Directions(1.0)
    transfers = [(100_000, 0, 0.8)] * 5 + [(20_000, 80_000, 5.0)] * outliers
    for n, (sent_bytes, received_bytes, seconds) in enumerate(transfers):
        mix = Mix(sent_bytes, received_bytes, seconds, float(n))
        assert not directions.observe(mix, round_trip_s=0.02, sure_s=0.01)


@pytest.mark.parametrize("received_bytes", [4000, 60_000])
@pytest.mark.parametrize("to", ["20Mbps/10ms", "60Mbps/20ms", "2Mbps/10ms"])
def test_a_round_trip_that_falls_does_not_pass_for_a_slow_way_down(to: str, received_bytes: int, seed: int) -> None:
    link = JitteryLink("20Mbps/60ms", jitter_s=0.0, seed=seed)
    rhythm = Rhythm(link)
    sizes = random.Random(seed)

    def mix() -> tuple[int, int]:
        return sizes.choice((4000, 15_000, 60_000, 150_000)), received_bytes

    rhythm.run(40, mix)
    link.up, link.down = parse_link(to)
    rhythm.run(60, mix)
    up, down = rhythm.estimator.links()
    assert down.bandwidth_bps / up.bandwidth_bps == pytest.approx(1.0, rel=0.2)
    assert rhythm.error(15_000, received_bytes) < 0.15
