"""The replay against the programs: the same images through agent and server, hosts with a share of a core, one link."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from experiments.bandwidth_sweep.deployment import Deployment, Subject
from experiments.exits.measure import Bench
from experiments.testbed import calibrated_link, shape_of
from splitnn.cost.profile import Profile
from splitnn.graph import package
from splitnn.graph.model import Model
from splitnn.transport.base import Request
from splitnn.transport.open_inference import GrpcTransport

_REQUESTS, _WARM_UP = 150, 15
_CODECS = ("raw", "zstd", "int8")


def run_for_real(
    model: Model, measured: Profile, bench: Bench, predicted_s: Mapping[str, float], *, slowdown: float
) -> list[dict[str, Any]]:
    """The agent plans by itself and answers ``_REQUESTS`` images over each link; what came of it beside the replay."""
    found = []
    for link, replayed_s in predicted_s.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "models"
            folder.mkdir()
            package.save(model, folder / "fashion_exits")
            subject = Subject("fashion_exits", model, measured, folder, (), "real")
            found.append({**_over(link, subject, bench, slowdown=slowdown), "replayed_s": replayed_s})
    return found


def _over(link: str, subject: Subject, bench: Bench, *, slowdown: float) -> dict[str, Any]:
    # The proxy: the application then reaches the agent without being in the device's network namespace.
    with (
        calibrated_link(shape_of(link), methods=("proxy",)) as (emulated, _),
        Deployment(
            subject, emulated, device_share=1 / slowdown, server_share=0.75, codecs=_CODECS, believed=link
        ) as deployment,
    ):
        told = asyncio.run(_ask(deployment.agent, bench))
        return {"link": link, "method": f"{emulated.method}; {deployment.method}", **told}


async def _ask(address: str, bench: Bench) -> dict[str, Any]:
    client = GrpcTransport(address)
    exits = bench.model.exits
    assert exits is not None
    images = bench.tensor(bench.input)
    expected = [bench.tensor(each.output) for each in exits.exits]
    seconds, right, other, sent = [], [], 0, 0
    plans = []
    try:
        for number in range(_WARM_UP + _REQUESTS):
            request = Request("fashion_exits", {bench.input: images[number : number + 1]}, time.monotonic() + 30)
            began_s = time.monotonic()
            answer = await client.infer(request)
            took_s = time.monotonic() - began_s
            await asyncio.sleep(0.01)
            if number < _WARM_UP:
                continue
            (logits,) = (torch.as_tensor(value) for value in answer.tensors.values())
            seconds.append(took_s)
            right.append(bool(logits.argmax() == bench.labels[number]))
            other += answer.parameters["exit"] != _by_hand(exits.exits, expected, number)
            sent += int(answer.parameters["sent_bytes"])
            plans.append(str(answer.parameters["plan_id"]))
    finally:
        await client.close()
    return {
        "requests": len(seconds),
        "accuracy": mean(right),
        "mean_s": mean(seconds),
        "p50_s": median(seconds),
        "mean_bytes": sent / len(seconds),
        "other_exits": other,
        "plans": len(set(plans)),
    }


def _by_hand(exits: Any, expected: Any, number: int) -> str:
    """The first exit that is sure of the whole model's logits."""
    for each, logits in zip(exits, expected, strict=True):
        if (logits[number] / each.temperature).softmax(0).max() >= each.threshold:
            return str(each.name)
    raise AssertionError("the last exit answers always")
