"""The page that ``splitnn envelope --html`` writes: one file that a browser shows without anything else.

It holds every plan that is ever the best over bandwidth, round trip and load of the server, as numbers that latency
(and whatever else is wanted) is linear in, and evaluates them itself: whatever its sliders say, what it shows is exact.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import resources
from itertools import groupby
from typing import Any

from splitnn.cli.blocks import blocks_of
from splitnn.cli.two_hosts import TwoHosts
from splitnn.cli.wording import name_of
from splitnn.cost.estimate import codec_options
from splitnn.graph.graph import Graph
from splitnn.planner.conditions import Form
from splitnn.planner.constraints import Constraints
from splitnn.planner.forms import FormProblem
from splitnn.planner.hull import hull_candidates
from splitnn.planner.sensitivity import axes_of

LOADS = (0.1, 100.0)
"""How many times slower than its profile the server may be on the page."""

_IMAGE_CODECS = ("png", "jpeg90")  # as a user would send a photo


def render(given: TwoHosts, *, low_bps: float, high_bps: float) -> str:
    """The page as text.

    Raises:
        ProfileMismatch: a profile belongs to another model.
    """
    template = resources.files("splitnn.cli").joinpath("page.html").read_text(encoding="utf-8")
    content = json.dumps(page_data(given, low_bps=low_bps, high_bps=high_bps), allow_nan=False)
    # In a script element only "<" could end it or open a comment.
    filled = template.replace("{{DATA}}", content.replace("<", "\\u003c"))
    return filled.replace("{{TITLE}}", html.escape(given.name))


def page_data(given: TwoHosts, *, low_bps: float, high_bps: float) -> dict[str, Any]:
    """What the page knows."""
    graph, now = given.graph, given.topology
    problem, goals = given.problem(), given.goals
    axes = axes_of(problem, bandwidths_bps=(low_bps, high_bps), slowdowns=LOADS)
    bandwidth, load = axes[0], axes[-1]
    blocks = blocks_of(graph)
    runs = [list(run) for _, run in groupby(range(len(graph)), key=lambda i: blocks[graph.layers[i].name])]

    def shown(form: Form, name: str) -> dict[str, Any]:
        return _plan_data(form, name, graph, runs) | {"worth": _worth(form, problem)}

    plans = [shown(form, name_of(form, graph, blocks)) for form in hull_candidates(problem, bandwidth, load)]
    return {
        "model": given.name,
        "digest": given.digest[:12],
        "layers": len(graph),
        "codecs": list(given.codecs),
        "objective": goals.objective.name,
        "unit": goals.objective.unit,
        "constraints": [name for name, _ in goals.constraints.loosened()],
        "deadline_s": goals.constraints.deadline_s,
        "modelled": f"joules of {goals.power} and {goals.radio}" if "energy" in goals.objective.weights else None,
        "gap": problem.gap,
        "low_bps": low_bps,
        "high_bps": high_bps,
        "loads": LOADS,
        "bandwidth_bps": min(max(now.up[0].bandwidth_bps, low_bps), high_bps),
        "round_trip_s": now.up[0].latency_s + now.down[0].latency_s,
        "down_per_up": float(problem.now.down[0] / problem.now.up[0]),
        "hosts": [
            {
                "name": host.name,
                "error": given.profiles[host.name].error,
                "simulated": given.profiles[host.name].machine.get("simulated_slowdown"),
            }
            for host in now.hosts
        ],
        "columns": _columns(given, runs),
        "skips": _skips(graph, runs),
        "plans": plans,
        "baselines": [
            shown(form, name) | {"ruled_out": _ruled_out(given, problem, form)} for name, form in _baselines(given)
        ],
    }


def _plan_data(form: Form, name: str, graph: Graph, runs: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Seconds at the profiles' own speed, bits, and of each column the share of its layers in the cloud."""
    device_ns, cloud_ns, bits, down_bits, round_trips = form.weights
    return {
        "name": name,
        "device_s": form.compute_ns[0] * 1e-9,
        "encode_s": (device_ns - form.compute_ns[0] - form.handling_ns[0]) * 1e-9,
        "up_bits": bits * 1e-9,
        "round_trips": round_trips * 1e-9,
        "decode_s": (cloud_ns - form.compute_ns[1] - form.handling_ns[1]) * 1e-9,
        "cloud_s": form.compute_ns[1] * 1e-9,
        "handling_s": tuple(ns * 1e-9 for ns in form.handling_ns),  # at the device, at the cloud
        "down_bits": down_bits * 1e-9,
        "moved": [sum(form.tiers[i] for i in run) / len(run) for run in runs],
        "sent": [
            {
                "tensor": transfer.tensor,
                "codec": transfer.codec,
                "size_bytes": transfer.size_bytes,
                "raw_bytes": graph.tensors[transfer.tensor].size_bytes,
            }
            for transfer in form.transfers
        ],
    }


def _worth(form: Form, problem: FormProblem) -> dict[str, float]:
    """What is wanted, as numbers that it is linear in: seconds for latency.

    It is ``fixed + load * the server's slowdown + bit / bandwidth + trip * round trip``.
    """
    device, cloud, up, down, trip = form.aims
    return {
        "fixed": float(form.constant + device) * 1e-9,
        "load": float(cloud) * 1e-9,
        "bit": float(up + down * problem.now.down[0] / problem.now.up[0]) * 1e-9,
        "trip": float(trip) * 1e-9,
    }


def _ruled_out(given: TwoHosts, problem: FormProblem, form: Form) -> str:
    """What a baseline does not obey; empty when it may be chosen."""
    if not all(transfer.codec in given.codecs for transfer in form.transfers):
        return "--codecs rules it out"
    return next(iter(problem.obstacles(form)), "")


def _columns(given: TwoHosts, runs: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Neighbouring layers of one block; ``crosses`` is what would cross a cut before it, raw and encoded smallest."""
    graph = given.graph
    blocks = blocks_of(graph)
    options = codec_options(graph, 0, profiles=given.profiles, topology=given.topology, codecs=given.codecs)
    smallest = {tensor: min(way.size_bytes for way in ways) for tensor, ways in options.items()}
    columns = []
    for run in runs:
        names = [graph.layers[i].name for i in run]
        crossing = graph.crossing(layer.name for layer in graph.layers[: run[0]])
        device, cloud = (
            sum(given.profiles[host.name].seconds(name) * host.slowdown for name in names)
            for host in given.topology.hosts
        )
        columns.append(
            {
                "name": blocks[names[0]],
                "layers": len(run),
                "device_s": device,
                "cloud_s": cloud,
                "raw_bytes": sum(graph.tensors[tensor].size_bytes for tensor in crossing),
                "small_bytes": sum(smallest[tensor] for tensor in crossing),
            }
        )
    return columns


def _skips(graph: Graph, runs: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs of columns with another between them, where the later one reads what the earlier one makes."""
    column = {graph.layers[i].name: number for number, run in enumerate(runs) for i in run}
    pairs = {
        (column[graph.producer[tensor]], column[reader])
        for tensor, readers in graph.consumers.items()
        if tensor in graph.producer
        for reader in readers
    }
    return sorted((start, end) for start, end in pairs if end - start > 1)


def _baselines(given: TwoHosts) -> Iterable[tuple[str, Form]]:
    """No cut at all: the device alone, and the cloud with the input as a user would send it."""
    for codec in ("raw", *_IMAGE_CODECS):
        measured = all(
            codec in found.codecs.get(name, {}) for found in given.profiles.values() for name in given.graph.inputs
        )
        free = replace(given.goals, constraints=Constraints())
        problem = replace(given, goals=free).problem(codecs=(codec,))
        if codec == "raw":
            yield "device only", problem.priced((0,) * len(given.graph), problem.now)
        if codec == "raw" or measured:
            yield f"cloud, input as {codec}", problem.priced((1,) * len(given.graph), problem.now)
