"""Other engines in programs that serve: in torch until ready, told in a plan's mode, refused where profiles differ."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cloud_server.models import load_models
from splitnn.cost.estimate import tabulate
from splitnn.cost.network import Host, Link, Topology
from splitnn.cost.profile import Profile
from splitnn.cost.profiler import profile
from splitnn.errors import EngineMismatch, ProfileMismatch
from splitnn.graph.capture import capture
from splitnn.graph.package import save
from splitnn.planner.plan import Plan
from splitnn.runtime.engines.serving import Background, check_engine, compile_on, require, stages_on
from splitnn.runtime.pipeline import Pipeline
from splitnn.runtime.stage import Stage, stage
from splitnn.runtime.stages import Stages
from splitnn.runtime.verify import identical
from splitnn.transport.base import Request
from splitnn.transport.open_inference import GrpcTransport
from tests.cloud_server.running import run, server
from tests.models import captured

_SOON_S = 60.0


def _measured(engine: str = "torch") -> Profile:
    return replace(profile(captured("chain"), repeats=3, budget_s=0.2), engine=engine)


def test_stage_runs_in_torch_until_it_is_worth_it_and_prepared() -> None:
    model = captured("chain")
    prepared, asked = threading.Event(), []

    def prepare(part: Stage) -> Stage:
        asked.append(part)
        return replace(part, host="prepared")

    background = Background(prepare)
    stages = Stages(model, background=background)
    first = [stages.get(model.graph.inputs, model.graph.outputs) for _ in range(3)]
    assert {part.host for part in first} <= {"here", "prepared"}
    assert first[0].host == first[1].host == "here"
    background.submit(first[0], lambda part: prepared.set())  # behind the first one in the queue
    assert prepared.wait(_SOON_S)
    assert stages.get(model.graph.inputs, model.graph.outputs).host == "prepared"
    assert len(asked) == 2
    background.close()


def test_preparation_that_fails_leaves_the_stage_in_torch(caplog: pytest.LogCaptureFixture) -> None:
    model, done = captured("chain"), threading.Event()

    def fail(part: Stage) -> Stage:
        raise MemoryError("no room")

    background = Background(fail)
    part = stage(model, model.graph.inputs, model.graph.outputs)
    background.submit(part, lambda fast: pytest.fail("nothing was prepared"))
    ended = Background(lambda part: part)
    ended.submit(part, lambda fast: done.set())
    assert done.wait(_SOON_S)
    ended.close()
    background.close()
    background._thread.join(_SOON_S)
    assert "stays in torch" in caplog.text


def test_engine_that_cannot_run_a_stage_leaves_it_in_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")

    def refuse(*args: object, **kwargs: object) -> Stage:
        raise EngineMismatch("0.5 of the largest value away from torch")

    monkeypatch.setattr("splitnn.runtime.engines.serving.compiled", refuse)
    model = captured("chain")
    part = stage(model, model.graph.inputs, model.graph.outputs)
    with caplog.at_level(logging.WARNING):
        assert stages_on("onnxruntime", model)(part) is part
    assert "runs in torch" in caplog.text


@pytest.mark.parametrize(("device", "cloud", "tiers", "mode"), [
    ("torch", "torch", (0, 1), "exact"),
    ("onnxruntime", "torch", (0, 1), "fast"),
    ("torch", "openvino", (0, 1), "fast"),
    ("onnxruntime", "torch", (1, 1), "exact"),
    ("torch", "openvino", (0, 0), "exact"),
])  # fmt: skip
def test_plan_is_exact_only_where_its_hosts_compute_in_torch(
    device: str, cloud: str, tiers: tuple[int, int], mode: str
) -> None:
    model = captured("chain")
    topology = Topology((Host("device"), Host("cloud")), (Link(1e6),), (Link(1e6),))
    profiles = {"device": _measured(device), "cloud": _measured(cloud)}
    half = len(model.graph) // 2
    assigned = [tiers[0]] * half + [tiers[1]] * (len(model.graph) - half)
    table = tabulate(model.graph, profiles, topology)
    plan = Plan.priced(model.graph, assigned, table=table, model=model.digest, hosts=("device", "cloud"))
    assert plan.mode == mode


def test_profile_of_another_engine_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProfileMismatch, match=r"splitnn profile --engine torch`, or run with --engine openvino"):
        check_engine(_measured("openvino"), "torch")
    check_engine(_measured("openvino"), "openvino")
    folder = save(captured("chain"), tmp_path / "chain")
    (folder / "profile.json").write_text(json.dumps(_measured("openvino").to_json()))
    assert load_models(str(folder), engine="torch")[0].profile is None  # it will be measured again
    assert load_models(str(folder), engine="openvino")[0].profile is not None


def test_engine_that_is_not_installed_is_told_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitnn.runtime.compiled._is_there", lambda module: False)
    require("torch")
    with pytest.raises(ValueError, match=r'onnxruntime needs onnxruntime: pip install "splitnn\[onnx\]"'):
        require("onnxruntime")


def test_profile_measures_stages_on_the_engine_and_says_so() -> None:
    pytest.importorskip("onnxruntime")
    compiled = []

    def compile(call: object, example: object) -> object:
        compiled.append(call)
        return compile_on("onnxruntime")(call, example)  # type: ignore[arg-type]

    small = capture(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval(), (torch.randn(1, 4),))
    found = profile(small, repeats=3, budget_s=0.2, engine="onnxruntime", compile=compile)  # type: ignore[arg-type]
    assert found.engine == "onnxruntime"
    assert Profile.from_json(found.to_json()).engine == "onnxruntime"
    assert compiled


def test_devices_own_stage_is_prepared_and_the_others_stay_in_torch() -> None:
    model = captured("chain")
    topology = Topology((Host("device"), Host("cloud")), (Link(1e6),), (Link(1e6),))
    profiles = {"device": _measured(), "cloud": _measured()}
    assigned = [0] * 2 + [1] * (len(model.graph) - 2)
    table = tabulate(model.graph, profiles, topology)
    plan = Plan.priced(model.graph, assigned, table=table, model=model.digest, hosts=("device", "cloud"))
    pipeline = Pipeline(model, plan, [None], prepare=lambda part: replace(part, host="prepared"))  # type: ignore[list-item]
    assert [part.host for part in pipeline.stages] == ["prepared", "cloud"]
    pipeline.close()


@pytest.mark.slow
def test_server_on_another_engine_answers_within_the_tolerance(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = captured("chain")
    save(model, tmp_path / "chain")
    expected = stage(model, model.graph.inputs, model.graph.outputs).run(model.example)["output"]
    with server(tmp_path / "log", "--models", str(tmp_path / "chain"), "--listen", "127.0.0.1:0",
                "--engine", "onnxruntime", "--profiling", "never") as cloud:  # fmt: skip
        address = cloud.wait_ready()

        async def ask() -> None:
            transport = GrpcTransport(address)
            until_s = time.monotonic() + _SOON_S
            left = False
            while not left and time.monotonic() < until_s:
                left = "leaves torch" in cloud.log()  # before this request
                answer = await transport.infer(Request("chain", dict(model.example), deadline_s=until_s))
                torch.testing.assert_close(answer.tensors["output"], expected, rtol=1e-4, atol=1e-5)
            await transport.close()
            assert left

        asyncio.run(ask())


@pytest.mark.slow
def test_server_refuses_a_profile_of_another_engine(tmp_path: Path) -> None:
    save(captured("chain"), tmp_path / "chain")
    (tmp_path / "profile.json").write_text(json.dumps(_measured().to_json()))
    pytest.importorskip("onnxruntime")
    ended = run("--models", str(tmp_path / "chain"), "--listen", "127.0.0.1:0", "--engine", "onnxruntime",
                "--profile", str(tmp_path / "profile.json"))  # fmt: skip
    assert ended.returncode == 2
    assert "measured on the engine 'torch'" in ended.stderr


def test_stage_goes_on_running_while_it_is_converted() -> None:
    pytest.importorskip("onnxruntime")
    model, done = captured("residual"), threading.Event()
    part = stage(model, model.graph.inputs, model.graph.outputs)
    expected = part.run(model.example)["output"]
    background = Background(stages_on("onnxruntime", model))
    background.submit(part, lambda fast: done.set())
    until_s = time.monotonic() + _SOON_S
    while not done.is_set() and time.monotonic() < until_s:
        assert identical(part.run(model.example)["output"], expected)
    assert done.is_set()
    background.close()
