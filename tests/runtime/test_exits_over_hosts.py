"""Exits on a chain of hosts: answers of random models, what crosses each hop, and the same where a host fails."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from splitnn.cost.expected import Shares, deciding_tiers
from splitnn.errors import Unavailable
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model
from splitnn.planner.plan import Plan
from splitnn.runtime.host import ModelHost
from splitnn.runtime.pipeline import Pipeline
from splitnn.runtime.progress import Progress
from splitnn.transport.base import Answer, Request
from tests.runtime.exit_models import ThreeExits, batch, by_hand, captured, with_exits
from tests.runtime.test_past_exits import KINDS, answer_name, in_time, is_close, unsure
from tests.runtime.test_pipeline import Direct, random_plan, table_of
from tests.transport.test_every_cut_over_grpc import far_host


class Grown(nn.Module):
    """A random net: layers read any that came before, logits among them; some are one half of a split."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.heads = nn.ModuleList()
        self.mixed = nn.ModuleList()
        self.read: list[list[int]] = []
        self.at: list[int] = []
        widths = [6]
        for node in range(chance.randint(2, 5)):
            read = sorted(chance.sample(range(len(widths)), chance.randint(1, min(3, len(widths)))))
            self.read.append(read)
            self.mixed.append(nn.Linear(sum(widths[at] for at in read), 6))
            widths += [3, 3]  # both halves
            if chance.random() < 0.7 or node == 1:
                self.heads.append(nn.Linear(3, 4))
                self.at.append(len(widths) - chance.randint(1, 2))
                widths.append(4)
            else:
                self.heads.append(nn.Identity())
                self.at.append(-1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made, logits = [x], []
        for mixed, read, head, at in zip(self.mixed, self.read, self.heads, self.at, strict=True):
            made += mixed(torch.cat([made[each] for each in read], 1)).tanh().split(3, 1)
            if at >= 0:
                logits.append(head(made[at]) * 5)
                made.append(logits[-1])
        return tuple(logits)


@functools.cache
def grown(seed: int) -> Model:
    """A random model; its exits are in any order, and only some of its outputs."""
    chance = random.Random(seed)
    model = with_exits(Grown(chance), thresholds=tuple(chance.choice((0.4, 0.6, 0.9)) for _ in range(5)))
    assert model.exits is not None
    names = [each.name for each in model.exits.exits]
    exits = model.exits.only(*chance.sample(names, chance.randint(1, len(names))))
    order = chance.sample(exits.exits, len(exits.exits))
    thresholds = [*(each.threshold or 0.5 for each in order[:-1]), 0.0]
    order = [replace(each, threshold=threshold) for each, threshold in zip(order, thresholds, strict=True)]
    return replace(model, exits=replace(exits, exits=tuple(order)))


async def run(pipeline: Pipeline, samples: Tensor, *, hosts: int, name: str) -> Progress:
    progress = await pipeline.start({name: samples}, deadline_s=time.monotonic() + 30)
    while progress.hosts_done < hosts:
        progress = await pipeline.advance(progress)
    return progress


@pytest.mark.parametrize("hosts", [2, 3, 4])
def test_random_models_answer_from_the_first_sure_exit_on_any_hosts(hosts: int, seed: int) -> None:
    chance = random.Random(seed)
    model = grown(seed)
    (name,) = model.graph.inputs

    async def test() -> None:
        far = [Direct(ModelHost(model)) for _ in range(hosts - 1)]
        for _ in range(8):
            plan = random_plan(model, hosts, chance)
            pipeline = Pipeline(model, plan, far, exits=model.exits)
            usable = in_time(model, plan)
            for count in (1, 1, 5):
                samples = batch(count, seed=chance.randrange(10**6))
                progress = await run(pipeline, samples, hosts=hosts, name=name)
                found = torch.as_tensor(pipeline.outputs(progress)[answer_name(model)])
                expected = [by_hand(model, samples[i : i + 1], exits=usable) for i in range(count)]
                logits = torch.cat([each.logits for each in expected])
                assert torch.equal(found, logits) if count == 1 else is_close(found, logits)
                assert progress.passage is not None and not progress.is_short
                assert [answer.exit for answer in progress.passage.answers] == [each.exit for each in expected]
                assert len(progress.answers) <= sum(len(layers) > 0 for layers in plan.layers[1:])
            pipeline.close()
        for each in far:
            each.host.close()

    asyncio.run(test())


def made_on(model: Model, plan: Plan, tensor: str) -> int:
    tiers = dict(zip(plan.order, plan.tiers, strict=True))
    return tiers[model.graph.producer[tensor]] if tensor in model.graph.producer else 0


def crossed(model: Model, plan: Plan, asked: Sequence[Sequence[Request]]) -> list[dict[str, int]]:
    """[hop]: the bytes of each tensor that would have crossed it on the way from its maker to all that were sent it."""
    hops: list[dict[str, int]] = [{} for _ in asked]
    for host, requests in enumerate(asked, start=1):
        for request in requests:
            for tensor, value in request.tensors.items():
                assert isinstance(value, torch.Tensor)
                for hop in range(made_on(model, plan, tensor), host):
                    hops[hop][tensor] = value.nbytes
    return hops


@pytest.mark.parametrize("hosts", [2, 3, 4])
@pytest.mark.parametrize("kind", [*KINDS, "grown"])
def test_what_crosses_each_hop_is_what_the_planner_prices(kind: str, hosts: int, seed: int) -> None:
    """The mean over samples of the bytes that are sent, tensor by tensor; each sample fills a batch as it is priced.

    Priced is a chain that sends on at once all that hosts further on will read. Here a host further on is sent it when
    it is asked: for fewer samples where an exit lies between. With two hosts it is the same.
    """
    chance = random.Random(seed)
    model = grown(seed) if kind == "grown" else captured(KINDS[kind])
    (name,) = model.graph.inputs
    samples = batch(12, seed=chance.randrange(10**6))

    def outcomes(exits: Exits) -> Exits:
        rows = [samples[i : i + 1] for i in range(len(samples))]
        taken = [by_hand(model, row, exits=exits).exit for row in rows]
        names = [each.name for each in exits.exits]
        flags = [[at == names.index(exit) for at in range(len(names))] for exit in taken]
        return Exits.counted(exits.exits, [(sure, sure) for sure in flags], against="model", data="these")

    async def test() -> None:
        for _ in range(4):
            plan = random_plan(model, hosts, chance)
            policy = outcomes(in_time(model, plan))
            placed = dict(zip(plan.order, plan.tiers, strict=True))
            table, _ = table_of(model, hosts)
            tiers = deciding_tiers(model.graph, policy, placed)
            shares = Shares.of(model.graph, policy, tiers, hosts=hosts)
            cost = shares.price(placed, table)
            priced = {(each.hop, each.tensor): each.size_bytes for each in cost.transfers if each.size_bytes}
            expected = {}
            for hop, tensor in priced:
                readers = [placed[layer] for layer in shares.graph.consumers[tensor]]
                reached_by = shares.hops[min(tier for tier in readers if tier > hop) - 1]
                mean = round(model.graph.tensors[tensor].size_bytes * reached_by / len(samples))
                assert mean <= priced[hop, tensor]
                assert mean == priced[hop, tensor] or hop + 1 not in readers
                expected.update({(hop, tensor): mean} if mean else {})
            far = [Direct(ModelHost(model)) for _ in range(hosts - 1)]
            pipeline = Pipeline(model, plan, far, exits=policy)
            total: dict[tuple[int, str], int] = {}
            came = 0
            for row in samples.split(1):
                for each in far:
                    each.asked.clear()
                progress = await run(pipeline, torch.cat([row] * model.graph.batch), hosts=hosts, name=name)
                came += sum(torch.as_tensor(v).nbytes for each in progress.answers for v in each.tensors.values())
                for hop, tensors in enumerate(crossed(model, plan, [each.asked for each in far])):
                    for tensor, size_bytes in tensors.items():
                        total[hop, tensor] = total.get((hop, tensor), 0) + size_bytes
            means = {key: round(size_bytes / len(samples)) for key, size_bytes in total.items()}
            assert means == expected, plan
            assert hosts > 2 or means == priced
            answered = sum(each.size_bytes for each in cost.downloads)
            assert hosts > 2 or abs(came / len(samples) - answered) <= len(policy.exits) / 2  # each is rounded
            pipeline.close()
            for each in far:
                each.host.close()

    asyncio.run(test())


class Failing(Direct):
    """Answers so often, and then no more."""

    def __init__(self, host: ModelHost, *, answers: int) -> None:
        super().__init__(host)
        self._left = answers

    async def infer(self, request: Request) -> Answer:
        self._left -= 1
        if self._left < 0:
            raise Unavailable("cut")
        return await super().infer(request)


@pytest.mark.parametrize("answers", [0, 1, 2])
def test_whichever_host_fails_the_request_is_finished_here_with_the_same_answer(answers: int, seed: int) -> None:
    chance = random.Random(seed)
    model = captured(ThreeExits)
    (name,) = model.graph.inputs

    async def test() -> None:
        host = ModelHost(model)
        for _ in range(8):
            plan = random_plan(model, 4, chance)
            usable = in_time(model, plan)
            samples = batch(1, seed=chance.randrange(10**6))
            chain = Failing(host, answers=answers)
            pipeline = Pipeline(model, plan, [chain] * 3, exits=model.exits)
            progress = await pipeline.start({name: samples}, deadline_s=time.monotonic() + 30)
            while progress.hosts_done < 4:
                try:
                    progress = await pipeline.advance(progress)
                except Unavailable:
                    progress = await pipeline.finish_here(progress)
            found = torch.as_tensor(pipeline.outputs(progress)[answer_name(model)])
            assert torch.equal(found, by_hand(model, samples, exits=usable).logits) and not progress.is_short
            pipeline.close()
        host.close()

    asyncio.run(test())


def test_where_an_exit_of_a_host_between_is_sure_no_further_host_is_asked() -> None:
    model = captured(ThreeExits)
    assert model.exits is not None
    (name,) = model.graph.inputs
    up_to = [{y.name for y in model.graph.between(model.graph.inputs, [e.output])} for e in model.exits.exits]
    tiers = [next(at for at, needed in enumerate(up_to) if layer.name in needed) for layer in model.graph.layers]
    table, names = table_of(model, 3)
    plan = Plan.priced(model.graph, tiers, table=table, model=model.digest, hosts=names)
    hosts_asked = {"exit1": (0, 0), "exit2": (1, 0), "exit3": (1, 1)}

    async def test() -> None:
        far = [Direct(ModelHost(model)) for _ in range(2)]
        pipeline = Pipeline(model, plan, far, exits=model.exits)
        seen = list[str]()
        samples = torch.cat([batch(30, seed=0), unsure(model)])
        for row in samples.split(1):
            for each in far:
                each.asked.clear()
            progress = await run(pipeline, row, hosts=3, name=name)
            assert progress.passage is not None
            (answer,) = progress.passage.answers
            assert answer.exit == by_hand(model, row).exit
            assert answer.host == f"h{int(answer.exit[-1]) - 1}"
            assert tuple(len(each.asked) for each in far) == hosts_asked[answer.exit]
            seen.append(answer.exit)
        assert set(seen) == hosts_asked.keys()
        await run(pipeline, samples, hosts=3, name=name)
        rows = [{len(torch.as_tensor(value)) for value in each.asked[-1].tensors.values()} for each in far]
        assert rows == [{len(seen) - seen.count("exit1")}, {seen.count("exit3")}]
        pipeline.close()
        for each in far:
            each.host.close()

    asyncio.run(test())


def test_three_hosts_over_real_sockets_answer_as_the_rule_by_hand_says(seed: int) -> None:
    chance = random.Random(seed)
    model = captured(ThreeExits)
    (name,) = model.graph.inputs

    async def test() -> None:
        async with far_host(model) as middle, far_host(model) as last:
            for _ in range(4):
                plan = random_plan(model, 3, chance)
                usable = in_time(model, plan)
                pipeline = Pipeline(model, plan, [middle, last], exits=model.exits)
                for row in batch(6, seed=chance.randrange(10**6)).split(1):
                    found = torch.as_tensor((await pipeline.run({name: row}))[answer_name(model)])
                    assert torch.equal(found, by_hand(model, row, exits=usable).logits)
                pipeline.close()

    asyncio.run(test())
