"""Accuracy against mean latency and bytes, a column a link, and accuracy within each deadline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

_MARKS = {"ours": "o", "planned": "*", "no exits": "s", "edgent": "^", "spinn": "v", "cascade": "D"}


def draw(path: Path, found: Mapping[str, Any]) -> None:
    """From the figures that ``experiments.exits`` writes."""
    cells = found["cells"]
    figure, axes = plt.subplots(3, len(cells), figsize=(4 * len(cells), 9), squeeze=False)
    for column, cell in enumerate(cells):
        for kind, mark in _MARKS.items():
            latency, fewest = cell["chosen"][kind]["latency"], cell["chosen"][kind]["bytes"]
            axes[0][column].plot(latency["mean_s"] * 1e3, latency["accuracy"] * 100, mark, label=kind)
            axes[1][column].plot(max(1.0, fewest["mean_bytes"]), fewest["accuracy"] * 100, mark, label=kind)
            points = [(int(ms), kinds[kind]) for ms, kinds in cell["deadlines"].items() if kinds[kind]]
            axes[2][column].plot(
                [ms for ms, _ in points], [each["accuracy"] * 100 for _, each in points], f"-{mark}", label=kind
            )
        axes[0][column].set(title=cell["link"], xlabel="mean latency, ms", ylabel="accuracy, %")
        axes[1][column].set(xscale="log", xlabel="bytes a sample (fewest; 1 stands for none)", ylabel="accuracy, %")
        axes[2][column].set(xscale="log", xlabel="deadline, ms", ylabel="accuracy in time, %")
    axes[0][0].legend(fontsize=7)
    figure.suptitle(f"Early exits: {found['data']}; device {found['slowdown']:g} times slower than this machine")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
