"""The relay's queue, with time in our hands."""

import math

import pytest

from experiments.emulation.relay import Way


def test_packets_leave_in_order_after_their_latency() -> None:
    way = Way(seed=1)
    way.latency_s = 0.01
    way.enter(b"a", 0.0)
    way.enter(b"b", 0.005)
    assert way.due_s() == pytest.approx(0.01)
    assert way.leave(0.0099) == []
    assert way.leave(0.0101) == [b"a"]
    assert way.leave(1.0) == [b"b"]
    assert way.due_s() == math.inf


def test_a_packet_takes_the_time_of_its_frame_on_the_wire_also_after_a_pause() -> None:
    way = Way(seed=1)
    way.rate_bps, way.latency_s = 1e6, 0.01
    way.enter(bytes(1000 - 14), 5.0)  # a frame of 8000 bits
    way.enter(bytes(500 - 14), 5.0)  # waits for the one before
    way.enter(bytes(500 - 14), 6.0)  # finds the link free again
    dues = [due_s for due_s, _ in way._flight]
    assert dues == pytest.approx([5.018, 5.022, 6.014])


def test_jitter_keeps_the_order_and_its_bounds() -> None:
    print("seed", 5)
    way = Way(seed=5)
    way.latency_s, way.jitter_s = 0.02, 0.005
    dues = []
    for index in range(500):
        way.enter(index.to_bytes(2, "big"), index * 0.001)
        dues.append(way._flight[-1][0] - index * 0.001)
    assert way.leave(10.0) == [index.to_bytes(2, "big") for index in range(500)]
    assert min(dues) >= 0.015
    assert max(dues) <= 0.025 + 1e-9
    assert max(dues) - min(dues) > 0.005


def test_loss_is_the_share_that_was_asked_for_and_an_outage_loses_all() -> None:
    print("seed", 11)
    way = Way(seed=11)
    way.loss = 0.05
    for _ in range(4000):
        way.enter(b"x", 0.0)
    assert 140 < 4000 - len(way.leave(1.0)) < 260  # 200 expected, standard deviation 14
    way.loss = 1.0
    way.enter(b"x", 2.0)
    assert way.leave(3.0) == []
