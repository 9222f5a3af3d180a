"""When does splitting pay?

``python -m experiments.splitting_pays --quick --json FILE``. For each model, input and device speed: between which
bandwidths a cut inside the network is the quickest way of all, and how much it gains on the better of both ends.

The server is this machine, measured with one thread; the device is the same profile so many times slower. Latencies are
predicted, by the exact envelope over all bandwidths; ``experiments.bandwidth_sweep`` measures them at single ones. A
``photo`` may travel as JPEG (quality 90), ``frames`` are what a sensor gives and nobody may alter: PNG or zstd. Tensors
inside travel without loss, or (``bits``) also as int8 and with four steps a root mean square, which kept 96 to 100 % of
EfficientNet-Lite0's answers on photos.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from splitnn import zoo
from splitnn.cost.estimate import price, tabulate
from splitnn.cost.machine import describe_machine
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.cost.profiler import profile
from splitnn.graph.capture import capture
from splitnn.graph.graph import Graph
from splitnn.planner.envelope import compute_envelope
from splitnn.runtime.handling import with_handling
from splitnn.transport.codec import CODECS

QUICK = ("efficientnet_lite0", "mobilenet_v2", "alexnet")
FULL = (*QUICK, "resnet18", "squeezenet1_1", "googlenet", "resnet50", "minilm_l6")
SLOWER = (2.0, 5.0, 10.0)
LOW_BPS, HIGH_BPS = 1e4, 1e9
_ALTERED = frozenset({"jpeg90"})
_INPUT = ("raw", "zstd", "png", "jpeg90")
_INSIDE: Mapping[str, tuple[str, ...]] = {"exact": ("raw", "zstd"), "bits": ("raw", "zstd", "int8+zstd", "even4")}
_LEAST_GAIN = 0.02  # what the sweep's own repeats cannot tell apart is no gain


@dataclass(frozen=True, slots=True)
class Row:
    """Where a cut wins. Bandwidths are None where it does not."""

    model: str
    content: str  # photo, frames or tensor
    inside: str  # exact or bits
    slower: float
    low_bps: float | None
    high_bps: float | None
    best_gain: float  # time of the better end over the cut's, less one
    best_bps: float | None
    ends_meet_bps: float | None  # from which on the cloud alone beats the device alone


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 0 when it was made."""
    parser = argparse.ArgumentParser(prog="python -m experiments.splitting_pays", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK)} models, about a minute")
    parser.add_argument("--models", type=lambda text: tuple(text.split(",")), metavar="A,B", help="of the zoo")
    parser.add_argument("--round-trip-ms", type=float, default=10.0, metavar="MS")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    names = options.models or (QUICK if options.quick else FULL)
    rows: list[Row] = []
    print(f"cloud: this machine, one thread; round trip {options.round_trip_ms:g} ms; predicted", flush=True)
    for done, name in enumerate(names):
        print(f"[{done + 1}/{len(names)}] {name}: profiling", file=sys.stderr, flush=True)
        rows += rows_of(name, round_trip_s=options.round_trip_ms / 1e3)
    print("\n".join(table(rows)))
    if options.json:
        about = {"machine": describe_machine(), "round_trip_s": options.round_trip_ms / 1e3}
        options.json.write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1))
    return 0


def rows_of(name: str, *, round_trip_s: float) -> list[Row]:
    """Measures one model of the zoo and asks where cuts of it win."""
    module, example = zoo.load(name)
    model = capture(module, example)
    asked = {codec: CODECS[codec] for codec in dict.fromkeys((*_INPUT, *_INSIDE["bits"]))}
    cloud = with_handling(profile(model, host="cloud", codecs=asked, budget_s=5.0))
    is_image = any("jpeg90" in cloud.codecs.get(tensor, {}) for tensor in model.graph.inputs)
    return [
        row_of(name, model.graph, cloud, content=content, inside=inside, slower=slower, round_trip_s=round_trip_s)
        for content in (("photo", "frames") if is_image else ("tensor",))
        for inside in _INSIDE
        for slower in SLOWER
    ]


def row_of(
    name: str, graph: Graph, cloud: Profile, *, content: str, inside: str, slower: float, round_trip_s: float
) -> Row:
    """The band in which a cut inside the network beats both ends by 2 % at least."""
    profiles = {"device": cloud.scaled(slower, host="device"), "cloud": cloud}
    entering = _INPUT if content == "photo" else tuple(codec for codec in _INPUT if codec not in _ALTERED)
    codecs = {tensor: entering if tensor in graph.inputs else _INSIDE[inside] for tensor in graph.tensors}
    envelope = compute_envelope(
        graph, profiles, topology(1e7, round_trip_s), codecs=codecs, low_bps=LOW_BPS, high_bps=HIGH_BPS, varying="both"
    )
    grid = np.geomspace(LOW_BPS, HIGH_BPS, 400)
    device_s, cloud_s = (
        np.array([end_s(graph, profiles, topology(float(bps), round_trip_s), codecs, tier=tier) for bps in grid])
        for tier in (0, 1)
    )
    gain = np.minimum(device_s, cloud_s) / np.array([envelope.latency_s(float(bps)) for bps in grid]) - 1
    wins = np.flatnonzero(gain >= _LEAST_GAIN)
    best = int(gain.argmax())
    meet = np.flatnonzero(cloud_s < device_s)
    return Row(
        model=name,
        content=content,
        inside=inside,
        slower=slower,
        low_bps=float(grid[wins[0]]) if wins.size else None,
        high_bps=float(grid[wins[-1]]) if wins.size else None,
        best_gain=float(gain[best]),
        best_bps=float(grid[best]) if wins.size else None,
        ends_meet_bps=float(grid[meet[0]]) if meet.size else None,
    )


def topology(bps: float, round_trip_s: float) -> Topology:
    """Both ways alike."""
    return Topology.chain(["device", "cloud"], [f"{bps:.0f}bps/{round_trip_s * 1e3:g}ms"])


def end_s(
    graph: Graph,
    profiles: Mapping[str, Profile],
    link: Topology,
    codecs: Mapping[str, Sequence[str]],
    *,
    tier: int,
) -> float:
    """Seconds of everything on one host."""
    table_of_costs = tabulate(graph, profiles, link, codecs=codecs)
    return price(graph, {layer.name: tier for layer in graph.layers}, table_of_costs).latency_s


def table(rows: Sequence[Row]) -> list[str]:
    """One line a model, input and coding; a column for each speed of the device."""
    lines = ["", f"{'model':20} {'input':7} {'inside':6}" + "".join(f"{f'device {s:g}x slower':>30}" for s in SLOWER)]
    keys = list(dict.fromkeys((row.model, row.content, row.inside) for row in rows))
    for key in keys:
        cells = [row for row in rows if (row.model, row.content, row.inside) == key]
        lines.append(f"{key[0]:20} {key[1]:7} {key[2]:6}" + "".join(f"{cell(row):>30}" for row in cells))
    return [*lines, "", "bands in Mbit/s where a cut beats both ends by 2 % or more, and the most that it gains"]


def cell(row: Row) -> str:
    """``0.4-3.1: +22%``, or where the ends meet when no cut wins."""
    if row.low_bps is None or row.high_bps is None:
        meet = "never" if row.ends_meet_bps is None else f"cloud from {row.ends_meet_bps / 1e6:.2g}"
        return f"no cut ({meet})"
    return f"{row.low_bps / 1e6:.2g}-{row.high_bps / 1e6:.2g}: +{row.best_gain:.0%}"


if __name__ == "__main__":
    sys.exit(main())
