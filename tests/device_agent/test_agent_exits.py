"""The agent with a model that has exits: the same answers as the rule by hand, whatever becomes of cloud and deadline.

All time is virtual. A layer takes 50 ms on the device, and the engine takes a whole stage's time before its first exit.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import torch

from device_agent.audit import AuditPolicy
from device_agent.patience import Patience
from splitnn.cost.cost import Cost
from splitnn.cost.network import Topology
from splitnn.errors import DeadlineExceeded, InvalidInput
from splitnn.graph.exits import Tally
from splitnn.graph.model import Model
from splitnn.planner.exits import plan_exits
from splitnn.planner.plan import Plan
from splitnn.runtime.exits import confidences, exits_asked_for
from splitnn.runtime.replan import Conditions, decide, reprice
from splitnn.runtime.stage import stage
from splitnn.transport.base import Answer, ExitsAudited, Request
from tests.device_agent.fake_cloud import NAME, State
from tests.device_agent.test_agent import World, profile, virtually, world
from tests.runtime.exit_models import Cascaded, ThreeExits, batch, by_hand, captured


def exit_world(test: Callable[[World], Awaitable[None]], *, model: Model | None = None, **options: object) -> None:
    async def run() -> None:
        async with world(model=model or captured(ThreeExits), **options) as w:  # type: ignore[arg-type]
            await test(w)

    virtually(run)


def cut_behind(model: Model, exits: int) -> str:
    """The line of a plan with these exits on the device."""
    return str(head_plan(model, exits))


def head_plan(model: Model, exits: int) -> Plan:
    assert model.exits is not None
    wanted = [each.output for each in model.exits.exits[:exits]]
    on_device = {layer.name for layer in model.graph.between(model.graph.inputs, wanted)} if exits else set()
    crossing = model.graph.crossing(on_device)
    tiers = tuple(0 if layer.name in on_device else 1 for layer in model.graph.layers)
    return Plan(
        model.digest,
        ("device", "cloud"),
        tuple(layer.name for layer in model.graph.layers),
        tiers,
        (dict.fromkeys(crossing, "raw"),),
        Cost(10**9, (0.0, 0.0), (), 0.0, 0.0),
    )


async def ask(w: World, samples: torch.Tensor, *, timeout_s: float = 5.0, **parameters: str) -> Answer:
    now = asyncio.get_running_loop().time
    (name,) = w.model.graph.inputs
    request = Request(NAME, {name: samples}, deadline_s=now() + timeout_s, request_id="r", parameters=parameters)
    answer = await w.agent.infer(request)
    assert now() <= request.deadline_s
    return answer


def logits(w: World, answer: Answer) -> torch.Tensor:
    assert w.model.exits is not None
    (name,) = answer.tensors
    assert name == w.model.exits.exits[-1].output
    return torch.as_tensor(answer.tensors[name])


def kind_of(model: Model, exit: str) -> torch.Tensor:
    """A sample that leaves there."""
    samples = batch(300, seed=1)
    return next(samples[i : i + 1] for i in range(300) if by_hand(model, samples[i : i + 1]).exit == exit)


@pytest.mark.parametrize("on_device", [0, 1, 2, 3])
def test_each_sample_is_answered_by_its_first_sure_exit_wherever_the_cut_is(on_device: int) -> None:
    async def test(w: World) -> None:
        await w.until(lambda: w.cloud.is_up, ask=False)
        line = cut_behind(w.model, on_device)
        w.far.asked = 0
        for sample in batch(12, seed=3).split(1):
            expected = by_hand(w.model, sample)
            before = w.far.asked
            answer = await ask(w, sample, plan=line)
            here = expected.exit in {f"exit{at + 1}" for at in range(on_device)}
            assert w.far.asked == before + (not here)
            assert answer.parameters["answered_by"] == ("device" if here else "cloud")
            if here or expected.exit == "exit3":  # the fake cloud has no exits of its own: it answers with the last
                assert answer.parameters["exit"] == expected.exit
                assert torch.equal(logits(w, answer), expected.logits)
                assert answer.parameters["confidence"] == pytest.approx(expected.confidence)
            assert "degraded" not in answer.parameters

    exit_world(test)


def test_a_dead_cloud_costs_no_accuracy_where_there_is_time() -> None:
    async def test(w: World) -> None:
        for sample in batch(8, seed=5).split(1):
            expected = by_hand(w.model, sample)
            answer = await ask(w, sample)
            assert answer.parameters["exit"] == expected.exit and answer.parameters["answered_by"] == "device"
            assert torch.equal(logits(w, answer), expected.logits)
            assert "degraded" in answer.parameters

    exit_world(test, state="dead")


def test_when_the_link_dies_the_device_goes_on_where_it_stands() -> None:
    """With time the whole model answers, without time the last exit that was passed, marked as such."""

    async def test(w: World) -> None:
        await w.until(lambda: w.cloud.is_up, ask=False)
        line, sample = cut_behind(w.model, 1), kind_of(w.model, "exit3")
        w.far.state = "black hole"
        answer = await ask(w, sample, timeout_s=30, plan=line)
        assert answer.parameters["exit"] == "exit3" and answer.parameters["answered_by"] == "device"
        assert "no answer from the cloud" in str(answer.parameters["degraded"])
        assert torch.equal(logits(w, answer), by_hand(w.model, sample).logits)
        assert not w.cloud.is_up

    exit_world(test)


def test_when_nothing_further_meets_the_deadline_the_last_exit_that_was_passed_answers() -> None:
    async def test(w: World) -> None:
        await w.until(lambda: w.cloud.is_up, ask=False)
        model = w.model
        assert model.exits is not None
        line, sample = cut_behind(model, 1), kind_of(model, "exit3")
        head_s = 0.05 * len(model.graph.between(model.graph.inputs, [model.exits.exits[0].output]))
        w.far.state = "black hole"
        answer = await ask(w, sample, timeout_s=head_s + 0.2, plan=line)
        assert answer.parameters["exit"] == "exit1"
        assert "unsure" in str(answer.parameters["degraded"])
        assert torch.equal(logits(w, answer), by_hand(model, sample, exits=model.exits.only("exit1")).logits)
        assert w.moments.degradations

    exit_world(test)


def test_a_deadline_before_the_first_exit_is_missed_with_a_clear_error() -> None:
    async def test(w: World) -> None:
        with pytest.raises(DeadlineExceeded):
            await ask(w, kind_of(w.model, "exit1"), timeout_s=0.0)

    exit_world(test)


def test_every_request_gets_an_answer_of_an_exit_under_random_failures(seed: int) -> None:
    chance = random.Random(seed)
    states: list[State] = ["well", "well", "dead", "black hole", "overloaded", "loading"]

    async def test(w: World) -> None:
        assert w.model.exits is not None
        w.far.fault = lambda: chance.choice(states)
        lines = [cut_behind(w.model, exits) for exits in (0, 1, 2)]
        for _ in range(60):
            sample = batch(1, seed=chance.randrange(10**6))
            answer = await ask(w, sample, timeout_s=chance.uniform(1.5, 6), plan=chance.choice(lines))
            named = str(answer.parameters["exit"])
            assert torch.equal(logits(w, answer), by_hand(w.model, sample, exits=w.model.exits.only(named)).logits)
            expected = by_hand(w.model, sample).exit
            assert named >= expected or "unsure" in str(answer.parameters["degraded"])
            await asyncio.sleep(chance.uniform(0, 1))

    exit_world(test)


def test_a_request_may_ask_for_the_whole_model_for_one_exit_or_for_all_outputs() -> None:
    async def test(w: World) -> None:
        model = w.model
        assert model.exits is not None
        sample = kind_of(model, "exit1")
        (name,) = model.graph.inputs
        for asked, exit in (("none", "exit3"), ("exit2", "exit2"), ("exit1,exit3", "exit1")):
            answer = await ask(w, sample, exits=asked, plan="device")
            assert answer.parameters["exit"] == exit
            assert torch.equal(logits(w, answer), by_hand(model, sample, exits=model.exits.only(exit)).logits)
        deadline_s = asyncio.get_running_loop().time() + 5
        whole = await w.agent.infer(Request(NAME, {name: sample}, deadline_s, wanted=model.graph.outputs))
        assert set(whole.tensors) == set(model.graph.outputs) and "exit" not in whole.parameters
        with pytest.raises(InvalidInput, match="no exit is called 'exit9'"):
            await ask(w, sample, exits="exit9")

    exit_world(test)


def test_a_model_without_exits_refuses_to_be_asked_for_them() -> None:
    async def test() -> None:
        async with world() as w:
            deadline_s = asyncio.get_running_loop().time() + 5
            with pytest.raises(InvalidInput, match="has no exits"):
                await w.agent.infer(
                    Request(NAME, w.model.example, deadline_s=deadline_s, parameters={"exits": "exit1"})
                )

    virtually(test)


def test_samples_of_a_batch_leave_one_by_one() -> None:
    async def test(w: World) -> None:
        await w.until(lambda: w.cloud.is_up, ask=False)
        samples = torch.cat([kind_of(w.model, f"exit{exit}") for exit in (3, 1, 2, 1)])
        answer = await ask(w, samples, plan=cut_behind(w.model, 2))
        assert answer.parameters["exit"] == "exit3,exit1,exit2,exit1"
        assert answer.parameters["answered_by"] == "cloud,device"
        expected = torch.cat([by_hand(w.model, samples[i : i + 1]).logits for i in range(4)])
        torch.testing.assert_close(logits(w, answer), expected)

    exit_world(test)


@pytest.mark.parametrize("kind", [ThreeExits, Cascaded])
def test_sure_answers_are_checked_in_the_background_and_the_finding_is_told(
    kind: Callable[[], torch.nn.Module],
) -> None:
    model = captured(kind)

    async def test(w: World) -> None:
        assert model.exits is not None
        checking = asyncio.create_task(w.agent.audit.run())
        await w.until(lambda: w.cloud.is_up, ask=False)
        agreed = checked = 0
        for sample in batch(25, seed=2).split(1):
            before = w.far.asked
            expected = by_hand(model, sample)
            answer = await ask(w, sample, plan=cut_behind(model, 1))
            assert w.far.asked == before + (expected.exit != "exit1"), "a check never comes before the answer"
            await asyncio.sleep(5)
            if expected.exit == "exit1":
                last = by_hand(model, sample, exits=model.exits.only(model.exits.exits[-1].name))
                checked, agreed = checked + 1, agreed + bool(last.logits.argmax() == expected.logits.argmax())
        assert 0 < agreed < checked or kind is Cascaded
        assert (w.agent.audit.agreement.checked, w.agent.audit.agreement.agreed) == (checked, agreed)
        told = (await w.agent.report(NAME)).exits
        assert told == ExitsAudited(answered=checked, checked=checked, agreed=agreed)
        assert told.share == 1.0 and told.agreement == pytest.approx(agreed / checked)
        answer = await ask(w, batch(1, seed=2))
        assert answer.parameters["audited"] == checked
        assert answer.parameters["agreement"] == pytest.approx(agreed / checked)
        checking.cancel()

    exit_world(test, model=model, audit=AuditPolicy(share=1.0))


@pytest.mark.parametrize("on_device", [0, 1])
def test_answers_of_exits_on_the_server_are_checked_too(on_device: int) -> None:
    model = captured(ThreeExits)

    async def test(w: World) -> None:
        assert model.exits is not None
        whole, last = w.far.infer, model.exits.exits[-1]

        async def from_exits(request: Request) -> Answer:
            """As a server answers that has the model's exits."""
            answer = await whole(request)
            if (asked := str(request.parameters.get("exits", "all"))) == "none":
                return answer
            for each in exits_asked_for(model.exits, asked).exits:  # type: ignore[arg-type]
                made = stage(model, tuple(request.tensors), (each.output,)).run(request.tensors)
                said = torch.as_tensor(made[each.output])
                if confidences(said, each.temperature).item() >= each.threshold:
                    return replace(answer, tensors={last.output: said}, parameters={"exit": each.name})
            raise AssertionError("the last exit answers always")

        w.far.infer = from_exits  # type: ignore[method-assign]
        checking = asyncio.create_task(w.agent.audit.run())
        await w.until(lambda: w.cloud.is_up, ask=False)
        by_server = agreed = checked = 0
        many = batch(1000, seed=1).split(1)
        some = [[each for each in many if by_hand(model, each).exit == f"exit{exit}"][:8] for exit in (1, 2, 3)]
        for sample in itertools.chain(*some):
            expected = by_hand(model, sample)
            answer = await ask(w, sample, plan=cut_behind(model, on_device))
            assert answer.parameters["exit"] == expected.exit
            await asyncio.sleep(5)
            if expected.exit != last.name:
                right = by_hand(model, sample, exits=model.exits.only(last.name)).logits.argmax()
                checked, agreed = checked + 1, agreed + bool(right == expected.logits.argmax())
                by_server += answer.parameters["answered_by"] == "cloud"
        assert by_server > 2 and 0 < agreed < checked
        assert (await w.agent.report(NAME)).exits == ExitsAudited(answered=checked, checked=checked, agreed=agreed)
        checking.cancel()

    exit_world(test, model=model, audit=AuditPolicy(share=1.0))


def test_nothing_is_checked_where_the_share_is_nothing_or_the_whole_model_answered() -> None:
    async def test(w: World) -> None:
        checking = asyncio.create_task(w.agent.audit.run())
        await w.until(lambda: w.cloud.is_up, ask=False)
        await ask(w, kind_of(w.model, "exit3"), plan="device")
        await asyncio.sleep(5)
        assert w.far.asked == 0 and w.agent.audit.agreement.checked == 0
        assert (await w.agent.report(NAME)).exits == ExitsAudited(0, 0, 0)
        checking.cancel()

    for share in (0.0, 1.0):
        exit_world(test, audit=AuditPolicy(share=share))


def test_an_exit_that_can_answer_leaves_the_cloud_more_time(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(1000):
        remote_s, local_s = chance.uniform(0, 5), chance.uniform(0, 10)
        answer_s = chance.choice([0.0, chance.uniform(0, 1) * local_s])
        times = {"now_s": 100.0, "deadline_s": 100 + chance.uniform(0, 15), "remote_s": remote_s, "local_s": local_s}
        until_s = Patience().until_answered_s(**times, answer_s=answer_s)
        alone_s = Patience().until_s(**times)
        if until_s is None:
            continue
        assert 100 < until_s <= times["deadline_s"]
        if 100 + answer_s <= times["deadline_s"]:
            assert until_s + answer_s <= times["deadline_s"], "whoever waits can still be answered"
        else:
            assert until_s == times["deadline_s"], "nobody but the cloud can answer: it gets all the time"
        assert alone_s is None or until_s <= alone_s


def test_the_plan_is_the_one_with_the_lowest_mean_and_priced_for_a_request_that_goes_all_the_way() -> None:
    """With exits that nearly all samples leave at, the first one is worth its layers on the device."""
    model = captured(ThreeExits)
    assert model.exits is not None
    early = (Tally((True, True, True), (True,) * 3, 95), Tally((False, False, True), (True,) * 3, 5))
    exits = replace(model.exits, tallies=early)
    profiles = {"device": profile(model, "device", 0.004), "cloud": profile(model, "cloud", 0.001)}
    now = Conditions(profiles, Topology.chain(["device", "cloud"], ["10Mbps/20ms"]))
    whole = head_plan(model, 0)
    decision = decide(whole, model.graph, now, held_s=100.0, exits=exits)
    assert decision.is_change and decision.plan.layers[0]
    assert decision.plan.id == plan_exits(model.graph, profiles, now.topology, exits=exits).id
    assert decision.plan.predicted == reprice(decision.plan, model.graph, now).predicted
