"""Protobuf's wire format, as much of it as keeps tensors out of protobuf's hands.

A message whose large bytes field has its highest field number is the serialised rest followed by that field's entries.
So it can be joined from parts that are never copied into a message object, and taken apart without copying them out.
"""

from __future__ import annotations

from typing import Any, overload

from splitnn.errors import CodecError, PayloadTooLarge
from splitnn.transport.layout import Payload

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5

MOST_ENTRIES = 4096
"""Entries of one field that a message may have: tensors, outputs, parameters."""
MOST_FIELDS = 4 * MOST_ENTRIES
"""Fields of any kind that a message may have. Two bytes make a field, so that a small message can hold millions."""
LONGEST_REST_BYTES = 2**20
"""What may remain of a message without the fields that are taken out of it."""


def delimiter(field: int, size_bytes: int) -> bytes:
    """What precedes ``size_bytes`` bytes of a length-delimited field."""
    if field < 16 and size_bytes < 128:
        return bytes((field << 3 | _DELIMITED, size_bytes))  # the usual case of names and heads, quickly
    return _varint(field << 3 | _DELIMITED) + _varint(size_bytes)


@overload
def take_apart(
    message: Payload, field: int, /, *, most_fields: int = MOST_FIELDS
) -> tuple[bytes, list[memoryview]]: ...
@overload
def take_apart(
    message: Payload, first: int, second: int, /, *, most_fields: int = MOST_FIELDS
) -> tuple[bytes, list[memoryview], list[memoryview]]: ...
def take_apart(message: Payload, /, *fields: int, most_fields: int = MOST_FIELDS) -> Any:
    """The message without some length-delimited fields, then the entries of each of them as views, in any order of
    fields.

    Raises:
        CodecError: not a protobuf message, or truncated.
        PayloadTooLarge: too many fields, or too large a rest; nothing after the first that is too many is looked at.
    """
    view = memoryview(message)
    size, at, kept_from = len(message), 0, 0
    left = most_fields
    rest: list[memoryview] = []
    found: dict[int, list[memoryview]] = {field << 3 | _DELIMITED: [] for field in fields}
    while at < size:
        start = at
        left -= 1
        if left < 0:
            raise PayloadTooLarge(f"more than {most_fields} fields in one message")
        tag = message[at]
        at += 1
        if tag > 127:
            tag, at = _read_varint(view, start)
        kind = tag & 7
        if kind == _DELIMITED:
            if at < size and message[at] < 128:
                end = at + 1 + message[at]
                at += 1
            else:
                length, at = _read_varint(view, at)
                end = at + length
            if tag in found and end <= size:
                if kept_from < start:
                    rest.append(view[kept_from:start])
                if len(found[tag]) == MOST_ENTRIES:
                    raise PayloadTooLarge(f"more than {MOST_ENTRIES} entries of one field in one message")
                found[tag].append(view[at:end])
                kept_from = end
            at = end
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
    if kept_from < size:
        rest.append(view[kept_from:])
    if (rest_bytes := sum(map(len, rest))) > LONGEST_REST_BYTES:
        raise PayloadTooLarge(
            f"{rest_bytes} bytes of one message are no tensors; at most {LONGEST_REST_BYTES} are read"
        )
    return b"".join(rest), *found.values()


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
