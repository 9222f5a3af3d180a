"""Requests with deadlines: the most accurate answer in time, by look-up. All time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from splitnn.errors import InvalidInput
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model
from splitnn.planner.constraints import Constraints
from splitnn.planner.deadlines import every_policy
from splitnn.planner.exits import weigh
from tests.device_agent.test_agent import LAYER_S, World
from tests.device_agent.test_agent_exits import ask, cut_behind, exit_world, kind_of, logits
from tests.runtime.exit_models import ThreeExits, batch, by_hand, captured

BY_NAME = {"exit1": 0.6, "exit2": 0.8, "exit3": 0.9}


def judged() -> Model:
    """Exits of which a deeper one is right more often, and that are seldom sure: asking more costs less accuracy."""
    model = captured(ThreeExits)
    assert model.exits is not None
    outcomes = [([at < 20, at < 40, True], [at < 100 * share for share in BY_NAME.values()]) for at in range(100)]
    exits = Exits.counted(model.exits.exits, outcomes, against="labels", data="made up")
    return replace(model, exits=exits)


def hurried(test: Callable[[World], Awaitable[None]], **options: object) -> None:
    async def run(w: World) -> None:
        running = asyncio.create_task(w.agent.timely.run())
        try:
            await test(w)
            assert not running.done()
        finally:
            running.cancel()

    exit_world(run, model=judged(), **options)


async def made_ready(w: World) -> None:
    """A first request in a hurry is answered as before; ways are ready a moment later."""
    first = await ask(w, batch(1, seed=0), deadline_s="4")
    assert first.parameters["exits_asked"] == "exit1,exit2,exit3"
    for _ in range(50):
        if w.agent.timely.alone:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("no way is ready")


def head_s(model: Model, exit: str) -> float:
    """Seconds on the device until that exit has spoken, alone."""
    assert model.exits is not None
    (output,) = (each.output for each in model.exits.exits if each.name == exit)
    return LAYER_S * len(model.graph.between(model.graph.inputs, [output]))


def test_without_a_cloud_the_deepest_exit_in_time_answers_and_the_answer_is_marked() -> None:
    async def test(w: World) -> None:
        await made_ready(w)
        sample = kind_of(w.model, "exit3")
        for exit in BY_NAME:
            enough_s = head_s(w.model, exit) / 0.9 + 0.01  # an exit among others takes the heads of these too
            answer = await ask(w, sample, timeout_s=30, deadline_s=str(enough_s))
            assert answer.parameters["exit"] == exit, enough_s
            assert answer.parameters["answered_by"] == "device"
            assert "connection refused" in str(answer.parameters["degraded"])
            assert w.model.exits is not None
            assert torch.equal(logits(w, answer), by_hand(w.model, sample, exits=w.model.exits.only(exit)).logits)

    hurried(test, state="dead")


def test_where_nothing_is_in_time_the_answer_says_so_and_by_how_much_it_is_late() -> None:
    async def test(w: World) -> None:
        await made_ready(w)
        now = asyncio.get_running_loop().time
        wanted_s, began_s = head_s(w.model, "exit1") * 0.95, now()
        answer = await ask(w, kind_of(w.model, "exit3"), timeout_s=30, deadline_s=str(wanted_s))
        assert "no way to answer is in time" in str(answer.parameters["degraded"])
        assert answer.parameters["late_s"] == pytest.approx(now() - began_s - wanted_s, abs=1e-6)
        answer = await ask(w, kind_of(w.model, "exit3"), timeout_s=30, deadline_s="20")
        assert "late_s" not in answer.parameters

    hurried(test, state="dead")


def test_where_nothing_is_predicted_to_be_in_time_the_last_exit_that_was_passed_answers() -> None:
    """The prediction is wrong: what is said to take the whole deadline takes a part of it."""

    async def test(w: World) -> None:
        await made_ready(w)
        model, sample = w.model, kind_of(w.model, "exit3")
        assert model.exits is not None
        deadline_s, takes_s = head_s(model, "exit1") * 1.05, iter((0.0, 0.08, 0.15))

        def takes(*, request_id: str, host: str, layers: int) -> None:
            w.moments.engine.next_s = next(takes_s)

        w.moments.stage_started = takes  # type: ignore[method-assign]
        reached = []
        for _ in range(3):
            answer = await ask(w, sample, timeout_s=30, deadline_s=str(deadline_s))
            exit, degraded = str(answer.parameters["exit"]), str(answer.parameters["degraded"])
            assert "no way to answer is in time" in degraded and answer.parameters["answered_by"] == "device"
            assert ("unsure" in degraded) == (exit != "exit3")
            assert torch.equal(logits(w, answer), by_hand(model, sample, exits=model.exits.only(exit)).logits)
            reached.append(exit)
        assert reached == ["exit3", "exit2", "exit1"]

    hurried(test, state="dead")


def test_choice_is_the_most_accurate_in_time_of_all_policies_at_the_present_conditions() -> None:
    """A slow link: exits on the device, one after the other, and then the cloud, as there is more time."""

    async def test(w: World) -> None:
        await w.until(lambda: w.cloud.is_up, ask=False)
        for _ in range(20):  # until the link is known
            await ask(w, batch(1, seed=3), plan="cloud")
            await asyncio.sleep(0.5)
        await made_ready(w)
        assert w.model.exits is not None
        chosen = dict[str, str]()
        for deadline_s in (0.15, 0.25, 0.36, 0.6, 0.9, 2.0):
            await asyncio.sleep(2)
            now = w.navigator.conditions()
            for left_s in (0.9 * deadline_s / 1.05, 0.9 * deadline_s * 1.05):  # conditions alike count as the same
                weighed = weigh(
                    w.model.graph, now.profiles, now.topology,
                    policies=every_policy(w.model.exits), constraints=Constraints(deadline_s=left_s),
                )  # fmt: skip
                if left_s < 0.9 * deadline_s:
                    least = weighed[0]
            answer = await ask(w, batch(1, seed=4), timeout_s=30, deadline_s=str(deadline_s))
            asked = str(answer.parameters["exits_asked"])
            if least.worst.latency_s <= 0.9 * deadline_s / 1.05:
                accuracy = w.model.exits.only(*asked.split(",")).accuracy
                assert least.exits.accuracy <= accuracy <= weighed[0].exits.accuracy
                chosen[asked] = str(answer.parameters["answered_by"])
            if answer.parameters["answered_by"] == "cloud":
                assert "degraded" not in answer.parameters
        assert {"exit1": "device", "exit2": "device", "exit3": "cloud"}.items() <= chosen.items(), chosen

    hurried(test, link="10Mbps/400ms")


def test_a_request_that_the_plan_serves_in_time_follows_the_plan() -> None:
    async def test(w: World) -> None:
        await w.until(lambda: w.cloud.is_up, ask=False)
        await made_ready(w)
        for options in ({"timeout_s": 30.0}, {"timeout_s": 30.0, "plan": cut_behind(w.model, 1), "deadline_s": "9"},
                        {"timeout_s": 30.0, "exits": "none", "deadline_s": "9"}):  # fmt: skip
            answer = await ask(w, kind_of(w.model, "exit3"), **options)
            assert answer.parameters["exits_asked"] == ("exit3" if "exits" in options else "exit1,exit2,exit3")

    hurried(test)


def test_a_deadline_of_the_wire_that_the_plan_would_miss_is_met_by_another_way() -> None:
    async def test(w: World) -> None:
        await made_ready(w)
        sample, needed_s = kind_of(w.model, "exit3"), head_s(w.model, "exit2")

        def takes(*, request_id: str, host: str, layers: int) -> None:
            w.moments.engine.next_s = needed_s  # else it takes the time of a stage's layers, whoever needs them

        w.moments.stage_started = takes  # type: ignore[method-assign]
        answer = await ask(w, sample, timeout_s=needed_s / 0.9 + 0.01)
        assert answer.parameters["exit"] == "exit2"
        assert "unsure" not in str(answer.parameters["degraded"])

    hurried(test, state="dead")


def test_once_the_cloud_is_back_ways_through_it_are_found() -> None:
    async def test(w: World) -> None:
        await made_ready(w)
        assert all(each.course.plan.is_local for each in w.agent.timely.with_cloud)
        w.far.state = "well"
        await w.until(lambda: w.cloud.is_up, ask=False)
        for _ in range(20):
            answer = await ask(w, kind_of(w.model, "exit3"), timeout_s=30, deadline_s="20")
            await asyncio.sleep(0.5)
        assert answer.parameters["answered_by"] == "cloud" and "degraded" not in answer.parameters
        assert any(not each.course.plan.is_local for each in w.agent.timely.with_cloud)

    hurried(test, state="dead")


@contextmanager
def refusing(w: World, *names: str) -> Iterator[None]:
    """Whoever asks the navigator for one of these is a defect."""
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(type(w.navigator), name, None)
        yield


def test_a_request_plans_nothing_and_compiles_nothing() -> None:
    async def test(w: World) -> None:
        await made_ready(w)
        with refusing(w, "ways", "timetable", "priced", "decide"):
            await ask(w, batch(1, seed=4), timeout_s=30, deadline_s="0.3")

    hurried(test, state="dead")


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_deadlines_that_are_none_are_refused(text: str) -> None:
    async def test(w: World) -> None:
        with pytest.raises(InvalidInput, match="deadline_s"):
            await ask(w, batch(1, seed=4), deadline_s=text)

    hurried(test)
