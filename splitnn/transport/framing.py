"""Requests and answers as messages of the standard protocol, and back: the values of ``base.py`` on one side, bytes on
the other. Both hosts use both directions, so what one writes is what the other reads.

Tensors never enter a protobuf object (see ``wire.py``). A decoded tensor of codec ``raw`` is a view of the message.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from google.protobuf.message import DecodeError

from splitnn.cost.codec_names import check_codec_names, no_codec
from splitnn.errors import CodecError, PayloadTooLarge
from splitnn.proto import open_inference_pb2 as pb
from splitnn.transport.base import Announcement, Answer, Clock, Limits, Parameter, Request, Timings
from splitnn.transport.codec import CODECS
from splitnn.transport.layout import Payload
from splitnn.transport.tensors import Described, EncodedTensor, check_amount, decode_tensors, described, encode_tensors
from splitnn.transport.wire import MOST_ENTRIES, delimiter, take_apart

RAW_INPUTS, RAW_OUTPUTS = 7, 6  # raw_input_contents, raw_output_contents
_ID, _TENSORS = 3, 5  # fields of requests and answers alike
_DOUBLE = struct.Struct("<d")
LONGEST_S = 1e8  # three years: a deadline beyond it is none, and fits into no timer
QUICK_BYTES = 16 * 2**10  # below it a thread costs more than a codec
_REMEMBERED = 1024  # heads and output lists that stay the same from request to request
_TIMINGS = tuple(f"splitnn_{stage}_s" for stage in ("decode", "queue", "compute", "encode", "total"))  # as in Timings


@dataclass(frozen=True, slots=True)
class Frame:
    """A message in parts: the serialised rest, then the tensors. ``b"".join(frame.parts)`` is the message."""

    parts: list[Payload]
    tensors: tuple[EncodedTensor, ...]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.parts))


@dataclass(frozen=True)
class Received:
    """A message taken apart: the head, what it says about its tensors, their bytes, and the size of the whole."""

    head: Any  # ModelInferRequest or ModelInferResponse, without tensors
    descriptions: list[memoryview]
    payloads: list[memoryview]
    size_bytes: int

    @cached_property
    def arrived(self) -> list[Described]:
        """What the descriptions say. Raises CodecError and PayloadTooLarge as ``described`` does."""
        return described(self.descriptions)

    @cached_property
    def decoded_bytes(self) -> int:
        """What the tensors take in memory once they are decoded."""
        return sum(tensor.decoded_bytes for tensor in self.arrived)

    @property
    def is_quick(self) -> bool:
        """Whether decoding takes so little time that the event loop may do it itself."""
        if self.payloads and all(tensor.codec == "raw" for tensor in self.arrived):
            return self.decoded_bytes <= self.size_bytes  # views; more where the strides leave gaps to fill
        return max(self.size_bytes, self.decoded_bytes) <= QUICK_BYTES


def request_frame(request: Request, *, message_id: str, timeout_s: float | None = None) -> Frame:
    """The request as a ModelInferRequest. ``timeout_s`` goes with it where nothing else carries the deadline.

    Raises:
        CodecError: there is no such codec, or a tensor cannot be encoded.
    """
    try:
        check_codec_names(request.codecs.values())
    except ValueError as error:
        raise CodecError(str(error)) from error
    descriptions, payloads, tensors = encode_tensors(request.tensors, request.codecs)
    codecs = tuple(request.codecs.get(name, "raw") for name in request.wanted)
    parts = (
        _names(request.model, request.version),
        _id(message_id),
        _parameters(request.parameters) if request.parameters else b"",
        _timeout(max(1, int(timeout_s * 1e3))) if timeout_s is not None and timeout_s < LONGEST_S else b"",
        _digest(request.digest) if request.digest else b"",
        descriptions,
        _outputs(request.wanted, codecs) if request.wanted else b"",
    )
    return _frame(b"".join(parts), payloads, tensors, field=RAW_INPUTS)


def answer_frame(
    answer: Answer, request: Request, *, message_id: str, arrived_s: float, decode_s: float, clock: Clock
) -> Frame:
    """The answer as a ModelInferResponse, its tensors in the codecs that the request names for them.

    ``arrived_s`` is when the request arrived, by ``clock``; its time in this host ends here. ``decode_s`` is what
    reading it took.

    Raises:
        CodecError: there is no such codec, or a tensor cannot be encoded.
    """
    started = clock()
    descriptions, payloads, tensors = encode_tensors(answer.tensors, request.codecs)
    ended = clock()
    stages = (decode_s, answer.timings.queue_s, answer.timings.compute_s, ended - started, ended - arrived_s)
    parts = [_names(request.model, answer.version), _id(message_id)]
    if answer.parameters:
        parts.append(_parameters(answer.parameters))
    for name, seconds in zip(_TIMINGS, stages, strict=True):
        if seconds:
            parts += (_double_parameter(name), _DOUBLE.pack(seconds))
    parts.append(descriptions)
    return _frame(b"".join(parts), payloads, tensors, field=RAW_OUTPUTS)


def check_size(frame: Frame, what: str, *, limits: Limits) -> None:
    """Raises PayloadTooLarge: the frame (of ``what``, for the message) is larger than any message that is sent."""
    if frame.size_bytes > limits.message_bytes:
        raise PayloadTooLarge(f"the {what} takes {frame.size_bytes} bytes; at most {limits.message_bytes} are sent")


def receive_request(message: Payload) -> Received:
    """Raises CodecError: not a ModelInferRequest; PayloadTooLarge: it has more fields, or larger, than any request."""
    return _receive(message, pb.ModelInferRequest, field=RAW_INPUTS)


def receive_answer(message: Payload) -> Received:
    """Raises what ``receive_request`` raises."""
    return _receive(message, pb.ModelInferResponse, field=RAW_OUTPUTS)


def timeout_s_of(received: Received) -> float:
    """Seconds that the request allows in its parameter ``timeout`` (Triton's, microseconds); infinite without one."""
    if "timeout" not in received.head.parameters:
        return math.inf
    timeout = received.head.parameters["timeout"]
    return (timeout.int64_param or timeout.uint64_param or math.inf) * 1e-6


def announcement(received: Received, *, limits: Limits) -> Announcement:
    """What the request of any client of the protocol says of itself. Nothing is decoded.

    Raises:
        CodecError: a tensor that is no tensor, or travels in a codec that does not exist; the message names it.
        PayloadTooLarge: the tensors would need more memory than the limits allow.
    """
    head = received.head
    arrived = received.arrived
    check_amount(arrived, received.payloads, limits=limits)
    codecs = {tensor.name: tensor.codec for tensor in arrived if tensor.codec != "raw"}
    wanted = tuple(head.outputs)
    codecs |= {output.name: _codec_of(output) for output in wanted if output.parameters}
    for name, chosen in codecs.items():
        if chosen not in CODECS:
            raise CodecError(f"tensor {name[:64]!r}: {no_codec(chosen)}")
    return Announcement(
        model=head.model_name,
        tensors={tensor.name: tensor.spec for tensor in arrived},
        version=head.model_version,
        digest=head.parameters["splitnn_digest"].string_param if "splitnn_digest" in head.parameters else "",
        wanted=tuple(output.name for output in wanted),
        codecs=codecs,
    )


def read_request(received: Received, announced: Announcement, *, deadline_s: float, request_id: str) -> Request:
    """The request of any client of the protocol, after its ``announcement``.

    Raises:
        CodecError: a tensor that is no tensor; the message names it.
    """
    head = received.head
    return Request(
        model=announced.model,
        version=announced.version,
        digest=announced.digest,
        request_id=request_id,
        tensors=decode_tensors(received.arrived, received.payloads, received.descriptions),
        codecs=announced.codecs,
        wanted=announced.wanted,
        parameters=_read_parameters(head.parameters, ("timeout", "splitnn_digest")),
        deadline_s=deadline_s,
    )


def read_answer(received: Received, *, limits: Limits) -> Answer:
    """The answer of any server of the protocol. Raises CodecError and PayloadTooLarge as ``announcement`` does."""
    check_amount(received.arrived, received.payloads, limits=limits)
    parameters = received.head.parameters
    stages = [parameters[name].double_param if name in parameters else 0.0 for name in _TIMINGS]
    return Answer(
        tensors=decode_tensors(received.arrived, received.payloads, received.descriptions),
        version=received.head.model_version,
        timings=Timings(*stages),
        parameters=_read_parameters(parameters, _TIMINGS),
        received_bytes=received.size_bytes,
    )


def _frame(head: bytes, payloads: list[Payload], tensors: tuple[EncodedTensor, ...], *, field: int) -> Frame:
    parts: list[Payload] = [head]
    for payload in payloads:
        parts += (delimiter(field, len(payload)), payload)
    return Frame(parts, tensors)


# Protobuf concatenates: a message is its fields' bytes one after the other. What is the same in every request of a
# model is written once and remembered.


@functools.lru_cache(_REMEMBERED)
def _names(model: str, version: str) -> bytes:
    written: bytes = pb.ModelInferRequest(model_name=model, model_version=version).SerializeToString()
    return written


def _id(message_id: str) -> bytes:
    written = message_id.encode()
    return delimiter(_ID, len(written)) + written if written else b""


def _parameters(parameters: Mapping[str, Parameter]) -> bytes:
    head = pb.ModelInferRequest()
    for name, value in parameters.items():
        match value:
            case bool():
                head.parameters[name].bool_param = value
            case int():
                head.parameters[name].int64_param = value
            case float():
                head.parameters[name].double_param = value
            case _:
                head.parameters[name].string_param = value
    written: bytes = head.SerializeToString()
    return written


@functools.lru_cache(_REMEMBERED)
def _timeout(milliseconds: int) -> bytes:
    return _parameters({"timeout": milliseconds * 1000})


@functools.lru_cache(_REMEMBERED)
def _digest(digest: str) -> bytes:
    return _parameters({"splitnn_digest": digest})


@functools.lru_cache(_REMEMBERED)
def _outputs(names: tuple[str, ...], codecs: tuple[str, ...]) -> bytes:
    head = pb.ModelInferRequest()
    for name, chosen in zip(names, codecs, strict=True):
        output = head.outputs.add(name=name)
        if chosen != "raw":
            output.parameters["codec"].string_param = chosen
    written: bytes = head.SerializeToString()
    return written


@functools.cache
def _double_parameter(name: str) -> bytes:
    """What precedes the eight bytes of a double in ``parameters``. Called with the names of timings only."""
    return _parameters({name: 1.0})[: -_DOUBLE.size]


def _codec_of(output: Any) -> str:
    return str(output.parameters["codec"].string_param) or "raw"


def _receive(message: Payload, kind: Any, *, field: int) -> Received:
    rest, descriptions, payloads = take_apart(message, _TENSORS, field)
    try:
        head = kind.FromString(rest)
    except DecodeError as error:
        raise CodecError(f"not a {kind.DESCRIPTOR.name}: {error}") from error
    if len(head.parameters) > MOST_ENTRIES or (field == RAW_INPUTS and len(head.outputs) > MOST_ENTRIES):
        raise PayloadTooLarge(f"more than {MOST_ENTRIES} parameters or outputs in one message")
    return Received(head, descriptions, payloads, len(message))


def _read_parameters(source: Mapping[str, Any], apart: tuple[str, ...]) -> dict[str, Parameter]:
    """The parameters but for those that are read apart from the rest."""
    if len(source) == sum(name in source for name in apart):
        return {}  # the usual case, quickly
    return {
        name: getattr(value, choice)
        for name, value in source.items()
        if name not in apart and (choice := value.WhichOneof("parameter_choice"))
    }
