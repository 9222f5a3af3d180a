"""Which step a bottleneck should round to: its curve of bytes and agreement beside those of the compressed input.

  python -m experiments.train_bottleneck.steps --block 7 --json FILE

Only the photos to train on are looked at, so that what is judged by others later was not chosen by them. Each closed
form is fitted to three quarters of them and judged on crops of the rest, in four turns. Of a step it is said how much
more often it agrees than the image that agrees most, with its 95 % interval (a bootstrap over photos); the coarsest
step whose interval lies above 0 is the least that does not fall behind any of these images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.codecs.learned import best_lossy
from experiments.codecs.measure import Case, Point
from experiments.codecs.statistics import between_resamples
from experiments.codecs.tables import UNSEEN_IMAGES
from experiments.train_bottleneck.__main__ import verdict
from splitnn.graph.allocator import keep_freed_memory
from splitnn.tuning.bottleneck import cut_tensor
from splitnn.tuning.fitting import Ground, ground, transform_basis
from splitnn.tuning.transform import transform_bottleneck
from splitnn.zoo.datasets import Samples, part_of, samples
from splitnn.zoo.pictures import crops, installed_photos
from splitnn.zoo.sources import open_model
from splitnn.zoo.squeezed import BASE

_STEPS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
_TURNS = 4
_CROPS_A_PHOTO = 16
_SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block", type=int, default=7, help="of EfficientNet-Lite0: its result passes through")
    parser.add_argument("--patch", type=int, default=1)
    parser.add_argument("--steps", type=float, nargs="+", default=_STEPS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    model = open_model(BASE)
    photos = {name: path for name, path in installed_photos().items() if part_of(name) == "train"}
    origins, pixels = crops(photos, height=224, width=224, count=_CROPS_A_PHOTO * len(photos), seed=_SEED)
    (given,) = model.graph.inputs
    whole = ground(
        model,
        cut_tensor(model, f"classifier._blocks.{args.block}"),
        fit_to=samples("photos", model, count=1600, part="train"),
        judge_by=Samples({given: pixels}, None, tuple(origins), f"{len(photos)} photos, each left out once"),
    )
    case = Case(model, pixels, batch=16)
    images = [case.point(case.whole_input, name, alone=len(origins)) for name in UNSEEN_IMAGES]
    closed = curve(whole, args.steps, patch=args.patch)
    rows = [row(each, best_lossy(images), origins) for each in (*images, *closed)]
    for name, size_bytes, agreement, beyond, (low, high) in rows:
        print(f"{name:12}{size_bytes:8.0f} bytes  {agreement:.4f}  {beyond:+.2f} points ({low:+.2f} to {high:+.2f})")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def curve(whole: Ground, steps: Sequence[float], *, patch: int) -> list[Point]:
    """A closed form a step, on the samples to judge by, each fitted to photos that these are not of."""
    count = len(whole.judged_by.origins)
    sizes, right = np.zeros((len(steps), count), np.int64), np.zeros((len(steps), count), bool)
    for part, judged in turns(whole):
        basis = transform_basis(part, patch=patch, seed=0)
        for number, step in enumerate(steps):
            found = verdict(part, transform_bottleneck(part.values, basis, step=step), f"step {step:g}")
            sizes[number, judged], right[number, judged] = found.size_bytes, found.same > 0
    return [
        Point("cut", 0.0, f"step {step:g}", 0, size, same, 0.0, 0.0)
        for step, size, same in zip(steps, sizes, right, strict=True)
    ]


def turns(whole: Ground) -> Iterator[tuple[Ground, NDArray[np.int64]]]:
    """The ground without some photos, to be judged by these alone, and which samples they are; each photo once."""
    names = sorted(set(whole.origins))
    for turn in range(_TURNS):
        left_out = names[turn::_TURNS]
        fitted = np.flatnonzero(~np.isin(whole.origins, left_out))
        judged = np.flatnonzero(np.isin(whole.judged_by.origins, left_out))
        yield (
            replace(
                whole,
                values=whole.values[fitted],
                teacher=whole.teacher[fitted],
                origins=tuple(whole.origins[number] for number in fitted),
                held_out=whole.held_out[judged],
                held_out_answers=whole.held_out_answers[judged],
            ),
            judged,
        )


def row(point: Point, best: Point, origins: Sequence[str]) -> tuple[str, float, float, float, list[float]]:
    """Its name, mean bytes and agreement; points of agreement beyond the best image, and their 95 % interval."""
    beyond = 100 * (point.share_right - best.share_right)
    between = between_resamples([point, best], origins, lambda both: both[0].share_right - both[1].share_right)
    return point.codec, point.mean_bytes, point.share_right, beyond, [100 * each for each in between or ()]


if __name__ == "__main__":
    main()
