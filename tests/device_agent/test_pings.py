"""A ping in front of a request tells a slower link from a longer round trip, and costs no request anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from device_agent.pings import Pings
from splitnn.cost.bandwidth import LinkEstimator
from splitnn.cost.network import parse_link
from splitnn.errors import Unavailable
from tests.device_agent.test_probing import Wire
from tests.device_agent.virtual_time import run_virtually

Look = Callable[[], bool]


def virtually(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    run_virtually(whole())


def pings_over(wire: Wire, *, guess: str = "90Mbps/40ms") -> tuple[Pings, LinkEstimator]:
    clock = asyncio.get_running_loop().time
    estimator = LinkEstimator(parse_link(guess), clock=clock)
    return Pings(wire, estimator, timeout_s=1.5, clock=clock), estimator


@pytest.mark.parametrize("link", ["100kbps/40ms", "100kbps/150ms", "90Mbps/400ms"])
def test_without_a_pause_between_requests_of_one_size_what_changed_is_learnt_all_the_same(link: str) -> None:
    async def test() -> None:
        wire = Wire("90Mbps/40ms")
        pings, estimator = pings_over(wire)

        async def requests(count: int) -> None:
            for _ in range(count):
                await pings.ahead()
                took_s = wire.up.transfer_seconds(100_000) + wire.down.latency_s
                await asyncio.sleep(took_s)
                estimator.observe(100_000, took_s + 0.01, far_s=0.01)

        for _ in range(5):
            await pings.between(is_free=lambda: True, is_calm=lambda: True)
        await requests(10)
        wire.up, wire.down = parse_link(link)
        await requests(15)
        up, down = estimator.links()
        for size in (1000, 300_000):
            real_s = wire.up.transfer_seconds(size) + wire.down.latency_s
            assert up.transfer_seconds(size) + down.latency_s == pytest.approx(real_s, rel=0.15)

    virtually(test)


def test_an_unsettled_link_gets_a_ping_ahead_each_second_at_most_and_a_settled_one_each_ten() -> None:
    async def test() -> None:
        wire = Wire("90Mbps/40ms")
        pings, estimator = pings_over(wire)
        began_s = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < began_s + 10.0:  # unsettled: nobody knows the round trip yet
            await pings.ahead()
            await asyncio.sleep(0.01)
        assert 2 <= len(wire.sent) <= 10
        for _ in range(3):
            await pings.between(is_free=lambda: True, is_calm=lambda: True)
        assert not estimator.is_unsettled
        before = len(wire.sent)
        for _ in range(2000):
            await pings.ahead()
            await asyncio.sleep(0.01)
        assert len(wire.sent) == before + 1

    virtually(test)


def test_nothing_waits_for_a_ping_ahead_and_its_failure_is_the_requests_to_tell() -> None:
    async def test() -> None:
        pings, estimator = pings_over(Wire("90Mbps/40ms", error=Unavailable("gone")), guess="1Mbps/77ms")
        await asyncio.sleep(2.0)
        began_s = asyncio.get_running_loop().time()
        await pings.ahead()
        assert asyncio.get_running_loop().time() == began_s
        await asyncio.sleep(2.0)
        assert estimator.round_trip_s == pytest.approx(0.077)
        with pytest.raises(Unavailable):
            await pings.between(is_free=lambda: True, is_calm=lambda: True)

    virtually(test)


@pytest.mark.parametrize(("is_free", "is_calm"), [(lambda: False, lambda: True), (lambda: True, lambda: False)])
def test_a_ping_behind_a_request_or_beside_work_proves_no_longer_round_trip(is_free: Look, is_calm: Look) -> None:
    async def test() -> None:
        wire = Wire("90Mbps/20ms")
        pings, estimator = pings_over(wire)
        for _ in range(4):
            await pings.between(is_free=lambda: True, is_calm=lambda: True)
        wire.up, wire.down = parse_link("90Mbps/45ms")
        for _ in range(4):
            await pings.between(is_free=is_free, is_calm=is_calm)
        assert estimator.round_trip_s == pytest.approx(0.02)

    virtually(test)


def test_a_closed_agent_waits_for_no_ping() -> None:
    async def test() -> None:
        wire = Wire("90Mbps/900ms")
        pings, estimator = pings_over(wire, guess="90Mbps/40ms")
        await asyncio.sleep(2.0)
        await pings.ahead()
        pings.close()
        await asyncio.sleep(2.0)
        assert len(wire.sent) == 1
        assert estimator.round_trip_s == pytest.approx(0.04)

    virtually(test)
