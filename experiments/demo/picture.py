"""The demo's picture: what happened while the link changed, and what every way would have cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.demo.ways import Way

Where = Literal["device", "split", "cloud"]

COLOURS: Mapping[Where, str] = {"device": "#c44e52", "split": "#55a868", "cloud": "#4c72b0"}
_WHERE: Mapping[Where, str] = {"cloud": "all on the server", "split": "split", "device": "all on the device"}
_MEANING = {"head": "computing on the device", "transfer": "encoding and sending", "tail": "computing on the server"}
_PARTS = {"head": "#dd8452", "transfer": "#937860", "tail": "#4c72b0"}


@dataclass(frozen=True, slots=True)
class Answered:
    """One photo's answer; seconds are measured by the agent."""

    at_s: float  # since the first request
    rate: str  # of the link, as the demo set it
    photo: str
    label: str
    confidence: float
    where: Where
    plan: str
    total_s: float


def draw(answers: Sequence[Answered], ways: Sequence[Way], path: Path, *, title: str) -> None:
    """Write the picture as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

    rates = list(dict.fromkeys(way.rate for way in ways))
    figure = plt.figure(figsize=(12, 9), layout="constrained")
    grid = figure.add_gridspec(2, len(rates), height_ratios=(1.1, 1))
    figure.suptitle(title, fontsize=15, fontweight="bold")

    top: Axes = figure.add_subplot(grid[0, :])
    for where, words in _WHERE.items():
        found = [a for a in answers if a.where == where]
        top.scatter(
            [a.at_s for a in found], [a.total_s * 1e3 for a in found], color=COLOURS[where], s=26, label=words, zorder=3
        )
    top.set_ylim(0, 1.25 * max(a.total_s for a in answers) * 1e3)
    begins = [a.at_s for i, a in enumerate(answers) if i == 0 or a.rate != answers[i - 1].rate]
    for i, begin in enumerate(begins):
        end = begins[i + 1] if i + 1 < len(begins) else answers[-1].at_s
        top.axvspan(begin, end, color="#eeeeee" if i % 2 else "#f8f8f8", zorder=0)
        rate = next(a.rate for a in answers if a.at_s >= begin)
        top.text((begin + end) / 2, top.get_ylim()[1] * 0.94, f"link: {rate}", ha="center", fontsize=12)
    top.set_xlim(0, answers[-1].at_s)
    top.set_xlabel("seconds")
    top.set_ylabel("time to answer one photo (ms)")
    top.set_title("The link changes, and the place where the network is cut moves with it")
    top.legend(loc="upper right", bbox_to_anchor=(1, 0.88), title="the network runs")

    highest = max(way.total_s for way in ways if not way.gave_up) * 1e3
    for column, rate in enumerate(rates):
        axes: Axes = figure.add_subplot(grid[1, column])
        here = [way for way in ways if way.rate == rate]
        best = min(way.total_s for way in here if not way.gave_up)
        for row, way in enumerate(here):
            if way.gave_up:
                axes.text(0, row, " too slow here, given up", va="center", fontsize=10, fontstyle="italic")
                continue
            left = 0.0
            for part, seconds in (("head", way.head_s), ("transfer", way.transfer_s), ("tail", way.tail_s)):
                axes.barh(row, seconds * 1e3, left=left, color=_PARTS[part])
                left += seconds * 1e3
            note = f" {left:.0f} ms" + (f", {way.agreement:.0%} same answers" if way.agreement < 1 else "")
            axes.text(left, row, note, va="center", fontsize=10, fontweight="bold" if way.total_s == best else "normal")
        axes.set_yticks(range(len(here)), [way.name for way in here] if column == 0 else [""] * len(here))
        axes.invert_yaxis()
        axes.set_xlim(0, highest * 1.9)
        axes.set_title(f"link: {rate}")
        axes.set_xlabel("ms a photo (median)")
    patches = [Patch(color=colour, label=_MEANING[part]) for part, colour in _PARTS.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)
    plt.close(figure)
