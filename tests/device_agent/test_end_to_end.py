"""Both programs for real, joined by a link that gets slow, goes black and breaks: no request is lost, each is right."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from device_agent.program import CLOUD_HEALTH
from experiments.testbed import Host, Program, ProxiedLink, proxied_link, shape_of
from splitnn.cost.profiler import profile
from splitnn.graph import package
from splitnn.graph.capture import capture
from splitnn.graph.model import Model
from splitnn.runtime.address import parse_address
from splitnn.runtime.stage import stage
from splitnn.transport.base import Answer, Request
from splitnn.transport.codec import CODECS
from splitnn.transport.open_inference import GrpcTransport
from tests.device_agent.small_net import make

NAME = "small_net"
SLOWDOWN = 40  # so that a plan depends on the link and not on what else this machine does
FAST = "50Mbps/4ms"
PATIENCE_S = 60.0  # for what must happen, not for how quickly

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Scene:
    """What both programs are started with."""

    folder: Path
    model: Model

    @property
    def right(self) -> torch.Tensor:
        (value,) = stage(self.model, self.model.graph.inputs, self.model.graph.outputs).run(self.model.example).values()
        return torch.as_tensor(value)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("models")
    model = capture(*make())
    package.save(model, folder / NAME)
    measured = profile(model, codecs={"raw": CODECS["raw"]}, repeats=5, budget_s=2.0)
    (folder / NAME / "profile.json").write_text(json.dumps(measured.to_json()))
    return Scene(folder, model)


@dataclass
class Cast:
    """The programs and the link between them."""

    scene: Scene
    stack: ExitStack
    server: Program
    link: ProxiedLink
    agent: Program

    def restart_server(self) -> None:
        self.server = start_server(self.stack, self.scene, self.server.address)


@pytest.fixture(scope="module")
def cast(scene: Scene) -> Iterator[Cast]:
    """Started once: it takes longer than most of what the tests do with them, which each leaves as it found them."""
    with ExitStack() as stack:
        server = start_server(stack, scene, "127.0.0.1:0")
        link = stack.enter_context(proxied_link(shape_of(FAST)))
        agent = start_agent(stack, scene, link.address_of(parse_address(server.address)[1]))
        yield Cast(scene, stack, server, link, agent)


@dataclass
class Play:
    """The programs at work, seen by an application."""

    cast: Cast
    agent: Program
    client: GrpcTransport
    answers: list[Answer] = field(default_factory=list)

    @property
    def scene(self) -> Scene:
        return self.cast.scene

    @property
    def link(self) -> ProxiedLink:
        return self.cast.link

    async def ask(self) -> Answer:
        began_s = time.monotonic()
        answer = await self.client.infer(Request(NAME, self.scene.model.example, deadline_s=began_s + 30))
        (value,) = answer.tensors.values()
        assert torch.equal(torch.as_tensor(value), self.scene.right)
        self.answers.append(answer)
        return answer

    async def until(self, holds: Callable[[Answer], bool]) -> Answer:
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            if holds(answer := await self.ask()):
                return answer
            await asyncio.sleep(0.1)
        log = "\n".join(self.agent.lines[-30:])
        raise AssertionError(f"it never came to hold; the last answer says {dict(answer.parameters)}\n{log}")

    async def health(self, service: str) -> int:
        async with grpc.aio.insecure_channel(self.agent.address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            return int((await check(health_pb2.HealthCheckRequest(service=service), timeout=5)).status)


@contextmanager
def program(host_name: str, module: str, *arguments: str) -> Iterator[Program]:
    """One of our programs from its ready line on; ends it, and closes what it printed into."""
    with Host(host_name) as host:
        started = Program(host, module, *arguments)
        yield started
    assert started.process.stdout is not None
    started.process.stdout.read()  # until the reading thread has met the end
    started.process.stdout.close()


def start_server(stack: ExitStack, scene: Scene, address: str) -> Program:
    return stack.enter_context(program("cloud", "cloud_server", "--models", str(scene.folder), "--listen", address))


def start_agent(stack: ExitStack, scene: Scene, server: str) -> Program:
    arguments = ("--server", server, "--listen", "127.0.0.1:0", *agent_options(scene))
    return stack.enter_context(program("device", "device_agent", *arguments))


def agent_options(scene: Scene) -> tuple[str, ...]:
    package = scene.folder / NAME
    return "--model", str(package), "--profile", str(package / "profile.json"), "--slowdown", str(SLOWDOWN)


@asynccontextmanager
async def play(cast: Cast, *, agent: Program | None = None) -> AsyncIterator[Play]:
    """Over the fast link, whatever the test before has left; ``agent`` is another one than that of the cast."""
    cast.link.heal()
    cast.link.set(**asdict(shape_of(FAST)))
    client = GrpcTransport((agent or cast.agent).address)
    try:
        yield Play(cast, agent or cast.agent, client)
    finally:
        await client.close()


def perform(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await test()

    asyncio.run(whole())


def uses_cloud(answer: Answer) -> bool:
    return float(answer.parameters["tail_s"]) > 0


def is_degraded(answer: Answer) -> bool:
    return "degraded" in answer.parameters


def test_a_link_that_changes_moves_the_cut_there_and_back(cast: Cast) -> None:
    async def test() -> None:
        async with play(cast) as p:
            there = await p.until(uses_cloud)
            p.link.set(up_bps=20e3, down_bps=20e3)
            here = await p.until(lambda answer: not uses_cloud(answer) and not is_degraded(answer))
            p.link.set(up_bps=50e6, down_bps=50e6)
            back = await p.until(uses_cloud)
            ids = [answer.parameters["plan_id"] for answer in (there, here, back)]
            assert ids[0] != ids[1] != ids[2]
            assert back.parameters["emulated_slowdown"] == SLOWDOWN

    perform(test)


def test_kill_of_the_server_in_the_middle_of_a_request_loses_nothing_and_its_restart_is_noticed(cast: Cast) -> None:
    async def test() -> None:
        async with play(cast) as p:
            await p.until(uses_cloud)
            assert await p.health(CLOUD_HEALTH) == health_pb2.HealthCheckResponse.SERVING
            p.link.set(rtt_s=2.0)  # requests are under way for long enough to be hit
            under_way = [asyncio.create_task(p.ask()) for _ in range(3)]
            await asyncio.sleep(1)
            os.kill(cast.server.process.pid, signal.SIGKILL)
            cast.server.process.wait()
            p.link.set(rtt_s=0.004)
            await asyncio.gather(*under_way)
            degraded = await p.until(is_degraded)
            assert not uses_cloud(degraded)
            assert await p.health("") == health_pb2.HealthCheckResponse.SERVING
            assert await p.health(CLOUD_HEALTH) == health_pb2.HealthCheckResponse.NOT_SERVING
            cast.restart_server()
            await p.until(uses_cloud)
            assert await p.health(CLOUD_HEALTH) == health_pb2.HealthCheckResponse.SERVING

    perform(test)


@pytest.mark.parametrize("trouble", ["black hole", "stopped server", "reset"])
def test_a_silent_or_broken_way_costs_no_request_and_heals_by_itself(cast: Cast, trouble: str) -> None:
    async def test() -> None:
        async with play(cast) as p:
            await p.until(uses_cloud)
            match trouble:
                case "black hole":
                    p.link.block()
                case "stopped server":
                    os.kill(cast.server.process.pid, signal.SIGSTOP)
                case _:
                    p.link.abort()
            try:
                if trouble != "reset":
                    await p.until(is_degraded)
                    assert await p.health(CLOUD_HEALTH) == health_pb2.HealthCheckResponse.NOT_SERVING
            finally:
                p.link.heal()
                os.kill(cast.server.process.pid, signal.SIGCONT)
            await p.until(uses_cloud)

    perform(test)


def test_sigterm_answers_what_is_under_way_and_ends_with_status_0(cast: Cast) -> None:
    async def test(agent: Program) -> None:
        async with play(cast, agent=agent) as p:
            await p.until(uses_cloud)
            p.link.set(rtt_s=1.0)
            under_way = [asyncio.create_task(p.ask()) for _ in range(3)]
            await asyncio.sleep(0.3)
            agent.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*under_way)
            status = await asyncio.to_thread(agent.process.wait, 30)
            assert status == 0

    with ExitStack() as stack:
        far = cast.link.address_of(parse_address(cast.server.address)[1])
        agent = start_agent(stack, cast.scene, far)
        perform(lambda: test(agent))


def test_an_agent_that_starts_first_answers_alone_and_uses_the_server_once_it_is_there(scene: Scene) -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        with ExitStack() as stack:
            agent = start_agent(stack, scene, address)
            client = GrpcTransport(agent.address)
            try:
                example = scene.model.example
                for _ in range(3):
                    alone = await client.infer(Request(NAME, example, deadline_s=time.monotonic() + 30))
                    assert is_degraded(alone)
                    assert torch.equal(torch.as_tensor(next(iter(alone.tensors.values()))), scene.right)
                start_server(stack, scene, address)
                until_s = time.monotonic() + PATIENCE_S
                while is_degraded(answer := await client.infer(Request(NAME, example, deadline_s=until_s))):
                    assert time.monotonic() < until_s, dict(answer.parameters)
                    await asyncio.sleep(0.1)
                assert torch.equal(torch.as_tensor(next(iter(answer.tensors.values()))), scene.right)
            finally:
                await client.close()

    perform(test)


def test_a_port_in_use_is_one_line_and_no_traceback(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "device_agent", "--server", "127.0.0.1:9", *agent_options(scene)]
        ended = subprocess.run([*command, "--listen", address], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode not in (0, -signal.SIGKILL)
    assert f"cannot listen on {address}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
