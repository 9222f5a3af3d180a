"""Fixed times of stages and messages: measured on this machine, so only what holds on any machine is claimed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from splitnn.cost.profile import Profile, Timing
from splitnn.runtime.handling import with_handling

PROFILE = Profile("d" * 64, "device", {}, Timing(1.0, 1.0))


def test_a_message_costs_more_than_a_stage_and_both_less_than_a_tenth_of_a_second_of_the_processor() -> None:
    found = with_handling(PROFILE)
    assert 0 < found.stage_s < found.message_s < 0.1
    assert replace(found, stage_s=0.0, message_s=0.0) == PROFILE


def test_it_can_be_measured_beside_a_running_loop_on_another_thread() -> None:
    async def beside() -> Profile:
        return await asyncio.to_thread(with_handling, PROFILE)

    assert asyncio.run(beside()).message_s > 0


def test_a_simulated_slowdown_goes_for_them_too() -> None:
    slow = with_handling(PROFILE.scaled(1000))
    assert slow.message_s > 0.1
