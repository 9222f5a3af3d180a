"""Both programs for real with the zoo's network of three exits: every image is answered as the rule by hand says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from device_agent.program import EXITS_HEALTH
from splitnn.graph import package
from splitnn.graph.model import Model
from splitnn.planner.deadlines import every_policy
from splitnn.transport.base import Answer, Request
from splitnn.transport.open_inference import GrpcTransport
from splitnn.zoo.fashion import sample_images
from splitnn.zoo.sources import open_model
from tests.device_agent.test_agent_exits import cut_behind
from tests.device_agent.test_end_to_end import program
from tests.runtime.exit_models import by_hand

NAME = "fashion_exits"
PATIENCE_S = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Play:
    model: Model
    server: str
    agent: str


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    folder = tmp_path_factory.mktemp("models")
    model = open_model(NAME)
    package.save(model, folder / NAME)
    with ExitStack() as stack:
        server = stack.enter_context(
            program("cloud", "cloud_server", "--models", str(folder), "--listen", "127.0.0.1:0")
        )
        agent = stack.enter_context(
            program(
                "device",
                "device_agent",
                *("--server", server.address, "--model", str(folder / NAME), "--listen", "127.0.0.1:0"),
                *("--audit-share", "1"),
            )
        )
        yield Play(model, server.address, agent.address)


def image(number: int) -> torch.Tensor:
    return sample_images()[0][number : number + 1]


async def ask(client: GrpcTransport, play: Play, images: torch.Tensor, **parameters: str) -> Answer:
    (name,) = play.model.graph.inputs
    return await client.infer(Request(NAME, {name: images}, time.monotonic() + 30, parameters=parameters))


def check(play: Play, images: torch.Tensor, answer: Answer) -> list[str]:
    expected = [by_hand(play.model, images[i : i + 1]) for i in range(len(images))]
    ((name, logits),) = answer.tensors.items()
    assert play.model.exits is not None and name == play.model.exits.exits[-1].output
    taken = str(answer.parameters["exit"]).split(",")
    assert taken == [each.exit for each in expected]
    torch.testing.assert_close(torch.as_tensor(logits), torch.cat([each.logits for each in expected]))
    return taken


def test_agent_and_server_answer_each_image_from_the_first_sure_exit_at_any_cut(play: Play) -> None:
    async def test() -> None:
        agent, server = GrpcTransport(play.agent), GrpcTransport(play.server)
        seen: set[tuple[str, str]] = set()
        try:
            until_s = time.monotonic() + PATIENCE_S
            line = cut_behind(play.model, 1)
            while True:  # until the agent has found the cloud
                answer = await ask(agent, play, image(0), plan="cloud")
                if "degraded" not in answer.parameters:
                    break
                assert time.monotonic() < until_s
                await asyncio.sleep(0.2)
            for number in range(20):
                for plan in ("auto", "device", "cloud", line):
                    answer = await ask(agent, play, image(number), plan=plan)
                    (taken,) = check(play, image(number), answer)
                    by = str(answer.parameters["answered_by"])
                    seen.add((by, taken))
                    assert by == "device" or plan != "device"
                    assert plan != line or (by == "device") == (taken == "exit1")
                check(play, image(number), await ask(server, play, image(number)))
            check(play, sample_images()[0][:32], await ask(agent, play, sample_images()[0][:32], plan=line))
            assert {by for by, _ in seen} == {"device", "cloud"} and len({exit for _, exit in seen}) >= 2
        finally:
            await agent.close()
            await server.close()

    asyncio.run(test())


def test_sure_answers_are_checked_by_the_real_cloud_and_health_says_that_exits_can_be_trusted(play: Play) -> None:
    async def test() -> None:
        client = GrpcTransport(play.agent)
        try:
            until_s = time.monotonic() + PATIENCE_S
            while True:
                answer = await ask(client, play, image(1), plan="device")
                if answer.parameters.get("audited", 0):
                    break
                assert time.monotonic() < until_s, answer.parameters
                await asyncio.sleep(0.2)
            assert 0 <= float(answer.parameters["agreement"]) <= 1
            found = (await client.control.get_profile(NAME, timeout_s=10)).exits
            assert found is not None and 0 < found.checked <= found.answered
        finally:
            await client.close()
        async with grpc.aio.insecure_channel(play.agent) as channel:
            checked = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=EXITS_HEALTH), timeout=5
            )
            assert checked.status == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(test())


def test_a_request_that_names_its_deadline_is_answered_by_the_most_accurate_exits_within_it(play: Play) -> None:
    """With seconds to spare all policies are in time, so that it is the most accurate of them all."""

    async def test() -> None:
        client = GrpcTransport(play.agent)
        assert play.model.exits is not None
        policies = every_policy(play.model.exits)
        best = max(each.accuracy for each in policies)
        names = {",".join(e.name for e in each.exits) for each in policies if each.accuracy == best}
        try:
            until_s = time.monotonic() + PATIENCE_S
            while True:  # the first ones are answered as the plan says
                answer = await ask(client, play, image(3), deadline_s="20")
                if answer.parameters["exits_asked"] in names:
                    break
                assert time.monotonic() < until_s, answer.parameters
                await asyncio.sleep(0.2)
            asked = play.model.exits.only(*str(answer.parameters["exits_asked"]).split(","))
            expected = by_hand(play.model, image(3), exits=asked)
            assert answer.parameters["exit"] == expected.exit
            (logits,) = answer.tensors.values()
            torch.testing.assert_close(torch.as_tensor(logits), expected.logits)
        finally:
            await client.close()

    asyncio.run(test())
