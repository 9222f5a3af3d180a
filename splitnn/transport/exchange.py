"""How one message goes and one comes back: a call each, or one stream kept open for all. Both ends of the stream.

A stream has no status for one request, so an error travels as a message: text, and the status in parameters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from splitnn.errors import CodecError, DeadlineExceeded, PayloadTooLarge, SplitnnError, Unavailable
from splitnn.proto import open_inference_pb2 as pb
from splitnn.transport.framing import LONGEST_S, Frame, Received, receive_answer, receive_request
from splitnn.transport.guard import Context, logger
from splitnn.transport.layout import Payload
from splitnn.transport.status import Status, error_of, error_of_call, status_of
from splitnn.transport.wire import delimiter, take_apart

_INFER_RESPONSE = 2  # field of ModelStreamInferResponse
_AT_ONCE = 64  # requests of one stream under way; then its reading waits
_BYTES_AT_ONCE = 128 * 2**20  # of their messages; likewise, but one more message is taken, however large


class UnaryExchange:
    """A call for each message."""

    carries_deadline = True

    def __init__(self, channel: grpc.aio.Channel, service: str) -> None:
        self._call: Any = channel.unary_unary(f"/{service}/ModelInfer", None, None)  # no serialisers: bytes both ways
        self._is_closed = False

    def naming(self, request_id: str) -> AbstractContextManager[str]:
        """The id that the message shall carry."""
        return nullcontext(request_id)

    async def exchange(self, message: bytes, *, message_id: str, timeout_s: float) -> Received:
        """The answer's message. Raises what ``Transport.infer`` raises."""
        if self._is_closed:
            raise Unavailable("this transport is closed")
        try:
            return receive_answer(await self._call(message, timeout=timeout_s if timeout_s < LONGEST_S else None))
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error
        except asyncio.CancelledError as error:
            if self._is_closed and not _is_cancelled():
                raise Unavailable("this transport was closed") from error
            raise

    async def close(self) -> None:
        self._is_closed = True


class StreamExchange:
    """One bidirectional stream for all messages; opened by the first and again after a failure."""

    carries_deadline = False

    def __init__(self, channel: grpc.aio.Channel, service: str) -> None:
        self._open: Any = channel.stream_stream(f"/{service}/ModelStreamInfer", None, None)
        self._stream: _Stream | None = None
        self._is_closed = False
        self._names: set[str] = set()
        self._named = 0

    @contextmanager
    def naming(self, request_id: str) -> Iterator[str]:
        """The id that the message shall carry: the caller's, made unique among those that may yet be answered."""
        late = self._stream.unanswered if self._stream is not None else ()
        name = request_id
        while not name or name in self._names or name in late:
            self._named += 1
            name = f"{request_id}#{self._named}"
        self._names.add(name)
        try:
            yield name
        finally:
            self._names.discard(name)

    async def exchange(self, message: bytes, *, message_id: str, timeout_s: float) -> Received:
        """The answer's message. Raises what ``Transport.infer`` raises."""
        if self._is_closed:
            raise Unavailable("this transport is closed")
        if self._stream is None or self._stream.is_broken:
            self._stream = _Stream(self._open())
        return await self._stream.ask(message, message_id, timeout_s)

    async def close(self) -> None:
        self._is_closed = True
        if self._stream is not None:
            await self._stream.close()


class _Stream:
    """The near end of one open stream. Answers find their askers by the message's id."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._waiting: dict[str, tuple[asyncio.Future[Received], int]] = {}  # with the message's size
        self.unanswered: set[str] = set()  # an answer may still come although its asker gave up
        self._outbox: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        # Cancelling a write ends the whole stream, so the writing is a task that no asker cancels.
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())

    @property
    def is_broken(self) -> bool:
        return self._reader.done()

    async def ask(self, message: bytes, key: str, timeout_s: float) -> Received:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Received] = loop.create_future()
        expiry = loop.call_later(min(timeout_s, LONGEST_S), _expire, answer, timeout_s)
        self._waiting[key] = answer, len(message)
        self.unanswered.add(key)
        self._outbox.put_nowait((key, message))
        try:
            return await answer
        finally:
            expiry.cancel()
            self._waiting.pop(key, None)

    async def close(self) -> None:
        self._call.cancel()
        await asyncio.wait([self._reader, self._writer])

    async def _write(self) -> None:
        try:
            while True:
                key, message = await self._outbox.get()
                if key in self._waiting:
                    await self._call.write(message)
                else:
                    self.unanswered.discard(key)  # nobody waits any more
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            self._call.cancel()  # the reader learns why and tells everybody

    async def _read(self) -> None:
        failure: SplitnnError = Unavailable("the stream ended")
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                self._deliver(message)
        except grpc.aio.AioRpcError as error:
            failure = error_of_call(error)
        except asyncio.CancelledError:
            failure = Unavailable("the stream was closed")
        except (SplitnnError, DecodeError) as error:
            self._call.cancel()
            failure = CodecError(f"the far side sent no answer: {error}")
        finally:
            self._writer.cancel()
            self._fail(failure)

    def _fail(self, failure: SplitnnError) -> None:
        """Tell everybody who waits. A message that is too large ends the stream for all, but only one is to blame."""
        largest = max((size_bytes for _, size_bytes in self._waiting.values()), default=0)
        for answer, size_bytes in self._waiting.values():
            is_bystander = isinstance(failure, PayloadTooLarge) and size_bytes < largest
            if not answer.done():
                answer.set_exception(Unavailable("another request broke the stream") if is_bystander else failure)

    def _deliver(self, message: bytes) -> None:
        rest, responses = take_apart(message, _INFER_RESPONSE)
        received = receive_answer(responses[-1] if responses else b"")
        self.unanswered.discard(received.head.id)
        answer, _ = self._waiting.get(received.head.id, (None, 0))
        if answer is None or answer.done():
            return  # its asker has given up
        text = pb.ModelStreamInferResponse.FromString(rest).error_message if rest else ""
        if not text:
            answer.set_result(received)
            return
        answer.set_exception(error_of(_status_in(received, text)))


async def serve_stream(
    messages: AsyncIterator[bytes],
    context: Context[Any, Any],
    answer: Callable[[Received], Awaitable[Frame]],
) -> None:
    """The far end: every message is answered once, as soon as it is ready. When the stream ends early, the requests
    under way are cancelled."""
    reading, writing = asyncio.Lock(), asyncio.Lock()
    readers = 0  # tasks that wait for a message: the one that gets it serves it, without a task or a turn of the loop
    held_bytes = 0
    has_room = asyncio.Event()
    has_room.set()

    async def read_and_serve() -> None:
        nonlocal readers, held_bytes
        while True:
            readers += 1
            async with reading:
                await has_room.wait()
                message = await anext(messages, None)
                if message is None:
                    return
                size_bytes = len(message)
                held_bytes += size_bytes
                if held_bytes >= _BYTES_AT_ONCE:
                    has_room.clear()
            readers -= 1
            if not readers and len(tasks) < _AT_ONCE:
                tasks.add(group.create_task(read_and_serve()))
            parts = await _response(message, answer)
            async with writing:
                with suppress(grpc.aio.BaseError):  # the near side is gone; reading ends too
                    await context.write(b"".join(parts))
            del message, parts  # the next one may be long in coming
            held_bytes -= size_bytes
            if held_bytes < _BYTES_AT_ONCE:
                has_room.set()

    async with asyncio.TaskGroup() as group:
        tasks = {group.create_task(read_and_serve())}


async def _response(message: bytes, answer: Callable[[Received], Awaitable[Frame]]) -> list[Payload]:
    message_id = ""
    try:
        received = receive_request(message)
        message_id = received.head.id
        parts = (await answer(received)).parts
        return [delimiter(_INFER_RESPONSE, sum(map(len, parts))), *parts]
    except Exception as error:  # noqa: BLE001 -- each one is answered
        return [_failure(error, message_id)]


def _expire(answer: asyncio.Future[Received], timeout_s: float) -> None:
    if not answer.done():
        answer.set_exception(DeadlineExceeded(f"no answer within {timeout_s:.3f} s"))


def _failure(error: Exception, message_id: str) -> bytes:
    status = status_of(error)
    if status.code is grpc.StatusCode.INTERNAL:
        logger.error("request %s failed inside", message_id, exc_info=error)
    response = pb.ModelInferResponse(id=message_id)
    response.parameters["splitnn_code"].string_param = status.code.name
    response.parameters["splitnn_error"].string_param = status.name
    if status.retry_after_s is not None:
        response.parameters["splitnn_retry_after_s"].double_param = status.retry_after_s
    whole = pb.ModelStreamInferResponse(error_message=status.message or status.code.name, infer_response=response)
    return whole.SerializeToString()


def _status_in(received: Received, text: str) -> Status:
    parameters = received.head.parameters
    code = parameters["splitnn_code"].string_param
    known = {each.name: each for each in grpc.StatusCode}
    after_s = parameters["splitnn_retry_after_s"].double_param if "splitnn_retry_after_s" in parameters else None
    return Status(known.get(code, grpc.StatusCode.UNKNOWN), text, parameters["splitnn_error"].string_param, after_s)


def _is_cancelled() -> bool:
    """Whether this task itself is cancelled. Closing a channel cancels its calls, which looks alike."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
