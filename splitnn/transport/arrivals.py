"""How many requests a server owes an answer: from their last byte in until their answer's last byte is out.

What a service counts is less: a request that is still being decoded, and an answer that a slow link takes a while to
carry, are neither waiting nor running.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import grpc
import grpc.aio

from splitnn.transport.guard import Context
from splitnn.transport.open_inference import OPEN_INFERENCE

_UNARY, _STREAM = (f"/{OPEN_INFERENCE}/{method}" for method in ("ModelInfer", "ModelStreamInfer"))
_Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Arrivals(grpc.aio.ServerInterceptor):  # type: ignore[misc,type-arg,unused-ignore]
    """Counts the requests of one server, those on streams one by one. It refuses none: ``Service.expect`` does."""

    def __init__(self) -> None:
        self._owed = 0
        self._has_settled = asyncio.Event()
        self._reads = True
        self._readers: set[asyncio.Task[Any]] = set()  # tasks that wait for the next message of a stream

    async def intercept_service(self, continuation: Callable[..., Awaitable[Any]], handler_call_details: Any) -> Any:
        """See ``grpc.aio.ServerInterceptor``."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method not in (_UNARY, _STREAM):
            return handler
        codecs = handler.request_deserializer, handler.response_serializer
        if method == _UNARY:
            return grpc.unary_unary_rpc_method_handler(self._counted(handler.unary_unary), *codecs)
        return grpc.stream_stream_rpc_method_handler(self._counted_stream(handler.stream_stream), *codecs)

    async def settle(self, timeout_s: float) -> bool:
        """Wait until nothing is owed, then end the streams; True when that was within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._owed:
                    self._has_settled.clear()
                    await self._has_settled.wait()
        except TimeoutError:
            return False
        finally:
            self._reads = False
            for reader in self._readers:
                reader.cancel()
        return True

    def _settle_one(self, context: object = None) -> None:
        self._owed -= 1
        self._has_settled.set()

    def _counted(self, behaviour: _Behaviour) -> _Behaviour:
        async def counted(request: bytes, context: Any) -> Any:
            self._owed += 1
            context.add_done_callback(self._settle_one)  # the answer was handed to the system, or the peer has left
            return await behaviour(request, context)

        return counted

    def _counted_stream(self, behaviour: _Behaviour) -> _Behaviour:
        async def counted(messages: AsyncIterator[bytes], context: Any) -> None:
            stream = _Stream(context, self._settle_one)
            try:
                await behaviour(self._read(messages, stream), stream)
            finally:
                while stream.owed:
                    stream.settle()

        return counted

    async def _read(self, messages: AsyncIterator[bytes], stream: _Stream) -> AsyncIterator[bytes]:
        while self._reads:
            reader = cast("asyncio.Task[Any]", asyncio.current_task())  # of each message another one
            self._readers.add(reader)
            try:
                message = await anext(messages, None)
            except asyncio.CancelledError:
                if self._reads:
                    raise
                reader.uncancel()
                return
            finally:
                self._readers.discard(reader)
            if message is None:
                return
            self._owed += 1
            stream.owed += 1
            yield message


class _Stream:
    """The context of a stream, as far as its far end uses it: every message that was read is answered by one write."""

    def __init__(self, context: Context[Any, Any], settled: Callable[[], None]) -> None:
        self.owed = 0
        self._context = context
        self._settled = settled

    async def write(self, message: bytes) -> None:
        """Send one answer."""
        try:
            await self._context.write(message)
        finally:
            self.settle()

    def settle(self) -> None:
        self.owed -= 1
        self._settled()
