"""How plans and quantities read on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from splitnn.graph.graph import Graph
from splitnn.planner.conditions import Conditions, Form

PART_NAMES = ("device", "encode", "wire", "round trip", "decode", "cloud", "download", "handling")


class Parts(NamedTuple):
    """Where the seconds of one request go, with two hosts; in the order of time.

    Handling is what messages and stages cost at both hosts however large they are.
    """

    device_s: float
    encode_s: float
    wire_s: float
    round_trip_s: float
    decode_s: float
    cloud_s: float
    download_s: float
    handling_s: float

    @classmethod
    def of(cls, form: Form, conditions: Conditions) -> Parts:
        """The parts of a form's latency."""
        near, far = conditions.slowdown
        device_ns, cloud_ns, bits, _, round_trips = form.weights
        handling_ns = form.handling_ns[0] * near + form.handling_ns[1] * far
        return cls(
            device_s=float(form.compute_ns[0] * near) * 1e-9,
            encode_s=float((device_ns - form.compute_ns[0] - form.handling_ns[0]) * near) * 1e-9,
            wire_s=float(bits * conditions.up[0]) * 1e-9,
            round_trip_s=float(round_trips * conditions.round_trip_s[0]) * 1e-9,
            decode_s=float((cloud_ns - form.compute_ns[1] - form.handling_ns[1]) * far) * 1e-9,
            cloud_s=float(form.compute_ns[1] * far) * 1e-9,
            download_s=float(form.download_bits[0] * conditions.down[0]),
            handling_s=float(handling_ns) * 1e-9,
        )


def name_of(form: Form, graph: Graph, blocks: Mapping[str, str]) -> str:
    """What a plan for two hosts does: ``cut after features.3, features.3.conv as int8``."""
    sent = [(transfer.tensor, transfer.codec) for transfer in form.transfers]
    named = [f"{tensor} as {codec}" for tensor, codec in sent if graph.tensors[tensor].dtype != "int"]
    if not any(form.tiers):
        return "all on device"
    if all(form.tiers):
        return ", ".join(["all on cloud", *named])
    return ", ".join([_place(form.tiers, graph, blocks), *named])


def _place(tiers: Sequence[int], graph: Graph, blocks: Mapping[str, str]) -> str:
    """Where the last layer on the device lies."""
    last = max(position for position, tier in enumerate(tiers) if tier == 0)
    block = blocks[graph.layers[last].name]
    inside = {tier for tier, layer in zip(tiers, graph.layers, strict=True) if blocks[layer.name] == block}
    return f"cut {'inside' if len(inside) > 1 else 'after'} {block}"


def format_seconds(seconds: float) -> str:
    """Three or four digits and a unit: ``17.4 ms``."""
    if seconds >= 1:
        return f"{seconds:.4g} s"
    return f"{seconds * 1e3:.4g} ms" if seconds >= 1e-4 or seconds == 0 else f"{seconds * 1e6:.3g} us"


def format_amount(value: float, unit: str) -> str:
    """An amount of what is wanted: ``17.4 ms``, ``15.7 KB``, ``0.352 J``."""
    if unit == "s":
        return format_seconds(value)
    return format_bytes(value) if unit == "bytes" else f"{value:.4g} {unit}"


def format_bytes(size: float) -> str:
    """One decimal and a unit: ``15.7 KB``."""
    for unit, factor in (("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"
