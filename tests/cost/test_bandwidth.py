"""Synthetic links of known rate: the estimate must find it, through jitter, outliers, pauses and steps."""

from __future__ import annotations

import math
import random

import pytest

from splitnn.cost.bandwidth import LinkEstimator
from splitnn.cost.network import Link, parse_link


class FakeLink:
    """Makes transfers on a clock of its own and tells an estimator."""

    def __init__(self, link: str, *, guess: str = "5Mbps/50ms", seed: int = 0) -> None:
        self.now_s = 100.0
        self.chance = random.Random(seed)
        self.estimator = LinkEstimator(parse_link(guess), clock=lambda: self.now_s)
        self.set(link)

    def set(self, link: str) -> None:
        self.up, self.down = parse_link(link)

    def send(
        self,
        size_bytes: int,
        *,
        received_bytes: int = 0,
        pause_s: float = 0.05,
        times: float = 1.0,
        far_s: float = 0.03,
        queued_s: float = 0.0,
        is_alone: bool = True,
    ) -> None:
        self.now_s += pause_s
        network_s = self.up.transfer_seconds(size_bytes) + self.down.transfer_seconds(received_bytes) + queued_s
        elapsed_s = network_s * times + far_s
        self.now_s += elapsed_s
        self.estimator.observe(size_bytes, elapsed_s, received_bytes=received_bytes, far_s=far_s, is_alone=is_alone)

    def ping(self) -> None:
        self.now_s += self.up.latency_s + self.down.latency_s
        self.estimator.observe_round_trip(self.up.latency_s + self.down.latency_s)

    def error(self, *, idle_s: float = 0.0) -> float:
        return self.estimator.bandwidth_bps(idle_s=idle_s) / self.up.bandwidth_bps - 1


LINKS = ["1Mbps/10ms", "1Mbps/40ms", "10Mbps/10ms", "10Mbps/40ms", "100Mbps/10ms", "100Mbps/40ms"]


def test_before_the_first_transfer_the_guess_is_the_estimate() -> None:
    guess = parse_link("2Mbps:20Mbps/40ms")
    estimator = LinkEstimator(guess, clock=lambda: 0.0)
    assert estimator.links() == guess
    assert estimator.links(idle_s=9) == guess
    assert estimator.measured == 0
    assert estimator.age_s == math.inf


@pytest.mark.parametrize("link", LINKS)
def test_rate_of_a_steady_link_is_found_within_5_percent_despite_jitter_and_outliers(link: str, seed: int) -> None:
    fake = FakeLink(link, seed=seed)
    largest = fake.up.bandwidth_bps * 0.4 / 8
    for n in range(40):
        if n % 5 == 0:
            fake.ping()
        outlier = 4.0 if n % 11 == 7 else 1 + abs(fake.chance.gauss(0, 0.01))
        fake.send(int(largest * fake.chance.uniform(0.3, 1)), received_bytes=4000, times=outlier)
    assert abs(fake.error()) < 0.05
    assert fake.estimator.round_trip_s == pytest.approx(fake.up.latency_s + fake.down.latency_s, rel=0.05)


def test_slope_over_sizes_needs_no_round_trip() -> None:
    fake = FakeLink("10Mbps/40ms", guess="5Mbps/1ms")  # nobody pinged, and the guess hides 39 ms
    for n in range(20):
        fake.send(100_000 + 20_000 * n)
    assert abs(fake.error()) < 0.01


def test_answers_count_by_the_ratio_of_the_guess() -> None:
    fake = FakeLink("2Mbps:20Mbps/20ms", guess="1Mbps:10Mbps/20ms")
    fake.ping()
    for _ in range(5):
        fake.send(20_000, received_bytes=200_000)
    assert abs(fake.error()) < 0.01
    up, down = fake.estimator.links()
    assert down.bandwidth_bps / up.bandwidth_bps == pytest.approx(10)


@pytest.mark.parametrize(("before", "after"), [("10Mbps/20ms", "2Mbps/20ms"), ("2Mbps/20ms", "10Mbps/20ms")])
def test_step_is_followed_within_three_transfers(before: str, after: str) -> None:
    fake = FakeLink(before)
    fake.ping()
    for n in range(30):
        fake.send(64_000 + 1000 * n)
    assert abs(fake.error()) < 0.02
    fake.set(after)
    for _ in range(3):
        fake.send(64_000)
    assert abs(fake.error()) < 0.05


def test_one_or_two_slow_transfers_are_no_step() -> None:
    fake = FakeLink("10Mbps/20ms")
    fake.ping()
    for _ in range(6):
        fake.send(64_000)
    for _ in range(2):
        fake.send(64_000, times=8)
    assert abs(fake.error()) < 0.1


def test_tiny_transfers_say_nothing_of_a_slow_link() -> None:
    fake = FakeLink("1Mbps/40ms")
    fake.ping()
    for _ in range(5):
        fake.send(50_000)
    for _ in range(20):
        fake.send(300)
    assert abs(fake.error()) < 0.05


def test_transfers_too_quick_to_time_still_show_that_a_link_got_better() -> None:
    fake = FakeLink("1Mbps/40ms")
    fake.ping()
    for _ in range(10):
        fake.send(20_000)
    fake.set("100Mbps/40ms")
    fake.send(20_000)
    assert fake.estimator.bandwidth_bps() > 3e6  # 20 kB within one round trip: at least 3.9 Mbit/s


def test_after_a_pause_the_slow_start_is_part_of_the_estimate_and_stays_out_of_the_warm_one() -> None:
    fake = FakeLink("20Mbps/20ms")
    fake.ping()
    for n in range(24):
        cold = n % 2 == 0
        fake.send(100_000, pause_s=2.0 if cold else 0.1, times=2.0 if cold else 1.0)
    assert abs(fake.error()) < 0.02
    assert fake.error(idle_s=2.0) < -0.4


def test_a_pause_says_what_the_next_transfer_will_follow() -> None:
    fake = FakeLink("20Mbps/20ms")
    for _ in range(6):
        fake.send(50_000, pause_s=3.0)
    assert fake.estimator.typical_idle_s == pytest.approx(3.0)


def test_an_unfinished_transfer_lowers_the_estimate_and_never_raises_it() -> None:
    fake = FakeLink("10Mbps/20ms")
    fake.ping()
    for _ in range(5):
        fake.send(100_000)
    fake.now_s += 4
    fake.estimator.observe_unfinished(100_000, 4.0)
    assert fake.estimator.bandwidth_bps() < 0.25e6
    before_bps = fake.estimator.bandwidth_bps()
    fake.estimator.observe_unfinished(100_000, 0.1)
    assert fake.estimator.bandwidth_bps() == before_bps


def test_round_trip_is_forgotten_after_its_window() -> None:
    fake = FakeLink("10Mbps/20ms")
    fake.ping()
    fake.set("10Mbps/60ms")
    fake.now_s += 31
    fake.ping()
    assert fake.estimator.round_trip_s == pytest.approx(0.06)


def test_any_series_gives_a_usable_link(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(50):
        now_s = 0.0
        estimator = LinkEstimator((Link(1e6), Link(1e6)), clock=lambda: now_s)  # noqa: B023 - the loop's own clock
        for _ in range(chance.randint(1, 40)):
            elapsed_s = 10 ** chance.uniform(-7, 2)
            now_s += chance.choice([0.0, 0.3, 5.0]) + elapsed_s
            size = chance.choice([0, 1, 300, int(10 ** chance.uniform(0, 7))])
            match chance.randrange(4):
                case 0:
                    claims = [chance.random(), elapsed_s * (1 - 1e-12), 2 * elapsed_s, -1.0, math.nan, math.inf]
                    estimator.observe(
                        size,
                        elapsed_s,
                        received_bytes=chance.choice([0, 5000]),
                        far_s=chance.choice(claims),
                        is_alone=chance.random() < 0.7,
                    )
                case 3:
                    estimator.observe_probe(size, elapsed_s)
                case 1:
                    estimator.observe_round_trip(elapsed_s)
                case _:
                    estimator.observe_unfinished(size, elapsed_s)
            for link in (*estimator.links(), *estimator.links(idle_s=3)):  # Link itself refuses what is not usable
                assert link.bandwidth_bps > 0


def test_small_transfers_on_a_fast_link_are_only_bounds_and_one_long_one_outweighs_them() -> None:
    link = FakeLink("40Mbps/20ms", guess="1Mbps/20ms")
    for _ in range(8):
        link.send(20_000)
    assert link.estimator.is_bound
    assert link.estimator.bandwidth_bps() < 20e6
    link.send(300_000)
    assert not link.estimator.is_bound
    assert link.estimator.bandwidth_bps() == pytest.approx(40e6, rel=0.05)


def warmed_up(link: str) -> FakeLink:
    fake = FakeLink(link)
    for _ in range(3):
        fake.ping()
        for _ in range(3):
            fake.send(round(fake.up.bandwidth_bps * 0.08 / 8))
    assert abs(fake.error()) < 0.02
    return fake


def test_a_round_trip_that_grows_is_followed_within_three_pings_and_the_rate_stays() -> None:
    fake = warmed_up("5Mbps/10ms")
    fake.set("5Mbps/80ms")
    for _ in range(3):
        fake.send(30_000)
        fake.ping()
    assert fake.estimator.round_trip_s == pytest.approx(0.08, rel=0.02)
    fake.send(30_000)
    assert abs(fake.error()) < 0.1


def test_small_requests_tell_of_a_longer_round_trip_though_nobody_pings() -> None:
    fake = warmed_up("50Mbps/20ms")
    fake.set("50Mbps/100ms")
    for _ in range(3):
        fake.send(15_000)
    assert fake.estimator.round_trip_s == pytest.approx(0.1, rel=0.05)


def test_a_round_trip_that_shrinks_is_believed_at_once() -> None:
    fake = warmed_up("5Mbps/80ms")
    fake.set("5Mbps/10ms")
    fake.ping()
    assert fake.estimator.round_trip_s == pytest.approx(0.01)


def test_requests_that_wait_for_each_other_do_not_make_the_round_trip_longer() -> None:
    fake = warmed_up("50Mbps/20ms")
    for _ in range(20):
        fake.send(15_000, queued_s=0.08, is_alone=False)
    assert fake.estimator.round_trip_s == pytest.approx(0.02, rel=0.05)


def test_queues_that_come_and_go_do_not_make_the_round_trip_longer(seed: int) -> None:
    fake = warmed_up("50Mbps/20ms")
    fake.chance = random.Random(seed)
    for n in range(60):
        fake.send(15_000, queued_s=0.0 if n % 3 == 0 else fake.chance.uniform(0.0, 0.2))
    assert fake.estimator.round_trip_s == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("far_s", [0.06, 0.0601, math.inf, math.nan, -1.0])
def test_a_host_that_claims_all_of_the_time_tells_nothing_of_the_link(far_s: float) -> None:
    link = FakeLink("10Mbps/20ms")
    for size_bytes in (50_000, 80_000, 60_000, 90_000):
        link.send(size_bytes)
    before_bps, before_s = link.estimator.bandwidth_bps(), link.estimator.round_trip_s
    for _ in range(5):
        link.now_s += 0.1
        link.estimator.observe(50_000, 0.06, far_s=far_s)
    assert (link.estimator.bandwidth_bps(), link.estimator.round_trip_s) == (before_bps, before_s)


def test_a_host_that_hid_the_network_once_is_found_out_by_three_pings() -> None:
    link = warmed_up("10Mbps/40ms")
    link.now_s += 0.15
    link.estimator.observe(50_000, 0.15, far_s=0.1499)
    assert link.estimator.round_trip_s < 0.001  # a round trip that shrank would look the same
    for _ in range(3):
        link.ping()
    assert link.estimator.round_trip_s == pytest.approx(0.04)
    for _ in range(3):
        link.send(100_000)
    assert abs(link.error()) < 0.02


def test_a_request_as_short_as_the_round_trip_ends_a_run_of_longer_ones_though_no_rate_is_known() -> None:
    fake = warmed_up("50Mbps/20ms")
    for _ in range(3):  # queues that hide the rate: it is believed to be so low that all of a request is its bytes
        fake.send(100_000, queued_s=0.9, is_alone=False)
    assert fake.estimator.bandwidth_bps() < 1e6
    for _ in range(4):
        fake.send(300, queued_s=0.1)
        fake.send(300, queued_s=0.1)
        fake.send(15_000)  # 22.4 ms in all
        assert fake.estimator.round_trip_s == pytest.approx(0.02)


def test_transfers_of_different_sizes_tell_a_longer_round_trip_that_no_ping_told(seed: int) -> None:
    fake = warmed_up("50Mbps/10ms")
    fake.chance = random.Random(seed)
    fake.set("1.1Mbps/100ms")
    for n in range(16):
        size_bytes = (15_000, 83_000, 15_000, 150_000)[n % 4]
        fake.send(size_bytes, received_bytes=4000, times=1 + abs(fake.chance.gauss(0, 0.01)))
    assert fake.estimator.round_trip_s == pytest.approx(0.1, rel=0.2)
    up, down = fake.estimator.links()
    for size_bytes in (15_000, 83_000, 150_000):
        believed_s = up.transfer_seconds(size_bytes) + down.transfer_seconds(4000)
        assert believed_s == pytest.approx(
            fake.up.transfer_seconds(size_bytes) + fake.down.transfer_seconds(4000), rel=0.05
        )


def test_pings_beside_other_work_show_a_round_trip_that_has_grown_far_but_not_what_the_work_adds() -> None:
    fake = warmed_up("5Mbps/10ms")
    for _ in range(10):
        fake.estimator.observe_round_trip(0.04, is_alone=False)
    assert fake.estimator.round_trip_s == pytest.approx(0.01)
    for _ in range(3):
        fake.estimator.observe_round_trip(0.11, is_alone=False)
    assert 0.08 <= fake.estimator.round_trip_s <= 0.11
    fake.estimator.observe_round_trip(0.01, is_alone=False)
    assert fake.estimator.round_trip_s == pytest.approx(0.01)


@pytest.mark.parametrize("size_bytes", [60_000, 150_000, 600_000])
def test_a_round_trip_that_shrinks_is_learnt_from_requests_though_no_ping_gets_between_them(size_bytes: int) -> None:
    fake = FakeLink("18.88Mbps/100ms")
    fake.ping()
    for n in range(20):
        fake.send((150_000, 60_000)[n % 2], pause_s=0.0)
    assert abs(fake.error()) < 0.05
    fake.set("18.88Mbps/10ms")
    for _ in range(12):
        fake.send(size_bytes, pause_s=0.0)
    up, down = fake.estimator.links()
    assert up.transfer_seconds(size_bytes) + down.latency_s == pytest.approx(
        fake.up.transfer_seconds(size_bytes) + fake.down.latency_s, rel=0.15
    )


def test_an_upper_bound_is_forgotten_when_a_transfer_tells_the_rate() -> None:
    link = FakeLink("90Mbps/40ms")
    for _ in range(5):
        link.ping()
        link.send(150_000)
    link.set("130kbps/40ms")
    link.now_s += 2.0
    link.estimator.observe_unfinished(8192, 2.0)  # TCP that had filled a queue of its own: at most 33 kbit/s
    assert link.error() < -0.5
    link.ping()
    link.send(15_000)
    assert abs(link.error()) < 0.1
