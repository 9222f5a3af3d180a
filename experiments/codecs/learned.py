"""A learned bottleneck beside the compressed input: bytes at the same agreement, whatever agreement that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from experiments.codecs.measure import Point
from experiments.codecs.statistics import between_resamples, bytes_at
from experiments.codecs.tables import LITE0, Table
from splitnn.zoo.datasets import part_of

Statistic = Callable[[Sequence[Point]], float | None]
"""Of a bottleneck's point, and those of images behind it."""


def learned_ratio(learned: Sequence[tuple[Table, Point]]) -> dict[str, Any]:
    """Bytes of a learned bottleneck over those of the compressed input, as ``share_of_input`` compares them.

    Of crops, those of photos that a package was not trained on. Where there are several, the headline is that of the
    one that agrees most, so that nobody picks the point of the curve by its ratio; ``learned`` has all of them.
    """
    if not learned:
        return {"learned_vs_jpeg_bytes": None, "learned_vs_jpeg_reason": f"no --bottleneck, and no table of {LITE0}"}
    found = {point.cut: _beside_images(table, point) for table, point in learned}
    most = max((point for _, point in learned), key=lambda each: (each.share_right, -each.mean_bytes))
    return found[most.cut] | {"learned": {name: _in_short(each) for name, each in found.items()}}


def _beside_images(table: Table, point: Point) -> dict[str, Any]:
    unseen = [not table.points or part_of(origin) == "test" for origin in table.origins] or [True] * len(point.right)
    counted = len(point.sample_bytes) == len(point.right)  # each sample, alone
    judged, *images = (each.only(unseen) for each in (point, *table.images))
    names = [origin for origin, is_unseen in zip(table.origins, unseen, strict=False) if is_unseen]
    origins = names if counted else []
    rows = {image.codec: _row(judged, image, origins) for image in images}
    best = best_lossy(images)
    whole = share_of_input([judged, *images])
    return {
        "learned_vs_jpeg_bytes": _rounded(whole, 3),
        "learned_vs_jpeg_interval": _interval(share_of_input, [judged, *images], origins, 3),
        "learned_vs_jpeg_by": f"{point.cut}, {judged.share_right:.4f} right, {judged.mean_bytes:.0f} bytes",
        "learned_vs_jpeg_samples": f"{len(judged.right)}, of {len(set(names)) or len(judged.right)} photos",
        "learned_vs_best_jpeg": {"image": best.codec, **rows[best.codec]},
        "learned_vs_each_image": rows,
    }


def _in_short(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[f"learned_vs_jpeg_{key}"] for key in ("bytes", "interval", "by")}


def share_of_input(points: Sequence[Point]) -> float | None:
    """Bytes of the first point over those of the compressed input (the others) whose answers are right as often.

    Where the first point does better than any lossy image, over those of the image that does best.
    """
    judged, *images = points
    photo = bytes_at(images, min(judged.share_right, best_lossy(images).share_right))
    return None if photo is None else judged.mean_bytes / photo


def best_lossy(images: Sequence[Point]) -> Point:
    """The JPEG or lossy WebP whose answers are right most often; of equals the smallest."""
    lossy = [each for each in images if each.codec.startswith(("jpeg", "webp")) and each.codec != "webp"]
    return max(lossy, key=lambda each: (each.share_right, -each.mean_bytes))


def _row(judged: Point, image: Point, origins: Sequence[str]) -> dict[str, Any]:
    """One image, and what the bottleneck has of its bytes and beyond its right answers (in points)."""
    both = [judged, image]
    return {
        "image_bytes": round(image.mean_bytes),
        "image_right": round(image.share_right, 4),
        "bytes": _rounded(_bytes_between(both), 3),
        "bytes_interval": _interval(_bytes_between, both, origins, 3),
        "points": _rounded(_points_between(both), 2),
        "points_interval": _interval(_points_between, both, origins, 2),
    }


def _bytes_between(both: Sequence[Point]) -> float:
    return both[0].mean_bytes / both[1].mean_bytes


def _points_between(both: Sequence[Point]) -> float:
    return 100 * (both[0].share_right - both[1].share_right)


def _interval(
    statistic: Statistic, points: Sequence[Point], origins: Sequence[str], digits: int
) -> list[float | None] | None:
    """Its 95 % interval; None where samples have no origins or were not all encoded alone."""
    found = between_resamples(points, origins, statistic) if origins else None
    return found and [_rounded(each, digits) for each in found]


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
