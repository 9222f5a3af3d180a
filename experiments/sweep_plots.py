"""One picture a model: latency against bandwidth, every fixed cut thin, the agent's choice bold, baselines dashed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullFormatter

from experiments.shape import Shape
from experiments.sweep_cells import Cell, topology_of
from experiments.sweep_ways import BASELINES, Planning

_STEPS = 48  # of the bandwidth axis
_MOST_CUTS = 150  # curves


def draw_model(path: Path, cells: Sequence[Cell], planning: Planning, *, title: str) -> None:
    """A panel a round trip. Curves are predictions of every fixed cut; marks with lines are measured medians."""
    round_trips_s = sorted({cell.shape.rtt_s for cell in cells})
    figure, axes = plt.subplots(
        1, len(round_trips_s), figsize=(6.4 * len(round_trips_s), 5.6), squeeze=False, sharey=True
    )
    for axis, rtt_s in zip(axes[0], round_trips_s, strict=True):
        here = sorted((cell for cell in cells if cell.shape.rtt_s == rtt_s), key=lambda cell: cell.shape.up_bps)
        _panel(axis, here, planning, rtt_s)
    times_ms = [way.p50_s * 1e3 for cell in cells for way in cell.ways if way.requests]
    axes[0][0].set(ylabel="latency, ms", ylim=(min(times_ms, default=1.0) / 1.5, max(times_ms, default=1e3) * 1.5))
    axes[0][-1].legend(fontsize=7, loc="upper right")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Any, cells: Sequence[Cell], planning: Planning, rtt_s: float) -> None:
    rates = [cell.shape.up_bps for cell in cells]
    grid = np.geomspace(min(rates) / 1.5, max(rates) * 1.5, _STEPS)
    latencies_s = np.array([planning.cut_latencies_s(topology_of(Shape(bps, bps, rtt_s=rtt_s))) for bps in grid])
    every = max(1, latencies_s.shape[1] // _MOST_CUTS)
    axis.plot(grid / 1e6, latencies_s[:, ::every] * 1e3, color="0.6", linewidth=0.3, zorder=1)
    for role in BASELINES:
        points = [(cell.shape.up_bps / 1e6, way.p50_s * 1e3) for cell in cells if (way := cell.find(role))]
        if points:
            axis.plot(*_columns(points), linestyle="--", marker=".", linewidth=1.1, label=role, zorder=2)
    oracle = [(cell.shape.up_bps / 1e6, way.p50_s * 1e3) for cell in cells if (way := cell.oracle)]
    chosen = [(cell.shape.up_bps / 1e6, way.p50_s * 1e3) for cell in cells if (way := cell.chosen)]
    axis.plot(*_columns(oracle), linestyle="", marker="x", color="red", label="oracle (best measured)", zorder=4)
    axis.plot(*_columns(chosen), color="black", linewidth=2.6, marker="o", markersize=4, label="agent", zorder=3)
    for switch_bps in dict.fromkeys(switch for cell in cells for switch in cell.switches_bps):
        if grid[0] <= switch_bps <= grid[-1]:
            axis.axvline(switch_bps / 1e6, color="tab:blue", linewidth=0.6, linestyle=":", zorder=1)
    axis.set(xscale="log", yscale="log", xlabel="bandwidth of the link, Mbit/s")
    for each in (axis.xaxis, axis.yaxis):
        each.set_major_formatter("{x:g}")
        each.set_minor_formatter(NullFormatter())
    axis.set_xticks([rate / 1e6 for rate in sorted(set(rates))])
    axis.set_title(f"round trip {rtt_s * 1e3:g} ms; dotted: the planner changes plans", fontsize=8)


def _columns(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    points = list(points)
    return [x for x, _ in points], [y for _, y in points]
