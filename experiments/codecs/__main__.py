"""How few bytes can cross a cut, and what do they cost in answers, beside sending the compressed input?

``python -m experiments.codecs --quick --json FILE``. Two models with real weights: EfficientNet-Lite0 on crops of the
photos that are installed (agreement with the unsplit model on the crop as it is; intervals by a bootstrap over photos),
and the Fashion-MNIST network on its 10,000 test images (accuracy of its last exit; Wilson intervals). At each cut each
codec encodes and decodes the features of every sample, and the rest of the model answers. The same for the input as
JPEG, WebP and PNG, each in the smallest file of its quality rather than in the quick one of the wire. Side information
counts: bytes are those of whole payloads of single samples.

The learned bottleneck that comes with splitnn (``experiments.train_bottleneck`` made it) sends an int8 tensor as codec
``entropy`` and is judged on photos that it was not trained on, beside the same photos compressed. ``--bottleneck FOLDER
...``: packages that ``splitnn bottleneck`` wrote for EfficientNet-Lite0 or the Fashion-MNIST network instead.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.codecs.learned import learned_ratio
from experiments.codecs.measure import Point
from experiments.codecs.plots import plot_fronts
from experiments.codecs.statistics import bytes_at, differs
from experiments.codecs.tables import FASHION, FULL, LITE0, QUICK, TABLES, Table, packaged_point, shipped_points
from splitnn.cost.machine import describe_machine
from splitnn.graph.allocator import keep_freed_memory

RESULTS = Path(__file__).parents[1] / "results"
EARLY = 0.3  # of the FLOPs on the device
AGREEMENT = 0.98
UNMEASURABLE, HALF_POINT, TWO_POINTS = 0.001, 0.005, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes, answers and speed of every codec at every cut")
    parser.add_argument("--quick", action="store_true", help="some cuts, some codecs, fewer crops: about ten minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--plot", type=Path, metavar="FILE", default=RESULTS / "codecs.png", help="where the plot goes")
    parser.add_argument(
        "--bottleneck", type=Path, nargs="*", default=[], metavar="FOLDER", help="packages to judge instead"
    )
    parser.add_argument("--models", nargs="+", choices=TABLES, default=list(TABLES), help="which tables to make")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    extents = QUICK if arguments.quick else FULL
    tables = [TABLES[name](extents[name]) for name in arguments.models]
    learned = [packaged_point(folder, tables) for folder in arguments.bottleneck]
    if not learned and LITE0 in arguments.models:
        unseen, rates = shipped_points()
        learned = [(unseen, point) for point in rates]
        tables.append(unseen)
    headline: dict[str, Any] = {}
    for table in tables:
        print_table(table, [point for of, point in learned if of is table])
        if table.points:
            headline |= accuracy_ratios(table) if table.model == FASHION else image_ratios(table)
    headline |= learned_ratio(learned)
    print_headline(headline)
    arguments.plot.parent.mkdir(parents=True, exist_ok=True)
    plot_fronts([(table, [point for of, point in learned if of is table]) for table in tables], arguments.plot)
    print(f"plot: {arguments.plot}")
    if arguments.json:
        rows = {table.model: described(table, learned) for table in tables}
        result = {"machine": describe_machine()} | headline | rows
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def print_table(table: Table, learned: Sequence[Point]) -> None:
    """Bytes, share of right answers with its interval, and speed, a line a codec."""
    print(f"\n{table.model}, {table.samples}; unsplit {table.whole:.4f}")
    print(f"{'cut':28}{'FLOPs':>6} {'codec':14}{'bytes':>9}{'ratio':>7}  {'right':>6}  {'95 %':15}{'MB/s in, out':>13}")
    for point in (*table.images, *table.points, *learned):
        low, high = table.interval(point)
        speeds = "/".join(
            f"{point.plain_bytes / max(each, 1e-6) / 1e6:.0f}" for each in (point.encode_s, point.decode_s)
        )
        print(
            f"{point.cut:28}{point.flops_share:6.0%} {point.codec:14}{point.mean_bytes:9.0f}"
            f"{point.plain_bytes / point.mean_bytes:7.1f}  {point.share_right:6.4f}  {low:.4f}-{high:.4f}  {speeds:>13}"
        )


def print_headline(found: Mapping[str, Any]) -> None:
    """A line a figure, and what holds several a line each."""
    for key, value in found.items():
        if isinstance(value, dict) and all(isinstance(each, dict) for each in value.values()):
            print(key)
            for name, each in value.items():
                print(f"  {name:50}{', '.join(f'{what} {figure}' for what, figure in each.items())}")
        else:
            print(f"{key:28}{value}")


def image_ratios(table: Table) -> dict[str, Any]:
    """Bytes of the better of JPEG and WebP over ours at the same agreement, early cuts and all.

    At .98, or where no JPEG gets so far at the best that one gets to; beside it at .98 in any case, which then only
    lossless images reach.
    """
    jpegs = max(each.share_right for each in table.images if each.codec.startswith("jpeg"))
    early = [each for each in table.points if each.flops_share <= EARLY]
    found: dict[str, Any] = {"jpeg_ratio_agreement": round(min(AGREEMENT, jpegs), 4)}
    for suffix, target in (("", min(AGREEMENT, jpegs)), ("_at_98", AGREEMENT)):
        image, ours, best = (bytes_at(each, target) for each in (table.images, early, table.points))
        found |= {
            f"jpeg_ratio_early{suffix}": ratio(image, ours),
            f"jpeg_ratio_best{suffix}": ratio(image, best),
            f"jpeg_ratio_bytes{suffix}": [each and round(each) for each in (image, ours, best)],
        }
    return found


def accuracy_ratios(table: Table) -> dict[str, Any]:
    """Bytes of float32 over bytes sent, at the cut and codec that serve best within a loss of accuracy."""
    before = (table.case.answers == table.case.wanted).numpy()
    found: dict[str, Any] = {}
    for key, loss in (
        ("ratio_lossless_accuracy", UNMEASURABLE),
        ("ratio_half_point", HALF_POINT),
        ("ratio_two_points", TWO_POINTS),
    ):
        within = [
            each
            for each in table.points
            if table.whole - each.share_right <= loss and not (loss == UNMEASURABLE and differs(each.right, before))
        ]
        best = max(within, key=lambda each: each.plain_bytes / each.mean_bytes, default=None)
        found[key] = best and round(best.plain_bytes / best.mean_bytes, 2)
        found[f"{key}_by"] = best and f"{best.codec} at {best.cut}, {best.share_right:.4f} of {table.whole:.4f}"
    return found


def ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else round(one / other, 3)


def described(table: Table, learned: Sequence[tuple[Table, Point]]) -> dict[str, Any]:
    """The table as JSON."""
    points = (*table.images, *table.points, *(point for of, point in learned if of is table))
    return {
        "samples": table.samples,
        "whole": table.whole,
        "points": [
            {
                "cut": point.cut,
                "flops_share": round(point.flops_share, 4),
                "codec": point.codec,
                "plain_bytes": point.plain_bytes,
                "bytes": round(point.mean_bytes, 1),
                "right": round(point.share_right, 5),
                "interval": [round(each, 5) for each in table.interval(point)],
                "encode_s": point.encode_s,
                "decode_s": point.decode_s,
            }
            for point in points
        ],
    }


if __name__ == "__main__":
    main()
