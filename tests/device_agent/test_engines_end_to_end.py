"""Both programs for real with an int8 version of a model: each runs its own half on another engine, and is right."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from splitnn.cost.estimate import tabulate
from splitnn.cost.network import Host, Link, Topology
from splitnn.cost.profiler import profile
from splitnn.graph import package
from splitnn.graph.capture import capture
from splitnn.planner.plan import Plan
from splitnn.runtime.engines.serving import compile_on
from splitnn.runtime.stage import stage
from splitnn.transport.base import Answer, Request
from splitnn.transport.codec import CODECS
from splitnn.transport.open_inference import GrpcTransport
from splitnn.tuning.compress import int8_version
from splitnn.zoo.datasets import Samples
from tests.device_agent.small_net import make
from tests.device_agent.test_end_to_end import program

NAME = "small_net"
PATIENCE_S = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_int8_head_and_tail_on_onnx_runtime_in_the_programs(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    module, (image,) = make()
    images = torch.cat([image, torch.randint(0, 256, (7, 64, 64, 3), dtype=torch.uint8)])
    base = capture(module, (image,))
    model = int8_version(base, Samples({"image": images}, None, tuple("abcdefgh"), "noise"))
    folder = package.save(model, tmp_path / "models" / NAME)
    measured = profile(
        model, codecs={"raw": CODECS["raw"]}, repeats=3, budget_s=1.0,
        engine="onnxruntime", compile=compile_on("onnxruntime"),
    )  # fmt: skip
    (folder / "profile.json").write_text(json.dumps(measured.to_json()))
    (answer,) = stage(base, base.graph.inputs, base.graph.outputs).run(base.example).values()
    right = torch.as_tensor(answer)
    topology = Topology((Host("device"), Host("cloud")), (Link(1e6),), (Link(1e6),))
    table = tabulate(model.graph, {"device": measured, "cloud": measured}, topology)
    first = model.graph.index[model.graph.producer["first.3"]] + 1
    assigned = [0] * first + [1] * (len(model.graph) - first)
    plan = Plan.priced(model.graph, assigned, table=table, model=model.digest, hosts=("device", "cloud"))
    with ExitStack() as stack:
        server = stack.enter_context(
            program("cloud", "cloud_server", "--models", str(folder.parent), "--listen", "127.0.0.1:0",
                    "--engine", "onnxruntime")
        )  # fmt: skip
        agent = stack.enter_context(
            program("device", "device_agent", "--server", server.address, "--listen", "127.0.0.1:0", "--model",
                    str(folder), "--profile", str(folder / "profile.json"), "--engine", "onnxruntime",
                    "--plan", str(plan))
        )  # fmt: skip
        answers = asyncio.run(_until_the_server_left_torch(agent.address, server.lines, right))
        # The first ones are answered on the device, before the agent has met the server.
        assert any(_uses_cloud(each) for each in answers[-3:])
        assert not any("runs in torch" in line for line in (*agent.lines, *server.lines))


def _uses_cloud(answer: Answer) -> bool:
    return float(answer.parameters["tail_s"]) > 0


async def _until_the_server_left_torch(address: str, log: list[str], right: torch.Tensor) -> list[Answer]:
    client = GrpcTransport(address)
    answers: list[Answer] = []
    _, (image,) = make()
    until_s = time.monotonic() + PATIENCE_S
    try:
        while not (any("leaves torch" in line for line in log) and answers and _uses_cloud(answers[-1])):
            assert time.monotonic() < until_s, f"{answers[-1:]}\n" + "\n".join(log[-20:])
            answers.append(await client.infer(Request(NAME, {"image": image}, deadline_s=time.monotonic() + 30)))
            await asyncio.sleep(0.1)
        for _ in range(2):
            answers.append(await client.infer(Request(NAME, {"image": image}, deadline_s=time.monotonic() + 30)))
    finally:
        await client.close()
    for each in answers:
        (value,) = each.tensors.values()
        torch.testing.assert_close(torch.as_tensor(value), right, rtol=0.05, atol=0.05 * right.abs().max().item())
    return answers


def test_a_profile_of_another_engine_ends_the_agent_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = capture(*make())
    folder = package.save(model, tmp_path / NAME)
    measured = profile(model, codecs={"raw": CODECS["raw"]}, repeats=3, budget_s=1.0)
    (folder / "profile.json").write_text(json.dumps(measured.to_json()))
    status, said = asyncio.run(_failed_agent(folder))
    assert status == 2
    assert "measure again with `splitnn profile --engine onnxruntime`" in said.splitlines()[-1]


async def _failed_agent(folder: Path) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "device_agent", "--server", "127.0.0.1:9", "--listen", "127.0.0.1:0", "--model",
        str(folder), "--profile", str(folder / "profile.json"), "--engine", "onnxruntime",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, error = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return process.returncode, error.decode()
