"""Checks of sure answers: as many as asked for, never in a request's way, and loud when they disagree."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import torch

from device_agent.audit import Agreement, Audit, AuditPolicy, Check
from splitnn.errors import Unavailable
from splitnn.instrument import Instrument
from tests.device_agent.virtual_time import run_virtually

Ask = Callable[[Check], Awaitable[torch.Tensor]]


class Alarms(Instrument):
    def __init__(self) -> None:
        self.told: list[bool] = []

    def exits_doubted(self, *, agreement: float, upper: float, target: float, is_alarm: bool) -> None:
        assert (upper < target) is is_alarm and agreement <= upper
        self.told.append(is_alarm)


def check(said: int = 0, *, size: int = 8, request_id: str = "r") -> Check:
    return Check(request_id, {"x": torch.zeros(size, dtype=torch.uint8)}, torch.eye(4)[said : said + 1], (0,))


def whole(classes: Callable[[], int], *, took_s: float = 0.1) -> Ask:
    async def ask(_: Check) -> torch.Tensor:
        await asyncio.sleep(took_s)
        at = classes()
        return torch.eye(4)[at : at + 1]

    return ask


def running(audit: Audit, test: Coroutine[Any, Any, None]) -> None:
    async def both() -> None:
        task = asyncio.create_task(audit.run())
        try:
            await test
        finally:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.result()

    run_virtually(both())


def test_the_share_that_was_asked_for_is_chosen() -> None:
    audit = Audit(whole(lambda: 0), is_free=lambda: True, policy=AuditPolicy(share=0.2), chance=random.Random(1))
    assert 1800 < sum(audit.chooses() for _ in range(10_000)) < 2200
    for share, expected in ((0.0, 0), (1.0, 100)):
        audit = Audit(whole(lambda: 0), is_free=lambda: True, policy=AuditPolicy(share=share))
        assert sum(audit.chooses() for _ in range(100)) == expected


def test_agreement_is_counted_by_sample() -> None:
    audit = Audit(whole(iter([1, 2, 1]).__next__), is_free=lambda: True)

    async def test() -> None:
        for _ in range(3):
            audit.add(check(1))
        await asyncio.sleep(1)
        assert audit.agreement == Agreement(checked=3, agreed=2)

    running(audit, test())


def test_only_rows_that_an_exit_answered_count() -> None:
    async def ask(_: Check) -> torch.Tensor:
        return torch.eye(4)[[0, 1, 2]]

    audit = Audit(ask, is_free=lambda: True)

    async def test() -> None:
        audit.add(Check("r", {}, torch.eye(4)[[0, 3, 3]], (0, 2)))
        await asyncio.sleep(1)
        assert audit.agreement == Agreement(checked=2, agreed=1)

    running(audit, test())


def test_a_check_waits_for_a_free_link_and_makes_way_for_a_request() -> None:
    is_free, started, finished = False, 0, 0

    async def ask(_: Check) -> torch.Tensor:
        nonlocal started, finished
        started += 1
        await asyncio.sleep(1)
        finished += 1
        return torch.eye(4)[:1]

    audit = Audit(ask, is_free=lambda: is_free)

    async def test() -> None:
        nonlocal is_free
        audit.add(check())
        await asyncio.sleep(5)
        assert started == 0
        is_free = True
        await asyncio.sleep(0.5)
        assert (started, finished) == (1, 0)
        is_free = False
        audit.make_way()
        await asyncio.sleep(5)
        assert (started, finished) == (1, 0), "it was cancelled at once"
        is_free = True
        await asyncio.sleep(5)
        assert (started, finished) == (2, 1), "and taken up again"
        assert audit.agreement.checked == 1

    running(audit, test())


def test_checks_that_wait_are_few_and_small() -> None:
    made = 0

    async def ask(_: Check) -> torch.Tensor:
        nonlocal made
        made += 1
        return torch.eye(4)[:1]

    is_free = False
    audit = Audit(ask, is_free=lambda: is_free)

    async def test() -> None:
        nonlocal is_free
        audit.add(check(size=5 * 2**20))  # larger than all that may wait
        for _ in range(100):
            audit.add(check())
        is_free = True
        await asyncio.sleep(5)
        assert made == 8

    running(audit, test())


def test_a_cloud_that_fails_a_check_ends_nothing() -> None:
    fails = True

    async def ask(_: Check) -> torch.Tensor:
        if fails:
            raise Unavailable("gone")
        return torch.eye(4)[:1]

    audit = Audit(ask, is_free=lambda: True)

    async def test() -> None:
        nonlocal fails
        audit.add(check())
        await asyncio.sleep(1)
        assert audit.agreement.checked == 0
        fails = False
        audit.add(check())
        await asyncio.sleep(1)
        assert audit.agreement.checked == 1

    running(audit, test())


def test_the_alarm_is_raised_when_agreement_is_surely_below_the_target_and_ends_when_it_no_longer_is() -> None:
    chance = random.Random(7)
    accuracy = 0.97
    alarms = Alarms()
    audit = Audit(
        whole(lambda: 0 if chance.random() < accuracy else 1, took_s=0.0),
        is_free=lambda: True,
        policy=AuditPolicy(target=0.9, window=200),
        instrument=alarms,
    )
    told: list[bool] = []
    audit.subscribe(lambda: told.append(audit.is_alarmed))

    async def feed(samples: int) -> None:
        for _ in range(samples):
            audit.add(check())
            await asyncio.sleep(0.01)

    async def test() -> None:
        nonlocal accuracy
        await feed(300)
        assert not audit.is_alarmed
        accuracy = 0.7
        await feed(300)
        assert audit.is_alarmed
        accuracy = 1.0
        await feed(300)
        assert not audit.is_alarmed
        assert alarms.told == told == [True, False]

    running(audit, test())


def test_one_disagreement_is_no_alarm_and_no_check_is_full_agreement() -> None:
    assert Agreement(0, 0).upper == Agreement(0, 0).share == 1
    assert Agreement(1, 0).upper > 0.7
    assert Agreement(100, 80).upper < 0.9 < Agreement(100, 88).upper


@pytest.mark.parametrize("values", [{"share": 1.5}, {"share": float("nan")}, {"target": -0.1}, {"window": 0}])
def test_a_policy_that_is_none_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shares lie between 0 and 1"):
        AuditPolicy(**values)
