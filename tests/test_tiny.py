"""The whole path on one page: capture, profile, plan, split, run; then over a real wire."""

from __future__ import annotations

import asyncio

import torch

import splitnn
from splitnn.graph import package
from splitnn.runtime.stage import stage
from splitnn.runtime.verify import identical
from splitnn.transport.codec import CODECS
from tests.models import TINY


def test_capture_profile_plan_split_run() -> None:
    module, example = TINY["chain"]()
    model = splitnn.capture(module, example)
    here = splitnn.profile(model, host="device", repeats=3)
    profiles = {"device": here.scaled(20), "cloud": here.scaled(1, host="cloud")}
    topology = splitnn.Topology.chain(["device", "cloud"], ["100Mbps/0.1ms"])
    plan = splitnn.plan(model.graph, profiles, topology)

    assert splitnn.Plan.parse(str(plan), model.graph).id == plan.id
    cost = splitnn.estimate(model.graph, plan.placement, profiles, topology)
    assert cost.latency_ns == plan.predicted.latency_ns

    async def run() -> dict[str, torch.Tensor | int]:
        cloud = splitnn.ModelHost(model)
        pipeline = splitnn.Pipeline(model, plan, [splitnn.LocalTransport(cloud.infer)])
        try:
            return await pipeline.run(model.name_inputs(*example))
        finally:
            pipeline.close()
            cloud.close()

    found = asyncio.run(run())
    with torch.no_grad():
        assert identical(model.nest_outputs(found), module(*example))


def test_codecs_know_their_sizes() -> None:
    model = splitnn.capture(*TINY["integers"]())
    for spec in model.graph.tensors.values():
        for codec in CODECS.values():
            if codec.accepts(spec):
                assert codec.encoded_bytes(spec) > 0


def test_package_is_the_model(tmp_path: object) -> None:
    model = splitnn.capture(*TINY["tied"]())
    again = package.load(package.save(model, f"{tmp_path}/tied"))
    whole = (stage(m, m.graph.inputs, m.graph.outputs).run(m.example)["output"] for m in (model, again))
    assert identical(*whole)
