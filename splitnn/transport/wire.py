"""Protobuf's wire format, as much of it as keeps tensors out of protobuf's hands.

A message whose large bytes field has its highest field number is the serialised rest followed by that field's entries.
So it can be joined from parts that are never copied into a message object, and taken apart without copying them out.
"""

from __future__ import annotations

from splitnn.errors import CodecError
from splitnn.transport.layout import Payload

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def entry(field: int, payload: Payload) -> tuple[bytes, Payload]:
    """One entry of a length-delimited field, as parts to join."""
    return delimiter(field, len(payload)), payload


def delimiter(field: int, size_bytes: int) -> bytes:
    """What precedes ``size_bytes`` bytes of a length-delimited field."""
    return _varint(field << 3 | _DELIMITED) + _varint(size_bytes)


def take_apart(message: Payload, field: int) -> tuple[bytes, list[memoryview]]:
    """The message without one length-delimited field, and that field's entries as views, in any order of fields.

    Raises:
        CodecError: not a protobuf message, or truncated.
    """
    view = memoryview(message)
    size, at, kept_from = len(view), 0, 0
    rest: list[memoryview] = []
    entries: list[memoryview] = []
    while at < size:
        start = at
        tag, at = _read_varint(view, at)
        kind = tag & 7
        if kind == _DELIMITED:
            length, at = _read_varint(view, at)
            if tag >> 3 == field and at + length <= size:
                rest.append(view[kept_from:start])
                entries.append(view[at : at + length])
                kept_from = at + length
            at += length
        elif kind == _VARINT:
            _, at = _read_varint(view, at)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        else:
            raise CodecError(f"not a protobuf message: wire type {kind} at byte {start}")
    if at != size:
        raise CodecError(f"a message of {size} bytes is truncated: its last field ends at byte {at}")
    rest.append(view[kept_from:])
    return b"".join(rest), entries


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(view: memoryview, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(view) and shift < 70:
        byte = view[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    raise CodecError("not a protobuf message: a number does not end")
