"""A slower device than this one, by time scaling: after each piece of work, sleep for what it would have taken longer.

Results stay what they are. Whoever uses this says so in the log and in every answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypeVar

from splitnn.runtime.engine import Engine, Executed
from splitnn.transport.base import Answer, Probe, Request, Transport

_T = TypeVar("_T")


class SlowEngine(Engine):
    """An engine on a processor that is ``factor`` times slower: CPU time is what scales, waiting is not."""

    def __init__(self, name: str, *, factor: float, **options: Any) -> None:
        super().__init__(name, **options)
        self._factor = factor

    async def run(self, function: Callable[[], _T], *, deadline_s: float, size_bytes: int = 0) -> Executed[_T]:
        """See ``Engine.run``."""

        def slowly() -> _T:
            started_s = time.thread_time()
            result = function()
            time.sleep((self._factor - 1) * (time.thread_time() - started_s))
            return result

        return await super().run(slowly, deadline_s=deadline_s, size_bytes=size_bytes)


class SlowTransport:
    """A transport whose near side encodes and decodes ``factor`` times slower."""

    def __init__(self, transport: Transport, *, factor: float) -> None:
        self._transport = transport
        self._factor = factor

    async def infer(self, request: Request) -> Answer:
        """See ``Transport.infer``. The time of both codecs is slept after the answer."""
        answer = await self._transport.infer(request)
        await asyncio.sleep((self._factor - 1) * (answer.encode_s + answer.decode_s))
        return dataclasses.replace(
            answer, encode_s=answer.encode_s * self._factor, decode_s=answer.decode_s * self._factor
        )

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        """See ``Transport.probe``."""
        return await self._transport.probe(size_bytes, timeout_s=timeout_s)

    async def close(self) -> None:
        """See ``Transport.close``."""
        await self._transport.close()
