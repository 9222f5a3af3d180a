"""A codec that does not exist is an error wherever it is named, and never raw bytes in silence."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

import pytest
import torch

from splitnn.cost.estimate import estimate, tabulate
from splitnn.cost.profile import CodecCost
from splitnn.errors import CodecError
from splitnn.planner.choice import choose
from splitnn.planner.envelope import compute_envelope
from splitnn.planner.min_cut import plan
from splitnn.planner.plan import Plan
from splitnn.transport.base import Answer, Limits, Request
from splitnn.transport.framing import announcement, receive_request, request_frame
from splitnn.transport.local import LocalTransport
from tests.planner.random_problems import random_problem

PROBLEM = random_problem(random.Random(1), layers=4, tiers=2, pinned=False)
A_TENSOR = next(iter(PROBLEM.graph.inputs))


@pytest.mark.parametrize("named", [("raw", "in8"), ["in8"], {"in8"}, {A_TENSOR: ("raw", "in8")}])
def test_planning_with_an_unknown_codec_names_the_near_ones(named: object) -> None:
    graph, profiles, topology = PROBLEM.graph, PROBLEM.profiles, PROBLEM.topology
    with pytest.raises(ValueError, match="'in8': did you mean int8"):
        plan(graph, profiles, topology, codecs=named)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'in8': did you mean int8"):
        choose(graph, profiles, topology, codecs=named)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'in8': did you mean int8"):
        compute_envelope(graph, profiles, topology, codecs=named)  # type: ignore[arg-type]
    placement = dict.fromkeys(graph.index, topology.hosts[0].name)
    with pytest.raises(ValueError, match="'in8': did you mean int8"):
        estimate(graph, placement, profiles, topology, codecs=named)  # type: ignore[arg-type]


def test_one_text_for_a_tensor_is_refused_too() -> None:
    with pytest.raises(ValueError, match="not the text 'int8'"):
        tabulate(PROBLEM.graph, PROBLEM.profiles, PROBLEM.topology, codecs={A_TENSOR: "int8"})


def test_a_codec_of_ones_own_that_a_profile_measured_is_known() -> None:
    own = {A_TENSOR: {"mine": CodecCost(1, 0.0, 0.0)}}
    profiles = {host: replace(profile, codecs=own) for host, profile in PROBLEM.profiles.items()}
    tabulate(PROBLEM.graph, profiles, PROBLEM.topology, codecs=("raw", "mine"))


def test_a_plans_line_and_json_with_an_unknown_codec_are_refused() -> None:
    graph = PROBLEM.graph
    hosts = tuple(host.name for host in PROBLEM.topology.hosts)
    pins = dict.fromkeys(graph.index, hosts[1])
    found = plan(graph, PROBLEM.profiles, PROBLEM.topology, pins=pins)
    assert Plan.parse(str(found), graph).hops == found.hops
    assert "=raw" in str(found)
    for mode in ("exact", "fast"):
        with pytest.raises(ValueError, match="'rav': did you mean raw"):
            Plan.parse(str(found).replace("=raw", "=rav").replace("exact", mode), graph)
    written = found.to_json()
    written["hops"] = [dict.fromkeys(hop, "rav") for hop in written["hops"]]
    with pytest.raises(ValueError, match="'rav': did you mean raw"):
        Plan.from_json(written)


def test_a_request_with_an_unknown_codec_is_refused_before_it_is_sent() -> None:
    arrived: list[Request] = []

    async def answer(request: Request) -> Answer:
        arrived.append(request)
        return Answer(request.tensors)

    async def main() -> None:
        for codecs in ({"x": "in8"}, {"y": "in8"}):
            request = Request("net", {"x": torch.ones(3)}, time.monotonic() + 20, wanted=("y",), codecs=codecs)
            with pytest.raises(CodecError, match="'in8': did you mean int8"):
                await LocalTransport(answer).infer(request)

    asyncio.run(main())
    assert not arrived


def test_a_foreign_request_with_an_unknown_codec_is_refused_with_the_near_ones() -> None:
    request = Request("net", {"x": torch.ones(1, 3, 8, 8)}, time.monotonic() + 20, codecs={"x": "int8"})
    message = b"".join(request_frame(request, message_id="1").parts).replace(b"int8", b"int9")
    with pytest.raises(CodecError, match=r"'int9': did you mean int8"):
        announcement(receive_request(message), limits=Limits())
