"""Wherever a plan puts the layers, each sample is answered by the first sure exit; when time is short, by the last."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from splitnn.errors import CodecError, DeadlineExceeded
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model
from splitnn.planner.plan import Plan
from splitnn.runtime.host import ModelHost
from splitnn.runtime.pipeline import Pipeline
from splitnn.runtime.progress import Progress
from splitnn.transport.base import Answer, Probe, Request
from tests.runtime.exit_models import Cascaded, Folded, ThreeExits, batch, by_hand, captured
from tests.runtime.test_pipeline import Direct, random_plan, table_of

KINDS: dict[str, Callable[[], nn.Module]] = {"three": ThreeExits, "cascade": Cascaded, "folded": Folded}


def answer_name(model: Model) -> str:
    assert model.exits is not None
    return model.exits.exits[-1].output


def plan_of(model: Model, on_device: Sequence[str]) -> Plan:
    """These layers on the first of two hosts."""
    table, names = table_of(model, 2)
    tiers = [0 if layer.name in on_device else 1 for layer in model.graph.layers]
    return Plan.priced(model.graph, tiers, table=table, model=model.digest, hosts=names)


def up_to(model: Model, exits: int) -> list[str]:
    """The layers that the first so many exits need."""
    assert model.exits is not None
    if not exits:
        return []
    wanted = [each.output for each in model.exits.exits[:exits]]
    return [layer.name for layer in model.graph.between(model.graph.inputs, wanted)]


def in_time(model: Model, plan: Plan) -> Exits:
    """Without the exits whose answer the device would have after that of a deeper one, or that nobody asks."""
    assert model.exits is not None
    tier = {each.name: plan.tiers[plan.order.index(model.graph.producer[each.output])] for each in model.exits.exits}
    kept: list[str] = []
    for at, each in enumerate(model.exits.exits):
        deeper = [tier[other.name] for other in model.exits.exits[at + 1 :]]
        if all(tier[each.name] <= other for other in deeper):
            kept.append(each.name)
    return model.exits.only(*kept)


def is_close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """But for rounding: a batch sums up in another order, so that a row (N, classes) is as exact as its largest logit.

    A bound for each logit alone fails where large terms cancel out: of logits of 168 and -0.5 both were 2e-5 off.
    """
    scale = expected.abs().amax(1, keepdim=True)
    return bool(((found - expected).abs() <= 1e-5 * scale).all())


@pytest.mark.parametrize("hosts", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_any_plan_gives_each_sample_the_answer_of_the_first_sure_exit(kind: str, hosts: int, seed: int) -> None:
    chance = random.Random(seed)
    model = captured(KINDS[kind])
    (name,) = model.graph.inputs

    async def test() -> None:
        far = [Direct(ModelHost(model)) for _ in range(hosts - 1)]
        for _ in range(8):
            plan = random_plan(model, hosts, chance)
            pipeline = Pipeline(model, plan, far, exits=model.exits)
            usable = in_time(model, plan)
            for count in (1, 1, 1, 6):
                samples = batch(count, seed=chance.randrange(10**6))
                found = torch.as_tensor((await pipeline.run({name: samples}))[answer_name(model)])
                rows = [samples[i : i + 1] for i in range(count)]
                expected = torch.cat([by_hand(model, row, exits=usable).logits for row in rows])
                assert torch.equal(found, expected) if count == 1 else is_close(found, expected), seed
            pipeline.close()
        for each in far:
            each.host.close()

    asyncio.run(test())


@pytest.mark.parametrize("on_device", [0, 1, 2, 3])
def test_a_far_host_is_asked_for_unsure_samples_only_and_computes_nothing_again(on_device: int) -> None:
    model = captured(ThreeExits)
    (name,) = model.graph.inputs
    samples = batch(24, seed=5)
    expected = [by_hand(model, samples[i : i + 1]) for i in range(24)]
    own = {f"exit{at + 1}" for at in range(on_device)}
    left = sum(each.exit not in own for each in expected)

    async def test() -> None:
        far = Direct(ModelHost(model))
        pipeline = Pipeline(model, plan_of(model, up_to(model, on_device)), [far], exits=model.exits)
        progress = await pipeline.start({name: samples}, deadline_s=time.monotonic() + 30)
        while progress.hosts_done < 2:
            progress = await pipeline.advance(progress)
        assert progress.passage is not None
        answers = progress.passage.answers
        assert [answer.exit for answer in answers] == [each.exit for each in expected]
        assert [answer.host for answer in answers] == ["h0" if each.exit in own else "h1" for each in expected]
        assert [answer.confidence for answer in answers] == pytest.approx([each.confidence for each in expected])
        asked = [value for request in far.asked for value in request.tensors.values()]
        assert {len(value) for value in asked if isinstance(value, torch.Tensor)} == ({left} if left else set())
        for request in far.asked:
            assert not own & set(str(request.parameters["exits"]).split(","))
        pipeline.close()
        far.host.close()

    asyncio.run(test())


def test_without_exits_a_pipeline_gives_the_whole_models_outputs_although_the_server_has_exits() -> None:
    model = captured(ThreeExits)
    head = [y.name for y in model.graph.layers if y.name not in set(up_to(model, 3)) - set(up_to(model, 2))]

    async def test() -> None:
        far = Direct(ModelHost(model))
        pipeline = Pipeline(model, plan_of(model, head), [far])
        (name,) = model.graph.inputs
        for seed in range(5):
            sample = batch(1, seed=seed)
            found = await pipeline.run({name: sample})
            assert model.exits is not None
            for each in model.exits.exits:
                alone = by_hand(model, sample, exits=model.exits.only(each.name)).logits
                assert torch.equal(torch.as_tensor(found[each.output]), alone)
        pipeline.close()
        far.host.close()

    asyncio.run(test())


def unsure(model: Model) -> torch.Tensor:
    """A sample that reaches the last exit."""
    samples = batch(200, seed=0)
    last = f"exit{_exits(model)}"
    at = next(i for i in range(200) if by_hand(model, samples[i : i + 1]).exit == last)
    return samples[at : at + 1]


def _exits(model: Model) -> int:
    assert model.exits is not None
    return len(model.exits.exits)


def started(model: Model, predict: Callable[[Sequence[str]], float], *, timeout_s: float) -> Progress:
    (name,) = model.graph.inputs
    sample = unsure(model)

    async def test() -> Progress:
        plan = plan_of(model, [layer.name for layer in model.graph.layers])
        pipeline = Pipeline(model, plan, [], exits=model.exits, predict=predict)
        try:
            return await pipeline.start({name: sample}, deadline_s=time.monotonic() + timeout_s)
        finally:
            pipeline.close()

    return asyncio.run(test())


def test_a_leg_that_would_miss_the_deadline_is_not_begun_and_the_exit_before_it_answers() -> None:
    model = captured(ThreeExits)
    third = set(up_to(model, 3)) - set(up_to(model, 2))
    for too_long, exit in ((third, "exit2"), (set(up_to(model, 2)), "exit1")):
        progress = started(model, lambda layers, long=too_long: 1e3 if long & set(layers) else 0, timeout_s=60)  # type: ignore[misc]
        assert progress.is_short and progress.passage is not None
        (answer,) = progress.passage.answers
        assert answer.exit == exit and not answer.is_sure


def test_a_leg_that_takes_longer_than_was_predicted_does_not_cost_the_answer() -> None:
    model = captured(ThreeExits)
    stuck = threading.Event()

    def hangs(layers: Sequence[str]) -> float:
        stuck.wait(30)
        return 0.0

    try:
        progress = started(model, hangs, timeout_s=0.4)  # while it still hangs
    finally:
        stuck.set()
    assert progress.is_short and progress.passage is not None
    assert progress.stage_s[-1] > 0, "what the run took until it was cut short"
    assert progress.passage.answers[0].exit == "exit1"


def test_before_the_first_exit_there_is_no_answer_to_give() -> None:
    model = captured(ThreeExits)
    with pytest.raises(DeadlineExceeded):
        started(model, lambda layers: 0.0, timeout_s=0.0)


class Liar(Direct):
    """Answers for another batch."""

    async def infer(self, request: Request) -> Answer:
        answer = await super().infer(request)
        tensors = {name: torch.cat([torch.as_tensor(value)] * 2) for name, value in answer.tensors.items()}
        return Answer(tensors, parameters={"exit": "exit1"})

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        raise NotImplementedError


def test_an_answer_for_another_batch_is_refused_and_the_request_can_be_finished_here() -> None:
    model = captured(ThreeExits)
    (name,) = model.graph.inputs
    sample = unsure(model)

    async def test() -> None:
        far = Liar(ModelHost(model))
        pipeline = Pipeline(model, plan_of(model, up_to(model, 1)), [far], exits=model.exits)
        progress = await pipeline.start({name: sample}, deadline_s=time.monotonic() + 30)
        with pytest.raises(CodecError, match="another batch"):
            await pipeline.advance(progress)
        done = await pipeline.finish_here(progress)
        found = torch.as_tensor(pipeline.outputs(done)[answer_name(model)])
        assert torch.equal(found, by_hand(model, sample).logits) and not done.is_short
        pipeline.close()
        far.host.close()

    asyncio.run(test())
