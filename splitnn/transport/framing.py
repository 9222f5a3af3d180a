"""Requests and answers as messages of the standard protocol, and back: the values of ``base.py`` on one side, bytes on
the other. Both hosts use both directions, so what one writes is what the other reads.

Tensors never enter a protobuf object (see ``wire.py``). A decoded tensor of codec ``raw`` is a view of the message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from splitnn.errors import CodecError, PayloadTooLarge
from splitnn.proto import open_inference_pb2 as pb
from splitnn.transport.base import Answer, Clock, Limits, Parameter, Request, Timings
from splitnn.transport.layout import Payload
from splitnn.transport.tensors import EncodedTensor, codec_of, decode_tensors, described, encode_tensors
from splitnn.transport.wire import entry, take_apart

RAW_INPUTS, RAW_OUTPUTS = 7, 6  # raw_input_contents, raw_output_contents
_TIMINGS = tuple(f"splitnn_{stage}_s" for stage in ("decode", "queue", "compute", "encode", "total"))  # as in Timings
_MOST_TENSORS = 4096


@dataclass(frozen=True, slots=True)
class Frame:
    """A message in parts: the serialised rest, then the tensors. ``b"".join(frame.parts)`` is the message."""

    parts: list[Payload]
    tensors: tuple[EncodedTensor, ...]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.parts))


@dataclass(frozen=True, slots=True)
class Received:
    """A message taken apart: everything but the tensors, their bytes, and the size of the whole."""

    head: Any  # ModelInferRequest or ModelInferResponse
    payloads: list[memoryview]
    size_bytes: int


def request_frame(request: Request, *, message_id: str, timeout_s: float | None = None) -> Frame:
    """The request as a ModelInferRequest. ``timeout_s`` goes with it where nothing else carries the deadline.

    Raises:
        CodecError: a tensor cannot be encoded.
        ValueError: no such codec.
    """
    head = pb.ModelInferRequest(
        model_name=request.model,
        model_version=request.version,
        id=message_id,
    )
    _write_parameters(head.parameters, request.parameters)
    if timeout_s is not None:
        head.parameters["timeout"].int64_param = max(1, int(timeout_s * 1e6))
    if request.digest:
        head.parameters["splitnn_digest"].string_param = request.digest
    for name in request.wanted:
        output = head.outputs.add(name=name)
        if (chosen := request.codecs.get(name, "raw")) != "raw":
            output.parameters["codec"].string_param = chosen
    payloads, tensors = encode_tensors(head.inputs, request.tensors, request.codecs)
    return _frame(head, payloads, tensors, field=RAW_INPUTS)


def answer_frame(
    answer: Answer, request: Request, *, message_id: str, arrived_s: float, decode_s: float, clock: Clock
) -> Frame:
    """The answer as a ModelInferResponse, its tensors in the codecs that the request names for them.

    ``arrived_s`` is when the request arrived, by ``clock``; its time in this host ends here. ``decode_s`` is what
    reading it took.

    Raises:
        CodecError: a tensor cannot be encoded.
        ValueError: no such codec.
    """
    head = pb.ModelInferResponse(model_name=request.model, model_version=answer.version, id=message_id)
    _write_parameters(head.parameters, answer.parameters)
    started = clock()
    payloads, tensors = encode_tensors(head.outputs, answer.tensors, request.codecs)
    ended = clock()
    stages = (decode_s, answer.timings.queue_s, answer.timings.compute_s, ended - started, ended - arrived_s)
    for name, seconds in zip(_TIMINGS, stages, strict=True):
        if seconds:
            head.parameters[name].double_param = seconds
    return _frame(head, payloads, tensors, field=RAW_OUTPUTS)


def receive_request(message: Payload) -> Received:
    """Raises CodecError: not a ModelInferRequest."""
    return _receive(message, pb.ModelInferRequest, field=RAW_INPUTS)


def receive_answer(message: Payload) -> Received:
    """Raises CodecError: not a ModelInferResponse."""
    return _receive(message, pb.ModelInferResponse, field=RAW_OUTPUTS)


def timeout_s_of(received: Received) -> float:
    """Seconds that the request allows in its parameter ``timeout`` (Triton's, microseconds); infinite without one."""
    if "timeout" not in received.head.parameters:
        return math.inf
    timeout = received.head.parameters["timeout"]
    return (timeout.int64_param or timeout.uint64_param or math.inf) * 1e-6


def read_request(received: Received, *, limits: Limits, deadline_s: float, request_id: str) -> Request:
    """The request of any client of the protocol.

    Raises:
        CodecError: a tensor that is no tensor; the message names it.
        PayloadTooLarge: the tensors would need more memory than the limits allow.
    """
    head = received.head
    parameters = _read_parameters(head.parameters)
    digest = parameters.pop("splitnn_digest", "")
    parameters.pop("timeout", None)
    arrived = [described(tensor) for tensor in head.inputs]
    codecs = {tensor.name: tensor.codec for tensor in arrived if tensor.codec != "raw"}
    codecs |= {output.name: codec_of(output) for output in head.outputs if output.parameters}
    return Request(
        model=head.model_name,
        version=head.model_version,
        digest=str(digest),
        request_id=request_id,
        tensors=decode_tensors(arrived, received.payloads, head.inputs, limits=limits),
        codecs=codecs,
        wanted=tuple(output.name for output in head.outputs),
        parameters=parameters,
        deadline_s=deadline_s,
    )


def read_answer(received: Received, *, limits: Limits) -> Answer:
    """The answer of any server of the protocol. Raises CodecError and PayloadTooLarge as ``read_request`` does."""
    head = received.head
    parameters = _read_parameters(head.parameters)
    arrived = [described(tensor) for tensor in head.outputs]
    return Answer(
        tensors=decode_tensors(arrived, received.payloads, head.outputs, limits=limits),
        version=head.model_version,
        timings=Timings(*(_seconds(parameters.pop(name, 0.0)) for name in _TIMINGS)),
        parameters=parameters,
        received_bytes=received.size_bytes,
    )


def codecs_in(received: Received) -> set[str]:
    """Codecs of the tensors that came."""
    return {codec_of(tensor) for tensor in getattr(received.head, "inputs", ()) or received.head.outputs}


def _frame(head: Any, payloads: list[Payload], tensors: tuple[EncodedTensor, ...], *, field: int) -> Frame:
    parts: list[Payload] = [head.SerializeToString()]
    for payload in payloads:
        parts += entry(field, payload)
    return Frame(parts, tensors)


def _receive(message: Payload, kind: Any, *, field: int) -> Received:
    rest, payloads = take_apart(message, field)
    if len(payloads) > _MOST_TENSORS:
        raise PayloadTooLarge(f"{len(payloads)} tensors in one message; at most {_MOST_TENSORS}")
    try:
        return Received(kind.FromString(rest), payloads, len(message))
    except DecodeError as error:
        raise CodecError(f"not a {kind.DESCRIPTOR.name}: {error}") from error


def _seconds(value: Parameter) -> float:
    return value if isinstance(value, float) else 0.0


def _write_parameters(target: MutableMapping[str, Any], parameters: Mapping[str, Parameter]) -> None:
    for name, value in parameters.items():
        match value:
            case bool():
                target[name].bool_param = value
            case int():
                target[name].int64_param = value
            case float():
                target[name].double_param = value
            case _:
                target[name].string_param = value


def _read_parameters(source: Mapping[str, Any]) -> dict[str, Parameter]:
    return {
        name: getattr(value, choice)
        for name, value in source.items()
        if (choice := value.WhichOneof("parameter_choice"))
    }
