"""The service answers any cut with the whole model's bits, and every wrong request with the right words."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from cloud_server.models import Loaded
from cloud_server.service import CloudService
from splitnn.cost.profile import Profile, Timing
from splitnn.errors import (
    DeadlineExceeded,
    DigestMismatch,
    InvalidInput,
    Overloaded,
    PackageError,
    PayloadTooLarge,
    Unavailable,
    UnknownModel,
)
from splitnn.graph.capture import capture
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model, Value
from splitnn.runtime.engine import Engine, Limits
from splitnn.runtime.stage import Stage, stage
from splitnn.runtime.stages import run_request
from splitnn.transport.base import Announcement, Request
from tests.models import TINY

FAR_S = 60.0


@cache
def model_of(name: str) -> Model:
    return capture(*TINY[name]())


def profile_of(model: Model) -> Profile:
    layers = {layer.name: Timing(1e-3, 1e-3) for layer in model.graph.layers}
    return Profile(model.digest, "cloud", layers, whole=Timing(1e-3 * len(layers), 1e-3 * len(layers)))


def play(scenario: Callable[[CloudService], Awaitable[None]], *loaded: Loaded, **options: Any) -> None:
    """Run the scenario against a service that is open."""

    async def main() -> None:
        engine = Engine()
        service = CloudService(engine, **options)
        for each in loaded:
            service.add(each)
        service.open()
        try:
            await asyncio.wait_for(scenario(service), FAR_S)
        finally:
            engine.close()

    asyncio.run(main())


def request(model: str, tensors: Mapping[str, Value], **more: Any) -> Request:
    return Request(**{"model": model, "tensors": tensors, "deadline_s": time.monotonic() + FAR_S, **more})


def prefixes(graph: Graph) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """For every prefix of the layers: the tensors that cross, and the outputs that are still to be made."""
    for count in range(len(graph.layers) + 1):
        head = [layer.name for layer in graph.layers[:count]]
        made = {tensor for name in head for tensor in graph.layer(name).outputs} | set(graph.inputs)
        if wanted := tuple(t for t in dict.fromkeys(graph.outputs) if t not in made):
            yield graph.crossing(head), wanted


@pytest.mark.parametrize("name", ["chain", "residual", "many_inputs", "attention", "several_results", "tied", "masked"])
def test_every_prefix_cut_is_answered_with_the_bits_of_the_whole_model(name: str) -> None:
    model = model_of(name)
    whole = stage(model, model.graph.inputs, model.graph.tensors).run(model.example)

    async def scenario(service: CloudService) -> None:
        for crossing, wanted in prefixes(model.graph):
            cut = {tensor: whole[tensor] for tensor in crossing}
            answer = await service.infer(request(name, cut, wanted=wanted, digest=model.digest))
            assert list(answer.tensors) == list(wanted)
            for tensor, value in answer.tensors.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(whole[tensor])), (crossing, tensor)

    play(scenario, Loaded(name, "1", model))


def test_the_models_inputs_and_no_wish_mean_the_whole_model() -> None:
    model = model_of("many_inputs")

    async def scenario(service: CloudService) -> None:
        answer = await service.infer(request("m", model.example))
        assert list(answer.tensors) == list(dict.fromkeys(model.graph.outputs))
        assert answer.version == "1"
        assert answer.timings.compute_s > 0

    play(scenario, Loaded("m", "1", model))


def test_a_batch_is_answered_row_by_row() -> None:
    model = model_of("chain")
    (x,), (y,) = model.graph.inputs, model.graph.outputs
    rows = torch.randn(5, *model.example[x].shape[1:])

    async def scenario(service: CloudService) -> None:
        together = (await service.infer(request("m", {x: rows}))).tensors[y]
        assert isinstance(together, torch.Tensor)
        for row, got in zip(rows, together, strict=True):
            alone = (await service.infer(request("m", {x: row[None]}))).tensors[y]
            torch.testing.assert_close(got[None], alone, rtol=1e-5, atol=1e-6)

    play(scenario, Loaded("m", "1", model))


def test_nan_passes_through() -> None:
    model = model_of("residual")
    (x,), (y,) = model.graph.inputs, model.graph.outputs

    async def scenario(service: CloudService) -> None:
        answer = await service.infer(request("m", {x: torch.full_like(model.example[x], torch.nan)}))
        assert torch.as_tensor(answer.tensors[y]).isnan().all()

    play(scenario, Loaded("m", "1", model))


def test_each_wrong_request_is_told_what_came_and_what_was_expected_and_the_next_good_one_works() -> None:
    chain, tied = model_of("chain"), model_of("tied")
    (x,), (ids,) = chain.graph.inputs, tied.graph.inputs
    good = chain.example[x]
    inner = chain.graph.layers[0].outputs[0]
    inner_value = stage(chain, [x], [inner]).run(chain.example)[inner]
    wrong: list[tuple[Request, type[Exception], list[str]]] = [
        (request("chian", {x: good}), UnknownModel, ["'chian'", "chain, tied"]),
        (request("chain", {x: good}, version="7"), UnknownModel, ["'7'", "'chain'", "there is 1"]),
        (request("chain", {x: good}, digest=tied.digest), DigestMismatch, [tied.digest[:12], chain.digest[:12]]),
        (request("chain", {"picture": good}), InvalidInput, ["'picture'", f"'{x}'"]),
        (request("chain", {x: good.double()}), InvalidInput, [f"'{x}'", "float64", "float32 [N, 3, 12, 12]"]),
        (request("chain", {x: good[:, :2]}), InvalidInput, [f"'{x}'", "[1, 2, 12, 12]", "[N, 3, 12, 12]"]),
        (request("chain", {}), InvalidInput, ["no cut", f"'{x}' is needed"]),
        (request("chain", {x: good, inner: inner_value}), InvalidInput, ["no cut", f"'{x}'", "not needed"]),
        (request("chain", {x: good}, wanted=("label",)), InvalidInput, ["'label'"]),
        (request("tied", {ids: torch.full((1, 7), 99)}), InvalidInput, [f"'{ids}'", "index out of range"]),
    ]

    async def scenario(service: CloudService) -> None:
        for bad, kind, words in wrong:
            with pytest.raises(kind) as refusal:
                await service.infer(bad)
            for word in words:
                assert word in str(refusal.value)
            assert (await service.infer(request("chain", {x: good}))).tensors

    play(scenario, Loaded("chain", "1", chain), Loaded("tied", "1", tied))


def test_the_newest_version_answers_unless_another_is_named() -> None:
    two, ten = model_of("chain"), model_of("residual")

    async def scenario(service: CloudService) -> None:
        description = await service.describe("m")
        assert (description.digest, description.versions) == (ten.digest, ("2", "10"))
        assert (await service.describe("m", "2")).digest == two.digest
        assert (await service.infer(request("m", ten.example))).version == "10"
        assert (await service.infer(request("m", two.example, version="2"))).version == "2"
        assert [service.is_ready(*key) for key in ((), ("m",), ("m", "2"), ("m", "3"), ("n",))] == [1, 1, 1, 0, 0]
        with pytest.raises(UnknownModel):
            await service.describe("n")

    play(scenario, Loaded("m", "10", ten), Loaded("m", "2", two))


class Busy:
    """An engine whose thread is held up until ``release``."""

    def __init__(self, service: CloudService, engine: Engine) -> None:
        self._opened = threading.Event()
        self._task = asyncio.create_task(engine.run(lambda: self._opened.wait(FAR_S), deadline_s=torch.inf))

    async def release(self) -> None:
        self._opened.set()
        await self._task


def with_busy_engine(
    scenario: Callable[[CloudService, Engine, Busy, list[str]], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    limits: Limits | None = None,
) -> None:
    """Run a scenario whose requests wait; the list tells which stages ran."""
    ran: list[str] = []

    def recording(part: Stage, tensors: Mapping[str, Value]) -> dict[str, Value]:
        ran.append(part.host)
        return run_request(part, tensors)

    monkeypatch.setattr("splitnn.runtime.host.run_request", recording)

    async def main() -> None:
        engine = Engine(limits=limits)
        service = CloudService(engine)
        service.add(Loaded("m", "1", model_of("chain")))
        service.open()
        busy = Busy(service, engine)
        while engine.waiting or not engine.utilisation():
            await asyncio.sleep(0)
        await scenario(service, engine, busy, ran)
        await busy.release()
        engine.close()

    asyncio.run(asyncio.wait_for(main(), FAR_S))


async def queued(service: CloudService, engine: Engine, **more: Any) -> asyncio.Task[Any]:
    before = engine.waiting
    task = asyncio.create_task(service.infer(request("m", model_of("chain").example, **more)))
    while engine.waiting == before:
        await asyncio.sleep(0)
    return task


def test_cancelled_and_expired_requests_are_never_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(service: CloudService, engine: Engine, busy: Busy, ran: list[str]) -> None:
        cancelled = await queued(service, engine)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        expired = await queued(service, engine, deadline_s=time.monotonic() + 0.05)
        with pytest.raises(DeadlineExceeded):
            await expired
        good = await queued(service, engine)
        await busy.release()
        assert (await good).tensors
        assert len(ran) == 1

    with_busy_engine(scenario, monkeypatch)


def test_of_a_storm_of_requests_those_that_stay_are_answered_and_nothing_else_runs(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)

    async def scenario(service: CloudService, engine: Engine, busy: Busy, ran: list[str]) -> None:
        requests = [await queued(service, engine) for _ in range(60)]
        leaving = dice.sample(requests, 40)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        assert (await service.report("m")).queue_length == 20
        await busy.release()
        (expected,) = stage_of_whole().values()
        for task in set(requests) - set(leaving):
            (value,) = (await task).tensors.values()
            assert torch.equal(value, torch.as_tensor(expected))
        assert len(ran) == 20
        assert engine.admitted_bytes == 0

    def stage_of_whole() -> dict[str, Value]:
        model = model_of("chain")
        return stage(model, model.graph.inputs, model.graph.outputs).run(model.example)

    with_busy_engine(scenario, monkeypatch)


def test_overload_is_refused_early_and_says_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(service: CloudService, engine: Engine, busy: Busy, ran: list[str]) -> None:
        waiting = [await queued(service, engine) for _ in range(2)]
        assert (await service.report("m")).queue_length == 2
        with pytest.raises(Overloaded) as refusal:
            await service.infer(request("m", model_of("chain").example))
        assert refusal.value.retry_after_s is not None
        await busy.release()
        for task in waiting:
            assert (await task).tensors

    with_busy_engine(scenario, monkeypatch, Limits(waiting=2))


def test_a_closed_service_expects_nothing_and_answers_what_arrived_before() -> None:
    model = model_of("chain")
    announced = Announcement("m", tensors={})

    async def scenario(service: CloudService) -> None:
        service.close()
        assert not service.is_ready()
        assert not service.is_ready("m")
        with pytest.raises(Unavailable, match="shutting down"):
            service.expect(announced)
        assert (await service.infer(request("m", model.example))).tensors

    play(scenario, Loaded("m", "1", model))


def test_a_server_that_is_loading_is_unavailable_and_not_ready() -> None:
    async def scenario() -> None:
        engine = Engine()
        service = CloudService(engine)
        assert not service.is_ready()
        with pytest.raises(Unavailable, match="loading"):
            await service.infer(request("m", {}))
        with pytest.raises(Unavailable, match="loading"):
            await service.describe("m")
        engine.close()

    asyncio.run(scenario())


def test_a_batch_that_needs_too_much_memory_is_refused_and_the_server_lives() -> None:
    model = model_of("chain")
    (x,) = model.graph.inputs

    async def scenario(service: CloudService) -> None:
        with pytest.raises(PayloadTooLarge, match="batch of 50"):
            await service.infer(request("m", {x: model.example[x].expand(50, -1, -1, -1)}))
        assert (await service.infer(request("m", model.example))).tensors

    play(scenario, Loaded("m", "1", model), working_bytes=100_000)


def test_the_report_holds_profile_and_load() -> None:
    model = model_of("chain")
    profile = profile_of(model)

    async def scenario(service: CloudService) -> None:
        assert (await service.report("m")).profile is None
        assert [name for name, _ in service.unprofiled()] == ["m", "other"]
        service.adopt(profile)
        assert [name for name, _ in service.unprofiled()] == ["other"]
        await service.infer(request("m", model.example))
        assert (await service.report("m")).slowdown == 1.0  # the first run of a stage tells nothing
        for _ in range(3):
            await service.infer(request("m", model.example))
        report = await service.report("m")
        assert report.profile == profile
        assert report.slowdown < 1.0  # a millisecond a layer is slow for this model
        assert 0.0 < report.utilisation <= 1.0
        with pytest.raises(UnknownModel):
            await service.report("n")

    play(scenario, Loaded("m", "1", model), Loaded("other", "1", model_of("tied")))


def test_a_slowdown_that_nobody_observes_any_more_is_no_longer_reported() -> None:
    """Agents that a busy server sent away would otherwise never come back: nothing would ever correct the report."""
    model = model_of("chain")
    now_s = 0.0
    load = 5.0

    def slow(part: Stage, tensors: Mapping[str, Value]) -> dict[str, Value]:
        nonlocal now_s
        now_s += load * profile_of(model).layers[part.layers[0]].wall_s * len(part.layers)
        return part.run(tensors)

    async def scenario(service: CloudService) -> None:
        nonlocal now_s, load
        for _ in range(5):
            await service.infer(request("m", model.example, deadline_s=torch.inf))
        assert (await service.report("m")).slowdown == pytest.approx(5.0)
        now_s += 60.0
        assert (await service.report("m")).slowdown == 1.0
        load = 2.0
        for _ in range(3):
            await service.infer(request("m", model.example, deadline_s=torch.inf))
        assert (await service.report("m")).slowdown == pytest.approx(2.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("splitnn.runtime.host.run_request", slow)
        play(scenario, Loaded("m", "1", model, profile_of(model)), clock=lambda: now_s)


def test_a_newer_version_takes_nothing_from_those_who_hold_the_older_one() -> None:
    one, two = model_of("chain"), model_of("residual")
    profiles = {"1": profile_of(one), "2": profile_of(two)}

    async def scenario(service: CloudService) -> None:
        assert (await service.infer(request("m", one.example, digest=one.digest))).version == "1"
        assert (await service.infer(request("m", two.example, digest=two.digest))).version == "2"
        assert (await service.infer(request("m", one.example, version=one.digest))).version == "1"
        for number, model in (("1", one), ("2", two)):
            for name in (number, model.digest):
                assert (await service.describe("m", name)).digest == model.digest
                assert (await service.report("m", name)).profile == profiles[number]
                assert service.is_ready("m", name)
        assert (await service.report("m")).profile == profiles["2"]
        with pytest.raises(DigestMismatch, match=r"000000000000.*" + two.digest[:12]):
            await service.infer(request("m", two.example, digest="0" * 64))
        with pytest.raises(UnknownModel, match=rf"1 \({one.digest[:12]}\), 2 \({two.digest[:12]}\)"):
            await service.report("m", "0" * 64)
        with pytest.raises(DigestMismatch):
            await service.infer(request("m", one.example, version="2", digest=one.digest))

    play(scenario, Loaded("m", "1", one, profiles["1"]), Loaded("m", "2", two, profiles["2"]))


def test_each_model_has_a_slowdown_of_its_own() -> None:
    quick, slow = model_of("chain"), model_of("residual")
    now_s = 0.0

    def run_at_two_speeds(part: Stage, tensors: Mapping[str, Value]) -> dict[str, Value]:
        nonlocal now_s
        is_slow = set(part.layers) == set(slow.graph.index)
        now_s += (3e-3 if is_slow else 1e-3) * len(part.layers)
        return part.run(tensors)

    async def scenario(service: CloudService) -> None:
        for _ in range(5):
            await service.infer(request("quick", quick.example, deadline_s=torch.inf))
            await service.infer(request("slow", slow.example, deadline_s=torch.inf))
        assert (await service.report("quick")).slowdown == pytest.approx(1.0)
        assert (await service.report("slow")).slowdown == pytest.approx(3.0)

    loaded = [Loaded(name, "1", model, profile_of(model)) for name, model in (("quick", quick), ("slow", slow))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("splitnn.runtime.host.run_request", run_at_two_speeds)
        play(scenario, *loaded, clock=lambda: now_s)


def test_two_models_of_one_name_and_version_are_refused() -> None:
    engine = Engine()
    service = CloudService(engine)
    service.add(Loaded("m", "1", model_of("chain")))
    with pytest.raises(ValueError, match="two models called 'm'"):
        service.add(Loaded("m", "1", model_of("tied")))
    engine.close()


def test_a_model_that_fails_on_its_own_example_is_named_and_the_others_are_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tied = model_of("tied")
    broken = replace(tied, example={name: torch.full_like(value, 99) for name, value in tied.example.items()})

    async def scenario() -> None:
        engine = Engine()
        service = CloudService(engine)
        service.add(Loaded("broken", "1", broken))
        with pytest.raises(PackageError, match="no model is left"):
            await service.warm_up()
        service.add(Loaded("broken", "1", broken))
        service.add(Loaded("good", "1", tied))
        await service.warm_up()
        service.open()
        assert [service.is_ready(name) for name in ("broken", "good")] == [False, True]
        engine.close()

    asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 2
    assert all("broken" in line and "index out of range" in line for line in lines)
