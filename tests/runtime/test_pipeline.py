"""One request through one, two and three hosts is the whole model, bit for bit."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch

from splitnn.cost.estimate import CostTable, tabulate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile, Timing
from splitnn.errors import CodecError, InvalidInput, Overloaded, Unavailable
from splitnn.graph.capture import capture
from splitnn.graph.model import Model, Value
from splitnn.planner.plan import Plan
from splitnn.runtime.engine import Engine, Limits
from splitnn.runtime.host import ModelHost
from splitnn.runtime.pipeline import Pipeline
from splitnn.runtime.stage import stage
from splitnn.transport.base import Answer, Probe, Request
from splitnn.transport.local import LocalTransport
from tests.models import TINY


class Direct:
    """A transport without a wire: the far host's tensors as they are. Keeps what was asked."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host
        self.asked: list[Request] = []

    async def infer(self, request: Request) -> Answer:
        self.asked.append(request)
        return await self.host.infer(request)

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class Broken(Direct):
    async def infer(self, request: Request) -> Answer:
        raise Unavailable("cut")


@functools.cache
def model_of(name: str) -> Model:
    module, example = TINY[name]()
    return capture(module, example)


def whole(model: Model) -> dict[str, Value]:
    return stage(model, model.graph.inputs, model.graph.outputs).run(model.example)


def table_of(model: Model, hosts: int) -> tuple[CostTable, tuple[str, ...]]:
    names = tuple(f"h{i}" for i in range(hosts))
    times = {layer.name: Timing(1e-3, 1e-3) for layer in model.graph.layers}
    profiles = {name: Profile(model.digest, name, times, Timing(1, 1)) for name in names}
    topology = Topology.chain(names, ["10Mbps/20ms"] * (hosts - 1))
    return tabulate(model.graph, profiles, topology), names


def random_plan(model: Model, hosts: int, chance: random.Random) -> Plan:
    """Any closed placement: a layer runs no earlier than what it reads."""
    tiers: dict[str, int] = {}
    for layer in model.graph.layers:
        lowest = max((tiers[model.graph.producer[t]] for t in layer.inputs if t in model.graph.producer), default=0)
        tiers[layer.name] = chance.choice([lowest, lowest, lowest, chance.randint(lowest, hosts - 1)])
    table, names = table_of(model, hosts)
    return Plan.priced(model.graph, list(tiers.values()), table=table, model=model.digest, hosts=names)


def assert_equal(found: Mapping[str, Value], expected: Mapping[str, Value]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        got = found[name]
        if isinstance(value, torch.Tensor):
            assert isinstance(got, torch.Tensor)
            assert torch.equal(got, value), name
        else:
            assert got == value


@pytest.mark.parametrize("hosts", [1, 2, 3])
@pytest.mark.parametrize("name", list(TINY))
def test_any_plan_over_any_number_of_hosts_gives_the_whole_models_outputs(name: str, hosts: int, seed: int) -> None:
    chance = random.Random(seed)
    model = model_of(name)
    expected = whole(model)

    async def test() -> None:
        far = [ModelHost(model) for _ in range(hosts - 1)]
        for _ in range(4):
            pipeline = Pipeline(model, random_plan(model, hosts, chance), [Direct(host) for host in far])
            assert_equal(await pipeline.run(model.example), expected)
            pipeline.close()
        for host in far:
            host.close()

    asyncio.run(test())


@pytest.mark.parametrize("name", ["attention", "many_inputs", "integers", "masked"])
def test_the_same_holds_when_the_tensors_cross_as_messages(name: str, seed: int) -> None:
    chance = random.Random(seed)
    model = model_of(name)

    async def test() -> None:
        host = ModelHost(model)
        ways = [LocalTransport(host.infer), LocalTransport(host.infer)]
        for _ in range(4):
            pipeline = Pipeline(model, random_plan(model, 3, chance), ways)
            assert_equal(await pipeline.run(model.example), whole(model))
            pipeline.close()
        host.close()

    asyncio.run(test())


def test_a_tensor_that_a_host_does_not_read_never_visits_it() -> None:
    model = model_of("residual")
    x = model.graph.inputs[0]
    last_reader = model.graph.consumers[x][-1]
    assert len(model.graph.consumers[x]) > 1  # a skip from the input to the end
    at = model.graph.index[last_reader]
    tiers = [0 if i < 2 else 1 if i < at else 2 for i in range(len(model.graph))]
    table, names = table_of(model, 3)
    plan = Plan.priced(model.graph, tiers, table=table, model=model.digest, hosts=names)

    async def test() -> None:
        middle, last = Direct(ModelHost(model)), Direct(ModelHost(model))
        pipeline = Pipeline(model, plan, [middle, last])
        assert_equal(await pipeline.run(model.example), whole(model))
        assert x not in middle.asked[0].tensors
        assert x in last.asked[0].tensors
        assert {request.digest for request in middle.asked + last.asked} == {model.digest}

    asyncio.run(test())


def test_a_request_whose_far_host_fails_can_be_finished_here(seed: int) -> None:
    chance = random.Random(seed)
    model = model_of("branches")

    async def test() -> None:
        for _ in range(8):
            plan = random_plan(model, 3, chance)
            pipeline = Pipeline(model, plan, [Direct(ModelHost(model)), Broken(ModelHost(model))])
            progress = await pipeline.start(model.example, deadline_s=torch.inf)
            try:
                while progress.hosts_done < 3:
                    progress = await pipeline.advance(progress)
            except Unavailable:
                assert progress.hosts_done == 2
                progress = await pipeline.finish_here(progress)
            assert_equal(pipeline.outputs(progress), whole(model))
            pipeline.close()

    asyncio.run(test())


class Spoilt(Direct):
    """Answers something else than the host does."""

    def __init__(self, host: ModelHost, spoil: Callable[[str, Value], dict[str, Value]]) -> None:
        super().__init__(host)
        self._spoil = spoil

    async def infer(self, request: Request) -> Answer:
        answer = await super().infer(request)
        name, value = next(iter(answer.tensors.items()))
        return replace(answer, tensors={**answer.tensors, name: value} | self._spoil(name, value))


class Empty(Direct):
    async def infer(self, request: Request) -> Answer:
        return Answer({})


def as_tensor(value: Value) -> torch.Tensor:
    return torch.as_tensor(value)


@pytest.mark.parametrize(
    "far",
    [
        Empty,
        lambda host: Spoilt(host, lambda name, value: {name: as_tensor(value)[..., :1]}),
        lambda host: Spoilt(host, lambda name, value: {name: as_tensor(value).double()}),
        lambda host: Spoilt(host, lambda name, value: {name: torch.cat([as_tensor(value)] * 2)}),
        lambda host: Spoilt(host, lambda name, value: {name: 7}),
        lambda host: Spoilt(host, lambda name, value: {"another": value}),
    ],
    ids=["none", "shape", "dtype", "batch", "kind", "name"],
)
def test_an_answer_that_is_not_what_was_asked_for_is_refused_and_the_request_can_be_finished_here(
    far: Callable[[ModelHost], Direct],
) -> None:
    model = model_of("chain")
    table, names = table_of(model, 2)
    tiers = [0] + [1] * (len(model.graph) - 1)
    plan = Plan.priced(model.graph, tiers, table=table, model=model.digest, hosts=names)

    async def test() -> None:
        host = ModelHost(model)
        pipeline = Pipeline(model, plan, [far(host)])
        progress = await pipeline.start(model.example, deadline_s=torch.inf)
        with pytest.raises(CodecError, match="'h1'"):
            await pipeline.advance(progress)
        assert_equal(pipeline.outputs(await pipeline.finish_here(progress)), whole(model))
        pipeline.close()
        host.close()

    asyncio.run(test())


def test_what_a_request_holds_counts_for_the_engines_limit() -> None:
    model = model_of("chain")
    table, names = table_of(model, 1)
    plan = Plan.priced(model.graph, [0] * len(model.graph), table=table, model=model.digest, hosts=names)

    async def test() -> None:
        engine = Engine("small", limits=Limits(admitted_bytes=2000))
        pipeline = Pipeline(model, plan, engine=engine)
        with pytest.raises(Overloaded):
            await asyncio.gather(*(pipeline.run(model.example) for _ in range(3)))
        engine.close()

    asyncio.run(test())


def test_a_plan_with_far_layers_needs_its_transports() -> None:
    model = model_of("chain")
    table, names = table_of(model, 2)
    plan = Plan.priced(model.graph, [1] * len(model.graph), table=table, model=model.digest, hosts=names)
    with pytest.raises(ValueError, match="needs a transport a hop"):
        Pipeline(model, plan)


def test_inputs_go_by_the_models_names() -> None:
    model = model_of("chain")
    table, names = table_of(model, 1)
    plan = Plan.priced(model.graph, [0] * len(model.graph), table=table, model=model.digest, hosts=names)

    async def test() -> None:
        pipeline = Pipeline(model, plan)
        with pytest.raises(ValueError, match="inputs are"):
            await pipeline.run({"picture": torch.zeros(1)})
        pipeline.close()

    asyncio.run(test())


def test_a_host_names_the_wrong_tensor_and_what_it_expected() -> None:
    model = model_of("chain")
    (x,) = model.graph.inputs
    good = model.example[x]

    async def test() -> None:
        host = ModelHost(model)

        async def refused(tensors: Mapping[str, Value]) -> str:
            with pytest.raises(InvalidInput) as error:
                await host.infer(Request("model", tensors, deadline_s=torch.inf))
            return str(error.value)

        assert "'picture'" in await refused({"picture": good})
        assert "float64 [1, 3, 12, 12]; expected float32 [N, 3, 12, 12]" in await refused({x: good.double()})
        assert "shape [1, 5]; expected [N, 3, 12, 12]" in await refused({x: torch.zeros(1, 5)})
        assert "no cut" in await refused({})
        wide = torch.cat([good, good])
        answer = await host.infer(Request("model", {x: wide}, deadline_s=torch.inf))
        assert [len(value) for value in answer.tensors.values() if isinstance(value, torch.Tensor)] == [len(wide)]
        host.close()

    asyncio.run(test())
