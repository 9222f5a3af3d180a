"""Every request is answered once and right, whatever becomes of the cloud. All time is virtual."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest
import torch

from device_agent.agent import Agent
from device_agent.cloud import Cloud
from device_agent.courses import Courses
from device_agent.log import Log
from device_agent.navigator import CLOUD, DEVICE, Navigator, Pin
from splitnn.cost.bandwidth import LinkEstimator
from splitnn.cost.network import parse_link
from splitnn.cost.profile import Profile, Timing
from splitnn.errors import (
    DigestMismatch,
    InvalidInput,
    Overloaded,
    RequestError,
    TransportError,
    Unavailable,
    UnknownModel,
)
from splitnn.graph.capture import capture
from splitnn.graph.model import Model, Value
from splitnn.instrument import Instrument
from splitnn.planner.plan import Plan
from splitnn.runtime.pipeline import Pipeline
from splitnn.runtime.stage import stage
from splitnn.transport.base import Announcement, Answer, Request
from tests.device_agent.fake_cloud import NAME, FakeCloud, InlineEngine, State
from tests.device_agent.virtual_time import run_virtually
from tests.models import TINY

T = TypeVar("T")
LAYER_S = 0.05  # on the device; a fiftieth of it in the cloud


@functools.cache
def captured(name: str) -> Model:
    module, example = TINY[name]()
    return capture(module, example)


@functools.cache
def right(name: str) -> dict[str, Value]:
    model = captured(name)
    return stage(model, model.graph.inputs, model.graph.outputs).run(model.example)


def profile(model: Model, host: str, layer_s: float) -> Profile:
    layers = {layer.name: Timing(layer_s, layer_s) for layer in model.graph.layers}
    return Profile(model.digest, host, layers, Timing(layer_s, layer_s))


class Moments(Instrument):
    """Keeps them, and tells the engine how long a stage takes on this device."""

    def __init__(self, engine: InlineEngine) -> None:
        self.engine = engine
        self.plans: list[str] = []
        self.degradations: list[str] = []
        self.late_s: list[float] = []
        self.recoveries = 0

    def stage_started(self, *, request_id: str, host: str, layers: int) -> None:
        self.engine.next_s = layers * LAYER_S

    def plan_changed(self, *, old: str, new: str, reason: str) -> None:
        self.plans.append(new)

    def degraded(self, *, request_id: str, reason: str) -> None:
        self.degradations.append(reason)

    def answered_late(self, *, request_id: str, late_s: float) -> None:
        self.late_s.append(late_s)

    def recovered(self) -> None:
        self.recoveries += 1


@dataclass
class World:
    """An agent at work, its fake cloud, and what happened."""

    agent: Agent
    cloud: Cloud
    far: FakeCloud
    moments: Moments
    model: Model
    name: str
    navigator: Navigator
    answers: int = 0

    async def ask(self, *, timeout_s: float = 5.0, check: bool = True, plan: str = "auto") -> Answer:
        now = asyncio.get_running_loop().time
        request = Request(
            NAME,
            self.model.example,
            deadline_s=now() + timeout_s,
            request_id=f"r{self.answers}",
            parameters={} if plan == "auto" else {"plan": plan},
        )
        answer = await self.agent.infer(request)
        self.answers += 1
        if check:
            assert now() <= request.deadline_s
            for tensor, value in right(self.name).items():
                assert torch.equal(torch.as_tensor(answer.tensors[tensor]), torch.as_tensor(value))
        return answer

    async def until(self, holds: Callable[[], bool], *, ask: bool = True) -> None:
        for _ in range(2000):
            if holds():
                return
            if ask:
                await self.ask()
            await asyncio.sleep(0.2)
        raise AssertionError("it never came to hold")


@asynccontextmanager
async def world(
    name: str = "residual", *, link: str = "10Mbps/10ms", pin: Pin = "auto", **options: Any
) -> AsyncIterator[World]:
    model = options.pop("model", None) or captured(name)
    clock = asyncio.get_running_loop().time
    far = FakeCloud(model, profile(model, CLOUD, 0.001), link=link)
    far.state = options.pop("state", "well")
    estimator = LinkEstimator(parse_link("1Mbps/20ms"), clock=clock)
    engine = InlineEngine()
    moments = Moments(engine)
    cloud = Cloud(
        far,
        far,
        estimator,
        name=NAME,
        digest=model.digest,
        graph=model.graph,
        chance=random.Random(1),
        clock=clock,
    )
    own = profile(model, DEVICE, LAYER_S)
    navigator = Navigator(model.graph, own, estimator, stand_in=own, pin=pin, clock=clock)
    agent = Agent(
        model,
        cloud,
        navigator,
        engine,
        name=NAME,
        profile=own,
        instrument=moments,
        aside=at_once,
        clock=clock,
        **options,
    )
    tasks = [asyncio.create_task(work) for work in (agent.steer(), cloud.watch(is_calm=lambda: agent.is_calm))]
    try:
        yield World(agent, cloud, far, moments, model, name, navigator)
    finally:
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def at_once(function: Callable[[], T], /) -> T:
    return function()


def virtually(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    run_virtually(whole())


def test_pings_beside_the_devices_own_work_do_not_prove_that_the_round_trip_has_grown() -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            for _ in range(30):
                w.far.set_link("10Mbps/35ms")  # its own stage holds up whatever the device sends meanwhile
                await w.ask(plan="device")
                w.far.set_link("10Mbps/10ms")
                assert w.cloud.estimator.round_trip_s == pytest.approx(0.01, rel=0.2)
            w.far.set_link("10Mbps/80ms")
            await asyncio.sleep(10)  # now nothing holds them up
            assert w.cloud.estimator.round_trip_s == pytest.approx(0.08, rel=0.2)

    virtually(test)


def test_an_answer_after_its_deadline_says_by_how_much_and_one_in_time_says_nothing() -> None:
    async def test() -> None:
        async with world(state="dead") as w:
            now = asyncio.get_running_loop().time
            takes_s = LAYER_S * len(w.model.graph)
            assert "late_s" not in (await w.ask(timeout_s=takes_s * 1.5)).parameters
            assert not w.moments.late_s
            began_s = now()
            answer = await w.ask(timeout_s=takes_s / 2, check=False)  # there is nothing shorter than the whole model
            late_s = now() - began_s - takes_s / 2
            assert answer.parameters["late_s"] == pytest.approx(late_s, abs=1e-6)
            assert w.moments.late_s == [answer.parameters["late_s"]]
            assert late_s >= takes_s / 2 - 1e-6

    virtually(test)


def test_the_log_names_a_late_request_and_by_how_much(caplog: pytest.LogCaptureFixture) -> None:
    Log().answered_late(request_id="r7", late_s=0.0125)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "'r7'" in record.getMessage() and "12.5 ms" in record.getMessage()


def test_without_a_cloud_the_device_answers_and_says_why() -> None:
    async def test() -> None:
        async with world(state="dead") as w:
            for _ in range(5):
                answer = await w.ask()
                assert "degraded" in answer.parameters
                await asyncio.sleep(1)
            assert "connection refused" in str(answer.parameters["degraded"])
            assert w.far.asked == 0
            assert w.agent.is_ready(NAME)

    virtually(test)


def test_with_a_cloud_nothing_is_degraded_and_the_answer_tells_predicted_beside_measured() -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            for _ in range(20):  # until the link is known, and the plan as it will stay
                await asyncio.sleep(0.5)
                answer = await w.ask()
            told = answer.parameters
            assert "degraded" not in told
            assert Plan.parse(str(told["plan"]), w.model.graph).id == told["plan_id"] == w.agent.plan.id
            assert told["sent_bytes"] == told["predicted_sent_bytes"]
            assert told["network_s"] == pytest.approx(told["predicted_transfer_s"], rel=0.2)
            assert told["tail_s"] == pytest.approx(0.001)
            assert "emulated_slowdown" not in told

    virtually(test)


@pytest.mark.parametrize("name", ["residual", "branches", "attention", "many_inputs"])
def test_every_request_is_answered_once_and_right_under_random_failures(name: str, seed: int) -> None:
    chance = random.Random(seed)
    states: list[State] = ["well", "well", "well", "dead", "black hole", "overloaded", "loading"]

    async def test() -> None:
        async with world(name) as w:
            w.far.fault = lambda: chance.choice(states)

            async def user() -> None:
                for _ in range(12):
                    await w.ask(timeout_s=chance.uniform(2, 8))
                    await asyncio.sleep(chance.uniform(0, 2))

            async def fate() -> None:
                while True:
                    await asyncio.sleep(chance.uniform(0.5, 4))
                    w.far.state = chance.choice(states)
                    w.far.set_link(f"{chance.choice([5, 50, 500, 50_000])}kbps/{chance.choice([1, 20, 200])}ms")

            storm = asyncio.create_task(fate())
            await asyncio.gather(*(user() for _ in range(4)))
            storm.cancel()
            assert w.answers == 48

    virtually(test)


def test_black_hole_costs_one_request_some_time_and_no_request_after_it() -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            w.far.state = "black hole"
            asked = w.far.asked
            answer = await w.ask(timeout_s=2)
            assert "no answer from the cloud" in str(answer.parameters["degraded"])
            assert not w.cloud.is_up
            for _ in range(20):
                answer = await w.ask(timeout_s=1)
                assert "degraded" in answer.parameters
                assert float(answer.parameters["total_s"]) < 0.5
                await asyncio.sleep(0.3)
            assert w.far.asked == asked + 1

    virtually(test)


@pytest.mark.parametrize("state", ["dead", "black hole", "loading", "other model"])
def test_the_agent_comes_back_to_the_cloud_by_itself(state: State) -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            w.far.state = state
            answer = await w.ask()
            assert "degraded" in answer.parameters
            await asyncio.sleep(20)
            assert "degraded" in (await w.ask()).parameters
            w.far.state = "well"
            await asyncio.sleep(10)
            answer = await w.ask()
            assert "degraded" not in answer.parameters
            assert not Plan.parse(str(answer.parameters["plan"]), w.model.graph).is_local
            assert w.moments.recoveries == 2  # the first time and now

    virtually(test)


def test_a_cloud_that_starts_later_is_used() -> None:
    async def test() -> None:
        async with world(state="dead") as w:
            await w.ask()
            w.far.state = "well"
            await w.until(lambda: w.cloud.is_up and not w.agent.plan.is_local)
            assert "degraded" not in (await w.ask()).parameters

    virtually(test)


def test_a_cloud_with_another_model_is_never_asked_twice() -> None:
    async def test() -> None:
        async with world(state="other model") as w:
            w.far.asked = 1
            for _ in range(10):
                answer = await w.ask()
                await asyncio.sleep(3)
            assert w.far.asked == 1
            assert "DigestMismatch" in str(answer.parameters["degraded"])

    virtually(test)


def test_an_overloaded_cloud_is_left_alone_for_as_long_as_it_asks() -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            w.far.state = "overloaded"
            asked = w.far.asked
            for _ in range(4):
                assert "overloaded" in str((await w.ask()).parameters["degraded"])
            assert w.far.asked == asked + 1
            assert w.cloud.is_up
            w.far.state = "well"
            await asyncio.sleep(5)
            assert "degraded" not in (await w.ask()).parameters

    virtually(test)


def test_a_slower_link_moves_the_cut_and_a_faster_one_moves_it_back_though_nobody_uses_it() -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            w.far.set_link("5kbps/10ms")
            await w.until(lambda: w.agent.plan.is_local and w.cloud.is_up)
            answer = await w.ask()
            assert "degraded" not in answer.parameters
            asked = w.far.asked
            w.far.set_link("10Mbps/10ms")
            await w.until(lambda: not w.agent.plan.is_local, ask=False)
            assert w.far.asked == asked
            assert len(w.moments.plans) >= 3

    virtually(test)


def test_requests_that_share_a_slow_link_wait_for_each_other_and_keep_the_cloud() -> None:
    async def test() -> None:
        async with world(link="100kbps/10ms", pin="cloud") as w:
            await w.until(lambda: not w.agent.plan.is_local and w.cloud.estimator.measured > 3)
            answers = await asyncio.gather(*(w.ask(timeout_s=30) for _ in range(12)))
            assert not [answer for answer in answers if "degraded" in answer.parameters]
            assert w.cloud.is_up

    virtually(test)


def test_probes_take_a_bounded_part_of_the_link() -> None:
    async def test() -> None:
        async with world(link="1kbps/10ms") as w:
            await w.until(lambda: w.cloud.is_up)
            before = w.far.probed_bytes
            began_s = asyncio.get_running_loop().time()
            await asyncio.sleep(300)
            rate = (w.far.probed_bytes - before) * 8 / (asyncio.get_running_loop().time() - began_s)
            assert 0 < rate < 1000 / 5

    virtually(test)


def test_a_request_that_has_begun_keeps_its_plan_when_the_plan_changes() -> None:
    async def test() -> None:
        async with world(link="100kbps/100ms") as w:
            await w.until(lambda: not w.agent.plan.is_local)
            before = w.agent.plan.id
            w.far.set_link("1kbps/2s")
            slow = asyncio.create_task(w.ask())
            await asyncio.sleep(0.02)
            for _ in range(4):
                w.cloud.estimator.observe_unfinished(10_000, 100.0)
            while w.agent.plan.id == before:
                await w.ask(plan="device")  # so that the agent plans again
                assert not slow.done()
            answer = await slow
            assert answer.parameters["plan_id"] == before
            assert w.agent.plan.id != before

    virtually(test)


def test_a_cancelled_request_is_cancelled_in_the_cloud() -> None:
    async def test() -> None:
        async with world(link="20kbps/100ms", pin="cloud") as w:
            await w.until(lambda: not w.agent.plan.is_local)
            request = asyncio.create_task(w.ask())
            await asyncio.sleep(0.1)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert w.far.cancelled == 1
            assert w.cloud.is_up

    virtually(test)


def test_a_deadline_too_short_for_the_cloud_is_kept_on_the_device() -> None:
    async def test() -> None:
        async with world("chain", link="20kbps/100ms", pin="cloud") as w:
            await w.until(lambda: not w.agent.plan.is_local and w.cloud.estimator.measured > 3)
            asked = w.far.asked
            answer = await w.ask(timeout_s=0.8)
            assert "no time" in str(answer.parameters["degraded"])
            assert w.far.asked == asked

    virtually(test)


def test_a_pinned_plan_stays_whatever_the_link_does() -> None:
    async def test() -> None:
        async with world(pin="cloud") as w:
            await w.until(lambda: not w.agent.plan.is_local)
            w.far.set_link("5kbps/10ms")
            for _ in range(5):
                await w.ask(timeout_s=30)
            assert set(w.agent.plan.tiers) == {1}
        async with world(pin="device") as w:
            for _ in range(5):
                answer = await w.ask()
                assert "degraded" not in answer.parameters
                await asyncio.sleep(1)
            assert w.far.asked == 0

    virtually(test)


def test_a_request_may_ask_for_a_plan_of_its_own() -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            usual = w.agent.plan
            line = str(usual)
            for wanted, tiers in (("device", {0}), ("cloud", {1}), (line, set(usual.tiers))):
                answer = await w.ask(plan=wanted)
                found = Plan.parse(str(answer.parameters["plan"]), w.model.graph)
                assert set(found.tiers) == tiers
                assert "degraded" not in answer.parameters
            assert w.agent.plan.id == usual.id
            with pytest.raises(InvalidInput, match="parameter 'plan'"):
                await w.ask(plan="the best")
            w.far.state = "dead"
            assert "degraded" in (await w.ask(plan="cloud")).parameters
            assert "degraded" not in (await w.ask(plan="device")).parameters

    virtually(test)


def test_bad_requests_are_refused_by_name_and_the_next_good_one_works() -> None:
    async def refused(w: World, error: type[Exception], **wrong: Any) -> str:
        now = asyncio.get_running_loop().time
        given = {"model": NAME, "tensors": w.model.example, "deadline_s": now() + 5, **wrong}
        with pytest.raises(error) as raised:
            await w.agent.infer(Request(**given))
        return str(raised.value)

    async def test() -> None:
        async with world() as w:
            (x,) = w.model.graph.inputs
            assert "'lion'" in await refused(w, UnknownModel, model="lion")
            assert " 7 here" in await refused(w, UnknownModel, version="7")
            await refused(w, DigestMismatch, digest="f" * 64)
            assert x in await refused(w, InvalidInput, tensors={x: torch.zeros(2, 2)})
            assert "'picture'" in await refused(w, InvalidInput, tensors={"picture": torch.zeros(2, 2)})
            await refused(w, RequestError, tensors={})
            await w.ask()

    virtually(test)


def test_a_part_of_the_model_can_be_asked_for_too() -> None:
    async def test() -> None:
        async with world("branches") as w:
            cut = w.model.graph.crossing([w.model.graph.layers[0].name])
            head = stage(w.model, w.model.graph.inputs, cut).run(w.model.example)
            answer = await w.agent.infer(Request(NAME, head, deadline_s=asyncio.get_running_loop().time() + 5))
            for tensor, value in right("branches").items():
                assert torch.equal(torch.as_tensor(answer.tensors[tensor]), torch.as_tensor(value))

    virtually(test)


def test_a_closed_agent_is_not_ready_and_answers_what_has_arrived() -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            under_way = asyncio.create_task(w.ask())
            await asyncio.sleep(0.001)
            w.agent.close()
            assert not w.agent.is_ready()
            with pytest.raises(Unavailable, match="shutting down"):
                w.agent.expect(Announcement(NAME, tensors={}))
            await under_way
            await w.ask()  # it was being decoded

    virtually(test)


def test_an_impossible_deadline_is_an_error_and_nothing_else() -> None:
    async def test() -> None:
        async with world() as w:
            with pytest.raises(TransportError):
                await w.ask(timeout_s=0.0, check=False)
            await w.ask()

    virtually(test)


def test_reports_have_a_hundredth_of_the_time_at_most() -> None:
    async def reports_in_ten_minutes(report_s: float) -> int:
        async with world() as w:
            await w.until(lambda: w.cloud.is_up)
            before = w.far.reports
            w.far.report_s = report_s
            await asyncio.sleep(600)
            return w.far.reports - before

    assert run_virtually(reports_in_ten_minutes(0.0)) >= 15
    assert run_virtually(reports_in_ten_minutes(6.0)) <= 2  # 60 s of the link at every half minute


def test_a_request_in_a_hurry_does_not_take_the_cloud_from_the_others() -> None:
    async def test() -> None:
        async with world("chain", pin="cloud") as w:
            await w.until(lambda: not w.agent.plan.is_local and w.cloud.estimator.measured > 3)
            believed_bps = w.cloud.estimator.bandwidth_bps()
            hurry_s = len(w.model.graph) * LAYER_S * 1.5 + 0.2  # the device can keep it; the cloud would get more
            for _ in range(5):
                w.far.state = "black hole"
                hurried = await w.ask(timeout_s=hurry_s)
                w.far.state = "well"
                assert "no answer" in str(hurried.parameters["degraded"])
                assert w.cloud.is_up
                assert "degraded" not in (await w.ask()).parameters
            assert w.cloud.estimator.bandwidth_bps() == pytest.approx(believed_bps, rel=0.2)

    virtually(test)


def test_while_the_device_is_best_a_dead_cloud_is_missed_by_nobody() -> None:
    async def test() -> None:
        async with world(link="5kbps/10ms") as w:
            await w.until(lambda: w.cloud.is_up and w.cloud.estimator.bandwidth_bps() < 20_000)
            await w.until(lambda: w.agent.plan.is_local)
            w.far.state = "dead"
            await w.until(lambda: not w.cloud.is_up)
            before = len(w.moments.degradations)
            for _ in range(5):
                assert "degraded" not in (await w.ask()).parameters
            assert len(w.moments.degradations) == before

    virtually(test)


@pytest.mark.parametrize("link", ["40Mbps/20ms", "2Mbps/20ms", "200Mbps/5ms"])
def test_the_first_decision_knows_the_link(link: str) -> None:
    async def test() -> None:
        async with world(link=link) as w:
            began_s = asyncio.get_running_loop().time()
            while not w.cloud.is_up:
                await asyncio.sleep(0.01)
            assert asyncio.get_running_loop().time() - began_s < 1
            up, _ = parse_link(link)
            assert w.cloud.estimator.bandwidth_bps() == pytest.approx(up.bandwidth_bps, rel=0.1)
            assert w.far.asked == 0

    virtually(test)


def test_a_profile_is_sent_once_and_again_when_it_has_changed() -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: w.cloud.is_up)
            await asyncio.sleep(120)
            assert w.far.reports > 5
            assert w.far.profiles_sent == 1
            w.far.state = "dead"
            await w.until(lambda: not w.cloud.is_up)
            w.far.state = "well"
            w.far.slowdown = 3.0
            await w.until(lambda: w.cloud.is_up)
            assert w.cloud.report is not None
            assert w.cloud.report.slowdown == 3.0  # not what it was before the restart
            assert w.far.profiles_sent == 1
            w.far.profile = profile(w.model, CLOUD, 0.002)
            await asyncio.sleep(120)
            assert w.cloud.report.profile is w.far.profile
            assert w.far.profiles_sent == 2

    virtually(test)


def test_the_load_is_asked_for_under_steady_requests_too() -> None:
    async def test() -> None:
        async with world(link="50kbps/50ms", pin="cloud") as w:
            await w.until(lambda: w.cloud.is_up)
            before = w.far.reports

            async def user() -> None:
                while True:
                    await w.ask(timeout_s=60)

            users = [asyncio.create_task(user()) for _ in range(3)]
            await asyncio.sleep(60)
            assert w.far.reports >= before + 3
            for each in users:
                each.cancel()
            await asyncio.gather(*users, return_exceptions=True)

    virtually(test)


def test_a_plan_that_the_cloud_refuses_is_not_sent_with_every_request() -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            for _ in range(20):  # until the plan is as it will stay
                await w.ask()
            w.far.state = "too large"
            asked = w.far.asked
            for _ in range(20):
                answer = await w.ask()
                assert "PayloadTooLarge" in str(answer.parameters["degraded"])
            assert w.far.asked == asked + 3
            assert w.cloud.is_up
            w.far.state = "well"
            await asyncio.sleep(61)
            assert "degraded" not in (await w.ask()).parameters

    virtually(test)


def test_a_request_may_name_only_codecs_that_can_be() -> None:
    async def test() -> None:
        async with world(pin="cloud") as w:
            await w.until(lambda: not w.agent.plan.is_local)
            line = str((await w.ask()).parameters["plan"])
            (x,) = w.model.graph.inputs
            assert f"{x}=raw" in line
            for wrong in ("brotli", "jpeg90"):
                with pytest.raises(InvalidInput, match=wrong):
                    await w.ask(plan=line.replace("=raw", f"={wrong}"))
            lossy = line.replace("=raw", "=int8").replace("| exact |", "| fast |")
            await w.ask(plan=lossy, check=False)  # who writes it has asked for it

    virtually(test)


def test_the_first_run_of_a_plan_says_nothing_of_the_clouds_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            taught: list[float] = []
            monkeypatch.setattr(w.navigator, "observe_cloud", lambda layers, seconds: taught.append(seconds))
            for runs, plan in ((3, "cloud"), (2, "device"), (2, "cloud")):
                for _ in range(runs):
                    await w.ask(plan=plan)
            assert taught == [pytest.approx(0.001)] * 4  # of five that the cloud ran, all but its first

    virtually(test)


def test_the_predictions_of_a_batch_are_those_of_the_batch() -> None:
    async def test() -> None:
        async with world("chain", pin="cloud") as w:
            await w.until(lambda: not w.agent.plan.is_local)
            one = (await w.ask()).parameters
            (x,) = w.model.graph.inputs
            value = w.model.example[x]
            assert isinstance(value, torch.Tensor)
            deadline_s = asyncio.get_running_loop().time() + 5
            four = (await w.agent.infer(Request(NAME, {x: torch.cat([value] * 4)}, deadline_s=deadline_s))).parameters
            assert float(four["predicted_sent_bytes"]) == 4 * float(one["predicted_sent_bytes"])
            assert four["sent_bytes"] == four["predicted_sent_bytes"]
            assert float(one["predicted_s"]) < float(four["predicted_s"]) < 4 * float(one["predicted_s"])

    virtually(test)


def test_requests_that_ask_for_the_same_plan_at_once_compile_it_once() -> None:
    async def test() -> None:
        async with world() as w:
            await w.until(lambda: not w.agent.plan.is_local)
            compiled = 0

            async def later(function: Callable[[], T], /) -> T:
                nonlocal compiled
                await asyncio.sleep(0.1)
                made = function()
                compiled += isinstance(made, Pipeline)
                return made

            model = w.model
            plans = [w.agent.plan]
            courses = Courses(
                w.navigator,
                compile=lambda plan, exits: Pipeline(model, plan, [w.cloud]),
                aside=later,
                instrument=w.moments,
            )
            found = await asyncio.gather(*(courses.asked_for(plans[0]) for _ in range(20)))
            assert compiled == 1
            assert len({id(course.pipeline) for course in found}) == 1
            many = await asyncio.gather(*(courses.asked_for(plans[0]) for _ in range(100)), return_exceptions=True)
            assert any(isinstance(each, Overloaded) for each in many)

    virtually(test)
