"""The tensors of a message: each is described in the message's head, and its bytes lie behind it.

A decoded tensor of codec ``raw`` is a view of the message. Requests and answers describe tensors in the same way, field
for field. A model sends the same descriptions with every request, so they are written and read once and then looked up.
"""

from __future__ import annotations

import functools
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from google.protobuf.message import DecodeError

from splitnn.cost.codec_names import no_codec
from splitnn.errors import CodecError, PayloadTooLarge
from splitnn.graph.graph import DTYPE_BYTES, TensorSpec
from splitnn.proto import open_inference_pb2 as pb
from splitnn.transport.base import Limits
from splitnn.transport.codec import CODECS, codec, working_bytes
from splitnn.transport.contents import dtype_of, typed_contents, wire_datatype
from splitnn.transport.layout import Layout, Payload, name_of, strides_of
from splitnn.transport.wire import LONGEST_REST_BYTES, delimiter, take_apart

_INT64 = struct.Struct("<q")
_TENSORS = 5  # inputs of ModelInferRequest, outputs of ModelInferResponse
_DESCRIPTIONS = 1024  # remembered in each direction; a model has some hundred tensors
_LONGEST_REMEMBERED_BYTES = 1024  # of a description that came from outside
_CONTENTS = 5  # of InferInputTensor and InferOutputTensor: typed contents, which may be as long as any tensor
_MOST_FIELDS = 64  # of one description: its name, a shape of 32 dimensions that is not packed, some parameters


@dataclass(frozen=True, slots=True)
class EncodedTensor:
    """What encoding one tensor took."""

    name: str
    codec: str
    raw_bytes: int
    wire_bytes: int
    seconds: float


def encode_tensors(
    tensors: Mapping[str, torch.Tensor | int], codecs: Mapping[str, str]
) -> tuple[bytes, list[Payload], tuple[EncodedTensor, ...]]:
    """The tensors' descriptions, as they stand in a request or an answer, and their bytes.

    Raises:
        CodecError: a tensor cannot be encoded; the message names it.
        ValueError: no such codec.
    """
    descriptions: list[bytes] = []
    payloads: list[Payload] = []
    encoded: list[EncodedTensor] = []
    for name, value in tensors.items():
        chosen = "raw" if isinstance(value, int) else codecs.get(name, "raw")
        started = time.perf_counter()
        try:
            if isinstance(value, int):
                payload: Payload = _INT64.pack(value)
                raw_bytes = _INT64.size
                description = _description(name, "int", (), (), chosen)
            else:
                payload = codec(chosen).encode(value)
                raw_bytes = value.nbytes
                description = _description(name, name_of(value.dtype), value.shape, strides_of(value), chosen)
        except (CodecError, struct.error) as error:
            raise CodecError(f"tensor {name!r}: {error}") from error
        descriptions.append(description)
        payloads.append(payload)
        encoded.append(EncodedTensor(name, chosen, raw_bytes, len(payload), time.perf_counter() - started))
    return b"".join(descriptions), payloads, tuple(encoded)


@functools.lru_cache(_DESCRIPTIONS)
def _description(name: str, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...], chosen: str) -> bytes:
    tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype=wire_datatype(dtype), shape=shape)
    if dtype == "int":
        tensor.parameters["kind"].string_param = "int"
    if chosen != "raw":
        tensor.parameters["codec"].string_param = chosen
    if strides:
        tensor.parameters["strides"].string_param = ",".join(map(str, strides))
    written: bytes = tensor.SerializeToString()
    return delimiter(_TENSORS, len(written)) + written


def decode_tensors(
    arrived: list[Described], payloads: list[memoryview], descriptions: list[memoryview]
) -> dict[str, torch.Tensor | int]:
    """The tensors that arrived; without payloads, from the typed contents that stand in their descriptions.

    ``check_amount`` comes first.

    Raises:
        CodecError: a tensor that is no tensor; the message names it.
    """
    result: dict[str, torch.Tensor | int] = {}
    for i, tensor in enumerate(arrived):
        try:
            if payloads:
                result[tensor.name] = _value(tensor, payloads[i])
            else:
                result[tensor.name] = typed_contents(_parsed(bytes(descriptions[i])), tensor.spec.shape)
        except CodecError as error:
            raise CodecError(f"tensor {tensor.name!r}: {error}") from error
    return result


def check_amount(arrived: list[Described], payloads: list[memoryview], *, limits: Limits) -> None:
    """Whether these tensors may be decoded at all.

    Raises:
        CodecError: a tensor comes twice or has no payload.
        PayloadTooLarge: they would need more memory than the limits allow.
    """
    if payloads and len(payloads) != len(arrived):
        raise CodecError(f"{len(arrived)} tensors are described but {len(payloads)} have raw contents")
    decoded_bytes = sum(tensor.decoded_bytes for tensor in arrived)
    if decoded_bytes > limits.decoded_bytes:
        raise PayloadTooLarge(f"the tensors take {decoded_bytes} bytes; at most {limits.decoded_bytes} are accepted")
    names: set[str] = set()
    for tensor in arrived:
        if tensor.name in names:
            raise CodecError(f"tensor {tensor.name[:64]!r} comes twice")
        names.add(tensor.name)


@dataclass(frozen=True, slots=True)
class Described:
    """What a message says about one of its tensors."""

    name: str
    spec: TensorSpec  # shape and dtype; "int" for a plain integer
    strides: tuple[int, ...]
    codec: str
    decoded_bytes: int  # in memory, gaps of the strides and what decoding takes included


def described(descriptions: list[memoryview]) -> list[Described]:
    """What InferInputTensors or InferOutputTensors say; their typed contents are not looked at.

    Raises:
        CodecError: one is no description of a tensor.
        PayloadTooLarge: they are longer than descriptions ever are.
    """
    found: list[Described] = []
    read_bytes = 0
    for description in descriptions:
        if len(description) <= _LONGEST_REMEMBERED_BYTES:
            head = bytes(description)
            found.append(_known_description(head))
        else:
            head, _ = take_apart(description, _CONTENTS, most_fields=_MOST_FIELDS)
            found.append(_read_description(head))
        read_bytes += len(head)
        if read_bytes > LONGEST_REST_BYTES:
            raise PayloadTooLarge(f"the descriptions of the tensors take more than {LONGEST_REST_BYTES} bytes")
    return found


def _read_description(description: bytes) -> Described:
    tensor = _parsed(description)
    name = tensor.name
    try:
        dtype, shape = dtype_of(tensor.datatype), tuple(tensor.shape)
        texts = {key: str(value.string_param) for key, value in tensor.parameters.items()}
        layout = Layout(shape, _strides(texts))
        decoded_bytes = max(layout.elements, layout.span) * DTYPE_BYTES[dtype]
        spec = TensorSpec(shape, dtype)
        if texts.get("kind") == "int":
            if spec != TensorSpec(shape, "int64") or layout.elements != 1:
                raise CodecError(f"a plain integer is one INT64, not {dtype} of shape {shape}")
            spec = TensorSpec((), "int")
        chosen = texts.get("codec") or "raw"
        return Described(name, spec, layout.strides, chosen, decoded_bytes + working_bytes(chosen, layout, dtype))
    except CodecError as error:
        raise CodecError(f"tensor {name!r}: {error}") from error


_known_description = functools.lru_cache(_DESCRIPTIONS)(_read_description)


def _parsed(description: bytes) -> Any:
    try:
        return pb.ModelInferRequest.InferInputTensor.FromString(description)
    except DecodeError as error:
        raise CodecError(f"not the description of a tensor: {error}") from error


def _value(tensor: Described, payload: memoryview) -> torch.Tensor | int:
    if tensor.spec.dtype == "int":
        if len(payload) != _INT64.size:
            raise CodecError(f"a plain integer is one INT64 of 8 bytes, not of {len(payload)} bytes")
        return int(_INT64.unpack(payload)[0])
    if tensor.codec not in CODECS:
        raise CodecError(no_codec(tensor.codec))
    return CODECS[tensor.codec].decode(payload, tensor.spec.shape, tensor.spec.dtype, tensor.strides)


def _strides(texts: Mapping[str, str]) -> tuple[int, ...]:
    text = texts.get("strides", "")
    try:
        return tuple(int(part) for part in text[:1000].split(",")) if text else ()
    except ValueError as error:
        raise CodecError(f"strides {text[:100]!r} are no list of integers") from error
