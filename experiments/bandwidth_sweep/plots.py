"""One picture a model: latency against bandwidth, fixed cuts thin, the agent's choice bold, baselines dashed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.bandwidth_sweep.cells import Cell, topology_of
from experiments.bandwidth_sweep.ways import BASELINES, Planning
from experiments.emulation.shape import Shape

_STEPS = 48  # of the bandwidth axis
_MOST_CUTS = 150  # curves
_MARKS = "os^vD*"  # of the baselines: those that coincide are drawn around each other, dashes in turns


def draw_model(path: Path, cells: Sequence[Cell], planning: Planning, *, title: str) -> None:
    """A panel a round trip (and ratio of the rates, where links are asymmetric). Marks with lines are measured medians.

    Thin curves are predictions of the fixed cuts, of many every n-th; the picture says so.
    """
    kinds = sorted({_kind(cell) for cell in cells})
    width = max(8.8, 6.4 * len(kinds))  # of one panel too, the title has its place
    figure, axes = plt.subplots(1, len(kinds), figsize=(width, 6.0), squeeze=False, sharey=True)
    for axis, kind in zip(axes[0], kinds, strict=True):
        here = sorted((cell for cell in cells if _kind(cell) == kind), key=lambda cell: cell.shape.up_bps)
        _panel(axis, here, planning, rtt_s=kind[0], down_over_up=kind[1])
    times_ms = [way.p50_s * 1e3 for cell in cells for way in cell.ways if way.requests]
    axes[0][0].set(ylabel="latency, ms", ylim=(min(times_ms, default=1.0) / 1.5, max(times_ms, default=1e3) * 1.5))
    axes[0][-1].legend(fontsize=7, loc="upper right")
    figure.suptitle("\n".join(textwrap.wrap(title, int(width * 12))), fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _kind(cell: Cell) -> tuple[float, float]:
    """Round trip in s, and what of the rate upwards goes downwards."""
    return cell.shape.rtt_s, round(cell.shape.down_bps / cell.shape.up_bps, 6)


def _panel(axis: Any, cells: Sequence[Cell], planning: Planning, *, rtt_s: float, down_over_up: float) -> None:
    rates = [cell.shape.up_bps for cell in cells]
    grid = np.geomspace(min(rates) / 1.5, max(rates) * 1.5, _STEPS)
    shapes = [Shape(bps, bps * down_over_up, rtt_s=rtt_s) for bps in grid]
    latencies_s = np.array([planning.cut_latencies_s(topology_of(shape)) for shape in shapes])
    cuts = latencies_s.shape[1]
    every = math.ceil(cuts / _MOST_CUTS)
    curves = axis.plot(grid / 1e6, latencies_s[:, ::every] * 1e3, color="0.6", linewidth=0.3, zorder=1)
    curves[0].set_label(f"fixed cuts, predicted ({len(curves)} of {cuts})")
    for number, role in enumerate(BASELINES):
        points = [(cell.shape.up_bps / 1e6, way.p50_s * 1e3) for cell in cells if (way := cell.find(role))]
        if points:
            axis.plot(
                *_columns(points),
                color=f"C{number}", linestyle=(3 * number, (3, 3 * len(BASELINES) - 3)),
                marker=_MARKS[number], markersize=9 - number, markerfacecolor="none", linewidth=1.3,
                label=role, zorder=2,
            )  # fmt: skip
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
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_xticks([rate / 1e6 for rate in sorted(set(rates))])
    down = "" if down_over_up == 1 else f", {down_over_up:.3g} times as fast downwards"
    axis.set_title(f"round trip {rtt_s * 1e3:g} ms{down}; dotted: the planner changes plans", fontsize=8)


def _columns(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    points = list(points)
    return [x for x, _ in points], [y for _, y in points]
