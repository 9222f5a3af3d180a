"""Bytes against right answers: every codec at every cut, and the input compressed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.codecs.measure import Point
from experiments.codecs.statistics import pareto
from experiments.codecs.tables import Table


def plot_fronts(tables: Sequence[tuple[Table, Sequence[Point]]], file: Path) -> None:
    """One panel a table, the learned points in it as stars."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(tables), figsize=(7 * len(tables), 5.5), squeeze=False)
    for panel, (table, learned) in zip(panels[0], tables, strict=True):
        cuts = list(dict.fromkeys(point.cut for point in table.points))
        for number, cut in enumerate(cuts):
            front = pareto(point for point in table.points if point.cut == cut)
            share = front[0].flops_share
            panel.plot(
                [point.mean_bytes / 1e3 for point in front],
                [point.share_right for point in front],
                "o-",
                color=plt.get_cmap("viridis")(number / max(1, len(cuts))),
                markersize=4,
                label=f"{cut}, {share:.0%} of FLOPs",
            )
        for form, style in (("jpeg", "s--"), ("webp", "^--"), ("png", "D")):
            found = sorted(
                (point.mean_bytes / 1e3, point.share_right) for point in table.images if point.codec.startswith(form)
            )
            if found:
                panel.plot(
                    *zip(*found, strict=True),
                    style,
                    color={"jpeg": "red", "webp": "orange", "png": "grey"}[form],
                    label=f"input, {form}",
                )
        for point in learned:
            panel.plot(point.mean_bytes / 1e3, point.share_right, "*", markersize=14, label=point.cut)
        panel.axhline(table.whole, color="grey", linewidth=0.7)
        panel.set(xscale="log", xlabel="kB a sample", ylabel="right answers", title=f"{table.model}: {table.samples}")
        lowest = min(point.share_right for point in table.images)
        panel.set_ylim(bottom=max(0.0, min(lowest, table.whole - 0.1)))
        panel.grid(alpha=0.3)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("{x:g}")
        panel.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
