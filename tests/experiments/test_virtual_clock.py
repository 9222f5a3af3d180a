"""The clock of an emulated link, with time in our hands."""

import random

import pytest

from experiments.emulation.virtual_clock import PAYLOAD_SHARE, VirtualClock


class Time:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


def test_a_lone_payload_arrives_after_its_time_on_the_wire_and_the_latency(time: Time) -> None:
    clock = VirtualClock(1e6, latency_s=0.25, now=time)
    assert clock.admit(1448) == pytest.approx(100 + 1514 * 8 / 1e6 + 0.25)


def test_payloads_queue_behind_each_other_and_share_one_latency(time: Time) -> None:
    clock = VirtualClock(8e6 / PAYLOAD_SHARE, latency_s=0.1, now=time)  # one payload byte a microsecond
    assert [clock.admit(1000) for _ in range(3)] == pytest.approx([100.101, 100.102, 100.103])


def test_an_idle_link_gives_no_credit(time: Time) -> None:
    clock = VirtualClock(8e6 / PAYLOAD_SHARE, now=time)
    clock.admit(1000)
    time.now_s += 10
    assert clock.admit(1000) == pytest.approx(110.001)


@pytest.mark.parametrize("rate_bps", [0.25e6, 5e6, 100e6])
def test_late_wake_ups_do_not_cost_rate(time: Time, rate_bps: float) -> None:
    """The user sleeps as told and always wakes up to 10 ms late: the rate must hold, within 1 %."""
    seed = 7
    print("seed", seed)
    lateness = random.Random(seed)
    clock = VirtualClock(rate_bps, now=time)
    start_s, sent_bytes, arrived_s = time.now_s, 0, 0.0
    while sent_bytes < rate_bps / 8 * 4:
        if wait_s := clock.wait_s():
            time.now_s += wait_s + lateness.uniform(0, 0.01)
            continue
        arrived_s = clock.admit(clock.chunk_bytes())
        sent_bytes += clock.chunk_bytes()
    assert sent_bytes * 8 / (arrived_s - start_s) == pytest.approx(rate_bps * PAYLOAD_SHARE, rel=0.01)


def test_no_more_than_20_ms_and_one_piece_queue_ahead(time: Time) -> None:
    clock = VirtualClock(10e6, now=time)
    while not clock.wait_s():
        arrived_s = clock.admit(clock.chunk_bytes())
    assert 0.02 <= arrived_s - time.now_s <= 0.02 + clock.chunk_bytes() * 8 / PAYLOAD_SHARE / 10e6


def test_a_new_rate_holds_for_what_is_queued_too(time: Time) -> None:
    clock = VirtualClock(8e6 / PAYLOAD_SHARE, now=time)
    clock.admit(10_000)  # 10 ms of link time
    clock.change(rate_bps=16e6 / PAYLOAD_SHARE)
    assert clock.admit(1000) == pytest.approx(100 + 0.005 + 0.0005)


def test_a_new_latency_leaves_the_rate_alone(time: Time) -> None:
    clock = VirtualClock(8e6 / PAYLOAD_SHARE, latency_s=0.5, now=time)
    clock.change(latency_s=0.1)
    assert clock.admit(1000) == pytest.approx(100.101)


@pytest.mark.parametrize("rate_bps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_no_link_has_is_refused_and_changes_nothing(time: Time, rate_bps: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        VirtualClock(rate_bps)
    clock = VirtualClock(1e6, now=time)
    with pytest.raises(ValueError, match="rate"):
        clock.change(rate_bps=rate_bps)
    assert clock.rate_bps == 1e6


def test_pieces_are_a_frame_at_least_and_16_kib_at_most() -> None:
    assert [VirtualClock(rate).chunk_bytes() for rate in (1e4, 10e6, 1e9)] == [1448, 6250, 16384]
