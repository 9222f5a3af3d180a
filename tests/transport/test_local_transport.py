"""The transport without a network: real codecs, a link's delays on a virtual clock."""

from __future__ import annotations

import asyncio
import time

import pytest
import torch

from splitnn import errors
from splitnn.cost.network import parse_link
from splitnn.transport.base import Answer, Limits, Request
from splitnn.transport.local import LocalTransport


class VirtualTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


async def double(request: Request) -> Answer:
    return Answer({name: value * 2 for name, value in request.tensors.items()}, parameters={"by": "double"})


async def refuse(request: Request) -> Answer:
    raise errors.Overloaded("busy", 1.5)


def test_tensors_pass_through_their_codecs() -> None:
    async def main() -> None:
        transport = LocalTransport(double)
        x = torch.randn(1, 128, 12, 64).transpose(1, 2)
        exact = await transport.infer(Request("net", {"x": x, "n": 4}, time.monotonic() + 20))
        assert torch.equal(torch.as_tensor(exact.tensors["x"]), x * 2)
        assert torch.as_tensor(exact.tensors["x"]).stride() == x.stride()
        assert exact.tensors["n"] == 8
        assert exact.parameters == {"by": "double"}
        rounded = await transport.infer(Request("net", {"x": x}, time.monotonic() + 20, codecs={"x": "int8"}))
        difference = (torch.as_tensor(rounded.tensors["x"]) - x * 2).abs().max()
        assert 0 < difference < 0.2
        assert rounded.sent_bytes < exact.sent_bytes / 3

    asyncio.run(main())


def test_a_link_delays_both_ways_by_the_messages_sizes() -> None:
    async def main() -> None:
        virtual = VirtualTime()
        up, down = parse_link("1Mbps:8Mbps/40ms")
        transport = LocalTransport(double, up=up, down=down, sleep=virtual.sleep, clock=virtual.clock)
        answer = await transport.infer(Request("net", {"x": torch.zeros(10_000)}, virtual.now_s + 60))
        expected_s = 0.04 + answer.sent_bytes * 8 / 1e6 + answer.received_bytes * 8 / 8e6
        assert answer.elapsed_s == pytest.approx(expected_s)
        probe = await transport.probe(1000, timeout_s=1)
        assert probe.elapsed_s == pytest.approx(0.048)

    asyncio.run(main())


def test_a_link_that_is_too_slow_for_the_deadline_is_a_deadline_exceeded() -> None:
    async def main() -> None:
        virtual = VirtualTime()
        up, down = parse_link("1Mbps/40ms")
        transport = LocalTransport(double, up=up, down=down, sleep=virtual.sleep, clock=virtual.clock)
        with pytest.raises(errors.DeadlineExceeded):
            await transport.infer(Request("net", {"x": torch.zeros(100_000)}, virtual.now_s + 1))

    asyncio.run(main())


def test_a_stage_that_hangs_is_ended_by_the_deadline() -> None:
    async def hang(request: Request) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        with pytest.raises(errors.DeadlineExceeded):
            await LocalTransport(hang).infer(Request("net", {"x": torch.zeros(1)}, time.monotonic() + 0.1))

    asyncio.run(main())


def test_errors_pass_through_and_a_closed_transport_is_unavailable() -> None:
    async def main() -> None:
        transport = LocalTransport(refuse)
        with pytest.raises(errors.Overloaded) as caught:
            await transport.infer(Request("net", {"x": torch.zeros(1)}, time.monotonic() + 20))
        assert caught.value.retry_after_s == 1.5
        await transport.close()
        with pytest.raises(errors.Unavailable):
            await transport.infer(Request("net", {"x": torch.zeros(1)}, time.monotonic() + 20))

    asyncio.run(main())


@pytest.mark.parametrize("what", ["request", "answer"])
def test_messages_above_the_limit_are_refused_as_on_the_wire(what: str) -> None:
    async def answer(request: Request) -> Answer:
        seen.append(request)
        return Answer({"y": torch.zeros(1000)})

    seen: list[Request] = []

    async def main() -> None:
        transport = LocalTransport(answer, limits=Limits(message_bytes=1000))
        size = 1000 if what == "request" else 1
        with pytest.raises(errors.PayloadTooLarge, match=f"the {what} takes .* at most 1000 are sent"):
            await transport.infer(Request("net", {"x": torch.zeros(size)}, time.monotonic() + 20))
        assert len(seen) == (what == "answer")

    asyncio.run(main())
