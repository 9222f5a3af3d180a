"""The tensors of a message: each is described in the message's head, and its bytes lie behind it.

A decoded tensor of codec ``raw`` is a view of the message. Requests and answers describe tensors in the same way.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from splitnn.errors import CodecError, PayloadTooLarge
from splitnn.graph.graph import DTYPE_BYTES
from splitnn.transport.base import Limits
from splitnn.transport.codec import CODECS, codec
from splitnn.transport.contents import dtype_of, typed_contents, wire_datatype
from splitnn.transport.layout import Layout, Payload, dtype_named, name_of, strides_of

_INT64 = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class EncodedTensor:
    """What encoding one tensor took."""

    name: str
    codec: str
    raw_bytes: int
    wire_bytes: int
    seconds: float


def encode_tensors(
    entries: Any, tensors: Mapping[str, torch.Tensor | int], codecs: Mapping[str, str]
) -> tuple[list[Payload], tuple[EncodedTensor, ...]]:
    """Describe the tensors in ``entries`` (repeated InferInputTensor or InferOutputTensor) and encode them.

    Raises:
        CodecError: a tensor cannot be encoded; the message names it.
        ValueError: no such codec.
    """
    payloads: list[Payload] = []
    encoded: list[EncodedTensor] = []
    for name, value in tensors.items():
        chosen = "raw" if isinstance(value, int) else codecs.get(name, "raw")
        started = time.perf_counter()
        try:
            if isinstance(value, int):
                payload: Payload = _INT64.pack(value)
                entries.add(name=name, datatype="INT64").parameters["kind"].string_param = "int"
            else:
                payload = codec(chosen).encode(value)
                tensor = entries.add(name=name, datatype=wire_datatype(name_of(value.dtype)), shape=value.shape)
                if chosen != "raw":
                    tensor.parameters["codec"].string_param = chosen
                if strides := strides_of(value):
                    tensor.parameters["strides"].string_param = ",".join(map(str, strides))
        except (CodecError, struct.error) as error:
            raise CodecError(f"tensor {name!r}: {error}") from error
        seconds = time.perf_counter() - started
        raw_bytes = 8 if isinstance(value, int) else value.numel() * value.element_size()
        encoded.append(EncodedTensor(name, chosen, raw_bytes, len(payload), seconds))
        payloads.append(payload)
    return payloads, tuple(encoded)


def decode_tensors(
    arrived: list[Described], payloads: list[memoryview], entries: Any, *, limits: Limits
) -> dict[str, torch.Tensor | int]:
    """The tensors that ``entries`` describe; without payloads, from their typed contents.

    Raises:
        CodecError: a tensor that is no tensor; the message names it.
        PayloadTooLarge: they would need more memory than the limits allow; nothing was decoded.
    """
    if payloads and len(payloads) != len(arrived):
        raise CodecError(f"{len(arrived)} tensors are described but {len(payloads)} have raw contents")
    decoded_bytes = sum(_decoded_bytes(tensor) for tensor in arrived)
    if decoded_bytes > limits.decoded_bytes:
        raise PayloadTooLarge(f"the tensors take {decoded_bytes} bytes; at most {limits.decoded_bytes} are accepted")
    result: dict[str, torch.Tensor | int] = {}
    for i, tensor in enumerate(arrived):
        if tensor.name in result:
            raise CodecError(f"tensor {tensor.name!r} comes twice")
        try:
            if payloads:
                result[tensor.name] = _value(tensor, payloads[i])
            else:
                result[tensor.name] = typed_contents(entries[i], tensor.shape)
        except CodecError as error:
            raise CodecError(f"tensor {tensor.name!r}: {error}") from error
    return result


@dataclass(frozen=True, slots=True)
class Described:
    """What a message says about one of its tensors."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    codec: str
    is_int: bool


def _decoded_bytes(tensor: Described) -> int:
    try:
        if not tensor.strides and min(tensor.shape, default=0) >= 0:
            return math.prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]  # the usual case, quickly
        layout = Layout(tensor.shape, tensor.strides)
        return max(layout.elements, layout.span) * dtype_named(tensor.dtype).itemsize
    except CodecError as error:
        raise CodecError(f"tensor {tensor.name!r}: {error}") from error


def described(tensor: Any) -> Described:
    """What an InferInputTensor or InferOutputTensor says. Raises CodecError."""
    name = tensor.name
    try:
        dtype, shape = dtype_of(tensor.datatype), tuple(tensor.shape)
        if not tensor.parameters:
            return Described(name, dtype, shape, (), "raw", is_int=False)
        texts = {key: str(value.string_param) for key, value in tensor.parameters.items()}
        is_int = texts.get("kind") == "int"
        return Described(name, dtype, shape, _strides(texts), texts.get("codec") or "raw", is_int)
    except CodecError as error:
        raise CodecError(f"tensor {name!r}: {error}") from error


def _value(tensor: Described, payload: memoryview) -> torch.Tensor | int:
    if tensor.is_int:
        if tensor.dtype != "int64" or len(payload) != _INT64.size:
            raise CodecError(f"a plain integer is one INT64 of 8 bytes, not {tensor.dtype} of {len(payload)} bytes")
        return int(_INT64.unpack(payload)[0])
    if tensor.codec not in CODECS:
        raise CodecError(f"no codec is called {tensor.codec!r}; there are {', '.join(CODECS)}")
    return CODECS[tensor.codec].decode(payload, tensor.shape, tensor.dtype, tensor.strides)


def codec_of(tensor: Any) -> str:
    """The codec that a tensor's, or a requested output's, parameters name."""
    return str(tensor.parameters["codec"].string_param) or "raw" if tensor.parameters else "raw"


def _strides(texts: Mapping[str, str]) -> tuple[int, ...]:
    text = texts.get("strides", "")
    try:
        return tuple(int(part) for part in text[:1000].split(",")) if text else ()
    except ValueError as error:
        raise CodecError(f"strides {text[:100]!r} are no list of integers") from error
