"""Waiting for the cloud never eats what the device needs to finish in time."""

from __future__ import annotations

import random

from device_agent.patience import Patience


def test_whoever_waits_can_still_finish_on_the_device(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(1000):
        now_s, remote_s, local_s = (chance.uniform(0, 10) for _ in range(3))
        deadline_s = now_s + chance.uniform(-1, 30)
        until_s = Patience().until_s(now_s=now_s, deadline_s=deadline_s, remote_s=remote_s, local_s=local_s)
        if until_s is None:
            continue
        assert now_s < until_s <= deadline_s
        assert until_s + local_s <= deadline_s or now_s + local_s > deadline_s


def test_a_quick_cloud_is_not_waited_for_until_the_deadline() -> None:
    until_s = Patience().until_s(now_s=0, deadline_s=30, remote_s=0.1, local_s=0.5)
    assert until_s is not None
    assert until_s < 1


def test_where_only_the_cloud_can_keep_the_deadline_it_gets_all_of_it() -> None:
    assert Patience().until_s(now_s=0, deadline_s=1, remote_s=0.3, local_s=9) == 1


def test_where_only_the_device_can_keep_it_the_cloud_is_not_asked() -> None:
    assert Patience().until_s(now_s=0, deadline_s=1, remote_s=9, local_s=0.3) is None
