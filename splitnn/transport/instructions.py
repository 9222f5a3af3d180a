"""How a client without our code writes a tensor in a codec: every byte of the payload, in numbers and in words.

Only codecs that are short to describe are written so. A tensor of such a client is contiguous.
"""

from __future__ import annotations

import math
from typing import Any

from splitnn.cost.codec_names import check_codec_names
from splitnn.graph.graph import TensorSpec
from splitnn.transport.codec import CODECS, Codec
from splitnn.transport.contents import wire_datatype
from splitnn.transport.lz4 import Lz4
from splitnn.transport.quantize import range_count
from splitnn.transport.raw import Inner
from splitnn.transport.zstd import Zstd

_RAW_INSTEAD = "send the tensor raw, without the parameter codec: any tensor of any request may be"
_ROUNDED = (
    "each element in the two bytes of {kind}, rounded to nearest, ties to even, subnormals kept (FP64: to FP32 first)"
)

FORMS = {
    "raw": ("elements: each as its datatype, row-major, little-endian",),
    "fp16": (
        f"elements: {_ROUNDED.format(kind='IEEE half precision')}; row-major, little-endian",
        f"where one is NaN or infinite after rounding (65520 and beyond is), {_RAW_INSTEAD}",
    ),
    "bf16": (
        f"elements: {_ROUNDED.format(kind='bfloat16, the upper half of FP32')}; row-major, little-endian",
        f"where one is NaN or infinite after rounding, {_RAW_INSTEAD}",
    ),
    "int8": (
        "the elements, as FP32 and row-major, are cut into ranges of values_a_range consecutive ones",
        "ranges: how many; then all minima, all steps, and a code for each element; little-endian",
        "minima: the least element of each range; a zero may have either sign",
        "steps: (greatest - least) / 255 of each range, in FP32; where that is below 1.17549435e-38, 0",
        "codes: (element - minimum) * (1 / step), each operation in FP32, then rounded to a whole number, ties to "
        "even, at most 255; 0 where the step is 0",
        "the server computes minimum + code * step in FP32, so it understands a client that rounds otherwise",
        f"NaN and infinity have no code, and where minimum + 256 * step is infinite there is no range: {_RAW_INSTEAD}",
    ),
}
"""What the parts of a payload hold."""

PACKINGS = {
    "zstd": ("all parts together in one zstd frame of any level, which states its content size; nothing follows it",),
    "lz4": (
        "the size of all parts together in bytes (UINT32, little-endian), then they in one LZ4 block, not a frame",
    ),
}
"""What the parts of a payload may be packed in."""


def _taken_apart(found: Codec) -> tuple[Codec | Inner, str | None]:
    """The form, and what its bytes are packed in."""
    match found:
        case Zstd():
            return found.inner, "zstd"
        case Lz4():
            return found.inner, "lz4"
    return found, None


def _place(name: str) -> tuple[int, int]:
    """By form, bare before packed."""
    form, packing = _taken_apart(CODECS[name])
    return list(FORMS).index(form.name), [None, *PACKINGS].index(packing)


WRITABLE = tuple(sorted((name for name, found in CODECS.items() if _taken_apart(found)[0].name in FORMS), key=_place))
"""The codecs that ``instructions`` can describe, raw first and then form by form."""


def instructions(name: str, spec: TensorSpec) -> dict[str, Any]:
    """What to write for a tensor of this spec: ``parameters`` of the tensor in a request, and its ``payload``.

    Raises:
        ValueError: there is no such codec, it is not described here, or takes no such tensors.
    """
    check_codec_names([name])
    if name not in WRITABLE:
        raise ValueError(
            f"codec {name!r} is not one that a client without our code can be told to write; these are: "
            f"{', '.join(WRITABLE)}"
        )
    found = CODECS[name]
    if not (found.accepts(spec) or (name == "raw" and spec.dtype == "int")):
        raise ValueError(f"codec {name} takes no tensors of {spec.dtype}")
    form, packing = _taken_apart(found)
    payload: dict[str, Any] = {"form": form.name, "parts": _parts(form.name, spec), "packed_in": packing}
    if form.name == "int8":
        payload["values_a_range"] = math.prod(spec.shape) // max(1, range_count(spec.shape))
    return {
        "codec": name,
        "lossless": found.lossless,
        "parameters": {} if name == "raw" else {"codec": {"string_param": name}},
        "payload": payload,
    }


def _parts(form: str, spec: TensorSpec) -> list[dict[str, Any]]:
    """What lies one after the other."""
    count = math.prod(spec.shape)
    match form:
        case "int8":
            ranges = range_count(spec.shape)
            parts = [
                ("ranges", "UINT32", 1),
                ("minima", "FP32", ranges),
                ("steps", "FP32", ranges),
                ("codes", "UINT8", count),
            ]
        case "fp16" | "bf16":
            parts = [("elements", form.upper(), count)]
        case _:
            parts = [("elements", wire_datatype(spec.dtype), count)]
    return [{"holds": holds, "datatype": datatype, "count": count} for holds, datatype, count in parts]
