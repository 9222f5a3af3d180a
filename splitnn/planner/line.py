"""A plan as one line: ``device 0-45 | features.3.2=int8 | cloud 46-160 | model 3fa29c51d0b7 | exact | 41.2 ms``.

Fields are separated by `` | ``. Hosts and hops alternate: a host with the positions of its layers in ``Graph.layers``,
then the tensors that cross the hop to the next host, each with its codec; ``-`` stands for none. Blanks, ``|``, ``%``
and what is not ASCII are written in tensors' names as in URLs. The model's digest, the mode and the predicted latency
close the line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

_PLAIN = "!\"#$&'()*+,/:;<>?@[\\]^`{}~"  # besides letters, digits and "_.-": printed in names as they are


_SHORT, _A_LAYER = 4096, 1024  # characters of a line: of all that is not about layers, and for each layer


@dataclass(frozen=True, slots=True)
class Line:
    """What a line says."""

    hosts: tuple[str, ...]
    tiers: tuple[int, ...]
    hops: tuple[Mapping[str, str], ...]
    model: str
    mode: str
    latency_s: float


def print_line(line: Line) -> str:
    """The one line."""
    fields = []
    for tier, host in enumerate(line.hosts):
        fields.append(f"{host} {_print_positions([i for i, at in enumerate(line.tiers) if at == tier])}")
        if tier < len(line.hops):
            tensors = (f"{quote(name, _PLAIN)}={codec}" for name, codec in line.hops[tier].items())
            fields.append(" ".join(tensors) or "-")
    return " | ".join([*fields, f"model {line.model}", line.mode, f"{line.latency_s * 1e3:.4g} ms"])


def parse_line(text: str, layers: int) -> Line:
    """What ``print_line`` wrote about a model of so many layers.

    Raises:
        ValueError: the text is no such line.
    """
    if len(text) > (longest := _SHORT + _A_LAYER * layers):
        raise ValueError(f"not a plan: a line of {len(text)} characters; one of {layers} layers has at most {longest}")
    fields = [field.strip() for field in text.strip().split(" | ")]
    if len(fields) < 4 or len(fields) % 2:
        raise ValueError(f"not a plan: {text[:200]!r} has {len(fields)} fields separated by ' | '")
    *places, model, mode, latency = fields
    digest = re.fullmatch(r"model (\S+)", model)
    seconds = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?) ms", latency)
    if not digest or not seconds:
        raise ValueError(f"not a plan: it ends in {' | '.join(fields[-3:])!r}, not in 'model DIGEST | MODE | TIME ms'")
    latency_s = float(seconds[1]) / 1e3
    if not math.isfinite(latency_s):
        raise ValueError(f"not a plan: a latency of {latency}")
    hosts = []
    tiers = [-1] * layers
    for tier, field in enumerate(places[0::2]):
        host, _, positions = field.partition(" ")
        if not positions or host in hosts:
            raise ValueError(f"not a plan: {field!r} is no new host with its layers")
        hosts.append(host)
        for position in _parse_positions(positions, layers):
            if tiers[position] >= 0:
                raise ValueError(f"not a plan: layer {position} runs on {hosts[tiers[position]]!r} and on {host!r}")
            tiers[position] = tier
    if -1 in tiers:
        raise ValueError(f"not a plan of this model: no host for layer {tiers.index(-1)} of {layers}")
    hops = tuple(_parse_tensors(field) for field in places[1::2])
    return Line(tuple(hosts), tuple(tiers), hops, digest[1], mode, latency_s)


def _print_positions(positions: Sequence[int]) -> str:
    """Ascending positions as ranges: ``0-45,47``; ``-`` for none."""
    ranges: list[list[int]] = []
    for position in positions:
        if ranges and position == ranges[-1][1] + 1:
            ranges[-1][1] = position
        else:
            ranges.append([position, position])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges) or "-"


def _parse_positions(text: str, layers: int) -> list[int]:
    if text == "-":
        return []
    positions: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if not match:
            raise ValueError(f"not a plan: {part!r} is no range of layers")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last < layers:
            raise ValueError(f"not a plan of this model: layers {part}; it has 0 to {layers - 1}")
        if len(positions) + last - first >= layers:  # before they are written out: a short line says it often
            raise ValueError(f"not a plan: layers {part} come twice")
        positions.extend(range(first, last + 1))
    return positions


def _parse_tensors(text: str) -> dict[str, str]:
    tensors: dict[str, str] = {}
    for part in text.split() if text != "-" else ():
        name, equals, codec = part.rpartition("=")
        if not name or not equals or not codec:
            raise ValueError(f"not a plan: {part!r} is no TENSOR=CODEC")
        if unquote(name) in tensors:
            raise ValueError(f"not a plan: tensor {unquote(name)!r} crosses a hop twice")
        tensors[unquote(name)] = codec
    return tensors
