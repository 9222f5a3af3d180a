"""A probe train finds the rate of any link, holds a slow one only briefly, and does not hide that nobody is there."""

from __future__ import annotations

import asyncio

import pytest

from device_agent.probing import probe_link
from splitnn.cost.bandwidth import LinkEstimator
from splitnn.cost.network import parse_link
from splitnn.errors import DeadlineExceeded, TransportError, Unavailable
from splitnn.transport.base import Answer, Probe, Request
from tests.device_agent.virtual_time import run_virtually


class Wire:
    """A link that only probes; keeps what was sent."""

    def __init__(self, link: str, *, error: TransportError | None = None) -> None:
        self.up, self.down = parse_link(link)
        self.error = error
        self.sent: list[int] = []

    async def infer(self, request: Request) -> Answer:
        raise NotImplementedError

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        self.sent.append(size_bytes)
        if self.error:
            raise self.error
        seconds = self.up.transfer_seconds(size_bytes) + self.down.latency_s
        await asyncio.sleep(min(seconds, timeout_s))
        if seconds > timeout_s:
            raise DeadlineExceeded("no acknowledgement")
        return Probe(size_bytes, seconds, 0.0)

    async def close(self) -> None:
        pass


async def probed(wire: Wire, *, guess: str = "10Mbps/20ms") -> LinkEstimator:
    now = asyncio.get_running_loop().time
    estimator = LinkEstimator(parse_link(guess), clock=now)
    estimator.observe_round_trip(wire.up.latency_s + wire.down.latency_s)
    await probe_link(wire, estimator, is_free=lambda: True, clock=now)
    return estimator


@pytest.mark.parametrize("link", ["30kbps/50ms", "1Mbps/20ms", "10Mbps/2ms", "40Mbps/20ms", "100Mbps/20ms"])
def test_one_train_finds_the_rate_whatever_was_guessed(link: str) -> None:
    wire = Wire(link)
    estimator = run_virtually(probed(wire))
    assert estimator.bandwidth_bps() == pytest.approx(wire.up.bandwidth_bps, rel=0.05)
    assert not estimator.is_bound
    assert sum(wire.sent) <= 524_288


def test_a_link_faster_than_can_be_told_is_known_to_be_fast() -> None:
    estimator = run_virtually(probed(Wire("5Gbps/20ms")))
    assert estimator.bandwidth_bps() > 80e6
    assert estimator.is_bound


def test_a_very_slow_link_carries_one_small_probe() -> None:
    wire = Wire("1kbps/20ms")
    estimator = run_virtually(probed(wire))
    assert sum(wire.sent) <= 512
    assert estimator.bandwidth_bps() < 3000


def test_that_nobody_is_there_is_no_news_of_the_link() -> None:
    with pytest.raises(Unavailable):
        run_virtually(probed(Wire("1Mbps/20ms", error=Unavailable("connection refused"))))


@pytest.mark.parametrize("link", ["130kbps/100ms", "100Mbps/100ms", "5Mbps/300ms"])
def test_a_round_trip_that_grew_unnoticed_does_not_pass_for_a_slow_link(link: str) -> None:
    async def train() -> LinkEstimator:
        now = asyncio.get_running_loop().time
        estimator = LinkEstimator(parse_link("90Mbps/20ms"), clock=now)
        for _ in range(5):
            estimator.observe_round_trip(0.02)
        await probe_link(wire, estimator, is_free=lambda: True, clock=now)
        return estimator

    wire = Wire(link)
    estimator = run_virtually(train())
    assert 0.4 < estimator.bandwidth_bps() / wire.up.bandwidth_bps < 1.3  # of fast ones it is a lower bound
    assert sum(wire.sent) <= 524_288
