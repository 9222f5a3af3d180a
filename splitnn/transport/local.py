"""The transport without a network: the next stage in this process, everything else for real."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable

from splitnn.cost.network import Link
from splitnn.errors import DeadlineExceeded, Unavailable
from splitnn.instrument import Instrument
from splitnn.transport.base import DEFAULT_LIMITS, Answer, Clock, Limits, Probe, Request
from splitnn.transport.framing import (
    Frame,
    announcement,
    answer_frame,
    check_size,
    read_answer,
    read_request,
    receive_answer,
    receive_request,
    request_frame,
)


class LocalTransport:
    """A ``Transport`` to any ``async (Request) -> Answer``, such as ``service.infer``.

    The messages are built and parsed as on the wire, so tensors, codecs, errors and sizes are those of the real
    transport. ``up`` and ``down`` delay them as a link would: ``sleep`` is awaited with the link's seconds, so a test
    passes its own ``sleep`` and ``clock`` and simulates any network in no time.
    """

    def __init__(
        self,
        next_stage: Callable[[Request], Awaitable[Answer]],
        *,
        up: Link | None = None,
        down: Link | None = None,
        limits: Limits = DEFAULT_LIMITS,
        instrument: Instrument | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Clock = time.monotonic,
    ) -> None:
        self._next_stage = next_stage
        self._up, self._down = up, down
        self._limits = limits
        self._instrument = instrument or Instrument()
        self._sleep, self._clock = sleep, clock
        self._is_closed = False

    async def infer(self, request: Request) -> Answer:
        """See ``Transport.infer``."""
        self._check_open()
        started = self._clock()
        frame = request_frame(request, message_id=request.request_id)
        check_size(frame, "request", limits=self._limits)
        self._observe(frame, request)
        encoded = self._clock()
        try:
            async with asyncio.timeout(request.remaining_s(self._clock)):
                message = await self._far_side(b"".join(frame.parts), request)
                await self._travel(self._down, len(message))
        except TimeoutError as error:
            raise DeadlineExceeded("no answer within the deadline") from error
        if (arrived := self._clock()) > request.deadline_s:
            raise DeadlineExceeded(f"the answer came {arrived - request.deadline_s:.3f} s after the deadline")
        read = read_answer(receive_answer(message), limits=self._limits)
        self._instrument.answer_received(
            request_id=request.request_id, wire_bytes=len(message), seconds=arrived - encoded
        )
        return dataclasses.replace(
            read,
            sent_bytes=frame.size_bytes,
            encode_s=encoded - started,
            decode_s=self._clock() - arrived,
            elapsed_s=arrived - encoded,
        )

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        """See ``Transport.probe``."""
        self._check_open()
        started = self._clock()
        await self._travel(self._up, size_bytes)
        received_at_s = self._clock()
        await self._travel(self._down, 0)
        if self._clock() - started > timeout_s:
            raise DeadlineExceeded(f"no acknowledgement within {timeout_s} s")
        return Probe(size_bytes, self._clock() - started, received_at_s)

    async def close(self) -> None:
        """See ``Transport.close``."""
        self._is_closed = True

    async def _far_side(self, message: bytes, request: Request) -> bytes:
        await self._travel(self._up, len(message))
        started = self._clock()
        received = receive_request(message)
        announced = announcement(received, limits=self._limits)
        seen = read_request(received, announced, deadline_s=request.deadline_s, request_id=request.request_id)
        decode_s = self._clock() - started
        answer = await self._next_stage(seen)
        frame = answer_frame(
            answer, seen, message_id=request.request_id, arrived_s=started, decode_s=decode_s, clock=self._clock
        )
        check_size(frame, "answer", limits=self._limits)
        return b"".join(frame.parts)

    async def _travel(self, link: Link | None, size_bytes: int) -> None:
        if link is not None:
            await self._sleep(link.transfer_seconds(size_bytes))

    def _observe(self, frame: Frame, request: Request) -> None:
        for tensor in frame.tensors:
            self._instrument.tensor_encoded(
                request_id=request.request_id,
                tensor=tensor.name,
                codec=tensor.codec,
                raw_bytes=tensor.raw_bytes,
                wire_bytes=tensor.wire_bytes,
                seconds=tensor.seconds,
            )
        self._instrument.request_sent(request_id=request.request_id, wire_bytes=frame.size_bytes)

    def _check_open(self) -> None:
        if self._is_closed:
            raise Unavailable("this transport is closed")
