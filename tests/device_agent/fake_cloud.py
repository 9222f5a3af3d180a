"""A cloud and a link without a network, on a clock of the test's own, whose faults are set by assignment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, TypeVar

from splitnn.cost.network import parse_link
from splitnn.cost.profile import Profile
from splitnn.errors import DeadlineExceeded, DigestMismatch, Overloaded, PayloadTooLarge, Unavailable
from splitnn.graph.model import Model
from splitnn.runtime.engine import Engine, Executed
from splitnn.runtime.stage import stage
from splitnn.transport.base import Answer, HostReport, Probe, Request, Timings

T = TypeVar("T")
State = Literal["well", "dead", "black hole", "overloaded", "other model", "loading", "too large"]
NAME = "net"


class InlineEngine(Engine):
    """Runs on the loop and takes ``next_s`` of its time."""

    def __init__(self) -> None:
        """No thread."""
        self.next_s = 0.01

    async def run(self, function: Callable[[], T], *, deadline_s: float, size_bytes: int = 0) -> Executed[T]:
        now = asyncio.get_running_loop().time
        if now() >= deadline_s:
            raise DeadlineExceeded("too late")
        took_s = self.next_s
        await asyncio.sleep(took_s)
        return Executed(function(), 0.0, took_s)

    @property
    def waiting(self) -> int:
        return 0

    def utilisation(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


class FakeCloud:
    """``Transport`` and ``Control`` at once. Requests take what the link says, and then give the right answer.

    ``fault`` chooses a state for each request where it is set; ``state`` goes for everything else.
    """

    def __init__(self, model: Model, profile: Profile | None, *, link: str = "10Mbps/10ms") -> None:
        self.model = model
        self.profile = profile
        self.state: State = "well"
        self.fault: Callable[[], State] | None = None
        self.slowdown = 1.0
        self.asked = 0
        self.cancelled = 0
        self.probed_bytes = 0
        self.reports = 0
        self.profiles_sent = 0
        self.report_s = 0.0  # a report takes so much longer than other news
        self._link = asyncio.Lock()  # requests share it
        self.set_link(link)

    def set_link(self, link: str) -> None:
        self.up, self.down = parse_link(link)

    async def infer(self, request: Request) -> Answer:
        self.asked += 1
        state = self.fault() if self.fault else self.state
        try:
            await self._suffer(state, request.deadline_s)
            size = sum(value.nbytes for value in request.tensors.values() if not isinstance(value, int))
            began_s = asyncio.get_running_loop().time()
            async with self._link:
                await self._pass(size * 8 / self.up.bandwidth_bps, request.deadline_s)
            await self._pass(self.up.latency_s + self.down.transfer_seconds(100) + 0.001, request.deadline_s)
            elapsed_s = asyncio.get_running_loop().time() - began_s
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        assert request.digest == self.model.digest
        made = stage(self.model, tuple(request.tensors), request.wanted).run(request.tensors)
        return Answer(
            tensors=made,
            timings=Timings(compute_s=0.001, total_s=0.001),
            sent_bytes=size,
            received_bytes=100,
            elapsed_s=elapsed_s,
        )

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        now = asyncio.get_running_loop().time
        await self._suffer(
            "well" if self.state in ("overloaded", "other model", "loading", "too large") else self.state,
            now() + timeout_s,
        )
        self.probed_bytes += size_bytes
        elapsed_s = self.up.transfer_seconds(size_bytes) + self.down.latency_s
        await self._pass(elapsed_s, now() + timeout_s)
        return Probe(size_bytes, elapsed_s, now())

    async def get_profile(
        self, name: str, *, version: str = "", known_profile: str = "", timeout_s: float
    ) -> HostReport:
        await self._control(timeout_s)
        await asyncio.sleep(self.report_s)
        self.reports += 1
        profile_id = "" if self.profile is None else str(id(self.profile))
        sent = None if profile_id == known_profile else self.profile
        self.profiles_sent += sent is not None
        digest = "0" * 64 if self.state == "other model" else self.model.digest
        return HostReport(sent, slowdown=self.slowdown, digest=digest, profile_id=profile_id)

    async def close(self) -> None:
        pass

    async def _control(self, timeout_s: float) -> None:
        await self._suffer(
            "well" if self.state in ("overloaded", "too large") else self.state,
            asyncio.get_running_loop().time() + timeout_s,
        )
        await asyncio.sleep(0.02)

    async def _suffer(self, state: State, deadline_s: float) -> None:
        match state:
            case "dead":
                await asyncio.sleep(0.002)
                raise Unavailable("connection refused")
            case "loading":
                raise Unavailable("the server is loading its models")
            case "black hole":
                await asyncio.sleep(max(0.0, deadline_s - asyncio.get_running_loop().time()))
                raise DeadlineExceeded("no answer")
            case "overloaded":
                raise Overloaded("64 requests wait already", 5.0)
            case "too large":
                raise PayloadTooLarge("at most 10 bytes are accepted")
            case "other model":
                if self.asked:
                    raise DigestMismatch("the request is for another model")
            case _:
                pass

    async def _pass(self, seconds: float, deadline_s: float) -> None:
        now = asyncio.get_running_loop().time
        if now() + seconds > deadline_s:
            await asyncio.sleep(max(0.0, deadline_s - now()))
            raise DeadlineExceeded("no answer")
        await asyncio.sleep(seconds)
