"""The real program: started, asked, told to stop, and started wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import grpc.aio
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from torch import Tensor, nn

from experiments.testbed import SteeredProxy
from splitnn.errors import DigestMismatch, InvalidInput, PayloadTooLarge, Unavailable, UnknownModel
from splitnn.graph.capture import capture
from splitnn.graph.model import Model
from splitnn.graph.package import save
from splitnn.runtime.stage import stage
from splitnn.transport.base import Answer, Request
from splitnn.transport.open_inference import GrpcTransport
from tests.cloud_server.running import LIMIT_S, Server, free_address, run, server
from tests.models import TINY

pytestmark = pytest.mark.slow

Call = Literal["unary", "stream"]


class Slow(nn.Module):
    """Some tenths of a second of work for a small message."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for _ in range(40):
            y = (y @ x).tanh()
        return y.mean((1, 2))


class Wide(nn.Module):
    """An answer of 12 MB for a small message: more than the buffers of the system hold."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :, None] * x[:, None, :]).sin()


@cache
def model_of(name: str) -> Model:
    if name == "slow":
        torch.manual_seed(0)
        return capture(Slow(), (torch.randn(1, 500, 500),))
    if name == "wide":
        return capture(Wide(), (torch.linspace(0, 1, 1750)[None],))
    return capture(*TINY[name]())


def request(name: str, **more: Any) -> Request:
    good = Request(model=name, tensors=model_of(name).example, deadline_s=time.monotonic() + LIMIT_S)
    return replace(good, **more)


def whole(name: str) -> dict[str, Tensor | int]:
    model = model_of(name)
    return stage(model, model.graph.inputs, model.graph.outputs).run(model.example)


def assert_same(answer: Answer, expected: Mapping[str, Tensor | int]) -> None:
    assert answer.tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(answer.tensors[name]), torch.as_tensor(value))


@contextlib.asynccontextmanager
async def transport_to(address: str, *, call: Call = "unary") -> AsyncIterator[GrpcTransport]:
    transport = GrpcTransport(address, call=call)
    try:
        yield transport
    finally:
        await transport.close()


async def health(address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT_S, wait_for_ready=True)
        return int(answer.status)


async def ready(address: str) -> bool:
    """What any client of the standard protocol asks first; two empty messages and one boolean."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerReady", None, None)
        return bool(await call(b"", timeout=LIMIT_S, wait_for_ready=True) == b"\x08\x01")


def packages(folder: Path, *names: str) -> str:
    for name in names:
        save(model_of(name), folder / "models" / name)
    return str(folder / "models")


async def wait_until_admitted(transport: GrpcTransport, model: str, requests: Sequence[asyncio.Task[Answer]]) -> None:
    """Until the server has all of these requests. As long as some wait, one runs, and the others wait or are done."""
    while True:
        waiting = (await transport.control.get_profile(model, timeout_s=LIMIT_S)).queue_length
        assert not all(each.done() for each in requests)
        if waiting and waiting + sum(each.done() for each in requests) == len(requests) - 1:
            return
        await asyncio.sleep(0.01)


def test_a_folder_is_served_cut_and_whole_and_every_wrong_request_is_survived(tmp_path: Path) -> None:
    folder = packages(tmp_path, "chain", "many_inputs")
    (tmp_path / "models" / "half" / "1").mkdir(parents=True)
    (tmp_path / "models" / "half" / "1" / "graph.json").write_text("{}")

    async def scenario(running: Server) -> None:
        model = model_of("chain")
        assert await health(running.address) == health_pb2.HealthCheckResponse.SERVING
        assert await ready(running.address)
        async with transport_to(running.address) as transport:
            for name in ("chain", "many_inputs"):
                answer = await transport.infer(request(name, digest=model_of(name).digest))
                assert_same(answer, whole(name))
            middle = model.graph.crossing([layer.name for layer in model.graph.layers[:3]])
            head = stage(model, model.graph.inputs, middle).run(model.example)
            answer = await transport.infer(request("chain", tensors=head))
            assert_same(answer, whole("chain"))
            description = await transport.control.get_model("chain", timeout_s=LIMIT_S)
            assert (description.digest, description.graph) == (model.digest, model.graph)
            (x,) = model.graph.inputs
            for wrong, kind in (
                (request("chain", model="half"), UnknownModel),
                (request("chain", digest="0" * 64), DigestMismatch),
                (request("chain", tensors={"y": model.example[x]}), InvalidInput),
                (request("chain", tensors={x: torch.zeros(1, 3, 12, 12, dtype=torch.uint8)}), InvalidInput),
                (request("chain", tensors={x: torch.zeros(1, 3, 2000, 2000)}), PayloadTooLarge),
            ):
                with pytest.raises(kind):
                    await transport.infer(wrong)
                assert (await transport.infer(request("chain"))).tensors

    arguments = ["--listen", "127.0.0.1:0", "--profiling", "never", "--max-message-bytes", "1000000"]
    with server(tmp_path / "log", "--models", folder, *arguments) as running:
        running.wait_ready()
        assert f"chain ({model_of('chain').digest[:12]})" in running.ready_line
        asyncio.run(scenario(running))
        assert running.stop() == 0
        assert running.log().count("half version 1 is not served") == 1


def test_told_to_stop_it_finishes_what_is_under_way_and_takes_nothing_new(tmp_path: Path) -> None:
    async def scenario(running: Server) -> None:
        async with transport_to(running.address) as transport:
            under_way = [asyncio.create_task(transport.infer(request("slow"))) for _ in range(8)]
            await wait_until_admitted(transport, "slow", under_way)
            running.process.terminate()
            while await refused(transport) is False:
                await asyncio.sleep(0.01)
            for answer in await asyncio.gather(*under_way):
                assert_same(answer, whole("slow"))

    async def refused(transport: GrpcTransport) -> bool:
        try:
            await transport.infer(request("slow"))
        except Unavailable:
            return True
        return False

    arguments = ("--models", packages(tmp_path, "slow"), "--listen", "127.0.0.1:0", "--profiling", "never")
    with server(tmp_path / "log", *arguments, "--grace-s", "60") as running:
        running.wait_ready()
        asyncio.run(scenario(running))
        assert running.process.wait(LIMIT_S) == 0
        assert "still under way" not in running.log()


@pytest.mark.parametrize("call", ["unary", "stream"])
def test_an_answer_that_a_slow_link_still_carries_when_told_to_stop_arrives_whole(call: Call, tmp_path: Path) -> None:
    async def scenario(running: Server, link: SteeredProxy) -> None:
        async with transport_to(link.address, call=call) as transport:
            under_way = asyncio.create_task(transport.infer(request("wide")))
            while link.count()["down_bytes"] < 200_000:
                await asyncio.sleep(0.05)
            running.process.terminate()
            assert_same(await under_way, whole("wide"))
        assert running.process.wait(LIMIT_S) == 0

    arguments = ("--models", packages(tmp_path, "wide"), "--listen", "127.0.0.1:0", "--profiling", "never")
    with server(tmp_path / "log", *arguments, "--grace-s", "60") as running:
        with SteeredProxy(running.wait_ready(), link="20Mbps/2ms") as link:
            asyncio.run(scenario(running, link))
        assert "still under way" not in running.log()


def test_a_client_that_keeps_an_idle_stream_and_a_health_watch_does_not_use_up_the_grace(tmp_path: Path) -> None:
    async def scenario(running: Server) -> None:
        async with (
            transport_to(running.address, call="stream") as transport,
            grpc.aio.insecure_channel(running.address) as channel,
        ):
            assert_same(await transport.infer(request("chain")), whole("chain"))
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            running.process.terminate()
            assert await asyncio.to_thread(running.process.wait, LIMIT_S / 2) == 0

    arguments = ("--models", packages(tmp_path, "chain"), "--listen", "127.0.0.1:0", "--profiling", "never")
    with server(tmp_path / "log", *arguments, "--grace-s", str(LIMIT_S)) as running:
        running.wait_ready()
        asyncio.run(scenario(running))


def test_what_is_not_done_within_the_grace_fails_and_the_program_ends_all_the_same(tmp_path: Path) -> None:
    async def scenario(running: Server) -> list[Answer | BaseException]:
        async with transport_to(running.address) as transport:
            under_way = [asyncio.create_task(transport.infer(request("slow"))) for _ in range(40)]
            await wait_until_admitted(transport, "slow", under_way)
            running.process.terminate()
            return await asyncio.gather(*under_way, return_exceptions=True)

    arguments = ("--models", packages(tmp_path, "slow"), "--listen", "127.0.0.1:0", "--profiling", "never")
    with server(tmp_path / "log", *arguments, "--grace-s", "0") as running:
        running.wait_ready()
        outcomes = asyncio.run(scenario(running))
        assert running.process.wait(LIMIT_S) == 0
        assert "still under way" in running.log()
    assert any(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert all(isinstance(outcome, Answer | Unavailable) for outcome in outcomes)


def test_a_second_server_on_the_port_ends_with_one_line_and_the_first_lives(tmp_path: Path) -> None:
    arguments = ("--models", packages(tmp_path, "chain"), "--profiling", "never")
    with server(tmp_path / "log", *arguments, "--listen", "127.0.0.1:0") as first:
        address = first.wait_ready()
        second = run(*arguments, "--listen", address)
        assert_one_line(second, address, "in use")
        assert asyncio.run(ready(address))
        assert first.stop() == 0


def test_a_port_of_another_program_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        assert_one_line(run("--models", packages(tmp_path, "chain"), "--listen", address), address, "in use")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--models", "no_such_model", "--listen", "127.0.0.1:0"), "no_such_model"),
        (("--models", "resnet18", "--listen", "0.0.0.0:0"), "--insecure"),
        (("--models", "resnet18", "--profile", "none.json", "--listen", "127.0.0.1:0"), "none.json"),
        (("--listen", "127.0.0.1:0"), "--models"),
        (("--config", "none.toml"), "none.toml"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(arguments: tuple[str, ...], words: str) -> None:
    assert_one_line(run(*arguments, "--log-level", "error"), words)


def test_one_file_is_enough_and_a_misspelt_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text(
        f'models = "{packages(tmp_path, "chain")}"\nlisten = "127.0.0.1:0"\nprofiling = "never"\nlog-level = "debug"\n'
    )
    with server(tmp_path / "log", "--config", str(tmp_path / "server.toml")) as running:
        running.wait_ready()
        assert asyncio.run(ready(running.address))
        assert running.stop() == 0
    (tmp_path / "server.toml").write_text('model = "chain"\n')
    assert_one_line(run("--config", str(tmp_path / "server.toml")), "'model'", "'models'")


def test_it_is_alive_before_it_is_ready(tmp_path: Path) -> None:
    (tmp_path / "held.py").write_text(
        "import time\nfrom pathlib import Path\n\nfrom tests.models import TINY\n\n\n"
        "def chain():\n    while not Path('go').exists():\n        time.sleep(0.01)\n    return TINY['chain']()\n"
    )
    address = free_address()

    async def before(address: str) -> None:
        assert await health(address) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not await ready(address)
        async with transport_to(address) as transport:
            with pytest.raises(Unavailable, match="loading"):
                await transport.infer(request("chain"))

    arguments = ("--models", "held:chain", "--listen", address, "--profiling", "never")
    with server(tmp_path / "log", *arguments, folder=tmp_path) as running:
        asyncio.run(before(address))
        (tmp_path / "go").touch()
        assert running.wait_ready() == address
        assert asyncio.run(ready(address))
        assert running.stop() == 0
    (tmp_path / "go").unlink()
    with server(tmp_path / "log2", *arguments, folder=tmp_path) as running:
        asyncio.run(before(address))
        assert running.stop() == 0, running.log()  # even when it is stuck in somebody's code


def test_it_measures_itself_while_it_serves_and_stops_in_the_middle_of_it(tmp_path: Path) -> None:
    async def profiled(address: str) -> None:
        async with transport_to(address) as transport:
            while (report := await transport.control.get_profile("chain", timeout_s=LIMIT_S)).profile is None:
                assert (await transport.infer(request("chain"))).tensors
                await asyncio.sleep(0.05)
            report.profile.check_fits(model_of("chain").graph, model_of("chain").digest)

    folder = packages(tmp_path, "chain")
    with server(tmp_path / "log", "--models", folder, "--listen", "127.0.0.1:0") as running:
        asyncio.run(profiled(running.wait_ready()))
        assert running.stop() == 0
    with server(tmp_path / "log2", "--models", packages(tmp_path / "b", "slow"), "--listen", "127.0.0.1:0") as running:
        running.wait_ready()
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(LIMIT_S) == 0


def assert_one_line(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit status 2, and our own last line says it; gRPC's core may have spoken before."""
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("splitnn-server:")]
    assert line == ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in line
