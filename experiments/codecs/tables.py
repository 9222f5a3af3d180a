"""The tables of the codec experiment: every codec at every cut of two models, and the input compressed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.codecs.measure import Case, Point
from experiments.codecs.statistics import by_origin, wilson
from experiments.train_bottleneck.unseen_photos import ENOUGH, INSTALL, unseen_photos
from splitnn.graph import package
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model
from splitnn.tuning.bottleneck import crossing_tensor
from splitnn.zoo.datasets import fashion_mnist
from splitnn.zoo.pictures import crops, installed_photos
from splitnn.zoo.sources import open_model
from splitnn.zoo.squeezed import notes

LITE0, FASHION = "efficientnet_lite0", "fashion_exits"
IMAGES = (
    "jpeg50", "jpeg75", "jpeg90", "jpeg95", "jpeg95f", "jpeg98f", "jpeg100f",
    "webp50", "webp75", "webp90", "webp98", "webp100", "webp", "png",
)  # fmt: skip
EVEN = ("even8", "even6", "even5", "even4", "even3", "even2.5", "even2", "even1.5", "even1.2", "even1", "even0.8")
OTHERS = (
    "raw", "zstd", "shuffle+zstd", "mask", "fp16", "bf16", "fp16+zstd", "fp16+mask", "int8", "int8+zstd",
    "int6", "int4", "int4r", "int4t", "int4+zstd", "int4+entropy", "int3", "int3+entropy", "int2", "int2+entropy",
)  # fmt: skip
FEW_CODECS = ("fp16", "int8+zstd", "int4", "int4+entropy", "even6", "even4", "even2.5", "even1.5", "even1")
UNSEEN_IMAGES = ("jpeg90", "jpeg95", "jpeg95f", "jpeg98f", "jpeg100f", "webp100")
_CROPS_A_PHOTO = 12
_ALONE = 150  # samples that are encoded by themselves and counted
_SEED = 5


@dataclass(frozen=True, slots=True)
class Extent:
    """How much of a table is made."""

    images: tuple[str, ...] = IMAGES  # codecs of the input
    codecs: tuple[str, ...] = (*OTHERS, *EVEN)
    cuts: tuple[int, ...] = ()  # their numbers; all if empty
    samples: int = 10_000


QUICK = {
    LITE0: Extent(
        images=("jpeg75", "jpeg90", "jpeg95", "jpeg98f", "jpeg100f", "webp90", "webp100", "webp"),
        codecs=FEW_CODECS,
        cuts=(4, 7, 14),  # of sixteen: at 30, 41 and 87 % of the FLOPs
        samples=80,
    ),
    FASHION: Extent(images=("jpeg75", "jpeg95", "webp90", "png"), codecs=FEW_CODECS),
}
FULL = {LITE0: Extent(samples=400), FASHION: Extent()}


@dataclass(frozen=True, slots=True)
class Table:
    """Every codec at every cut of one model, the input compressed, and what the samples are."""

    model: str
    samples: str
    points: tuple[Point, ...]  # at cuts
    images: tuple[Point, ...]  # of the input
    whole: float  # share of right answers of the unsplit model
    origins: tuple[str, ...]  # of each sample; () where samples are independent
    case: Case

    def interval(self, point: Point) -> tuple[float, float]:
        return by_origin(point.right, self.origins) if self.origins else wilson(point.right)


class Counter:
    """Says on the terminal what is being measured."""

    def __init__(self, model: str) -> None:
        self._model, self._done, self._start = model, 0, time.monotonic()

    def through(self, codecs: Sequence[str], *, at: str = "the input") -> Iterator[str]:
        for name in codecs:
            self._done += 1
            taken = time.monotonic() - self._start
            line = f"{taken:4.0f} s  {self._model}: measurement {self._done}, {name} at {at}"
            print(f"\r{line:100}", end="", file=sys.stderr, flush=True)
            yield name


def lite0_table(extent: Extent) -> Table:
    """EfficientNet-Lite0 on crops of every photo that is installed."""
    found = installed_photos()
    origins, pixels = crops(found, height=224, width=224, count=extent.samples, seed=_SEED)
    case = Case(open_model(LITE0), pixels, batch=20)
    return _table(LITE0, f"{extent.samples} crops of {len(found)} photos", case, extent=extent, origins=origins)


def fashion_table(extent: Extent) -> Table:
    """The Fashion-MNIST network on the test images."""
    images, labels = (each[: extent.samples] for each in fashion_mnist("test"))
    case = Case(open_model(FASHION), images[..., None], batch=500, labels=labels)
    return _table(FASHION, f"{len(images)} test images", case, extent=extent)


def packaged_point(folder: Path, tables: Sequence[Table]) -> tuple[Table, Point]:
    """A packaged bottleneck on the samples of the table whose model reads the same input.

    Raises:
        ValueError: no table has such an input.
    """
    version = package.load(str(folder))
    (name,) = version.graph.inputs
    shape = version.graph.tensors[name].shape[1:]
    for table in tables:
        if tuple(table.case.pixels.shape[1:]) == shape:
            return table, bottleneck_point(version, folder.name, table)
    raise ValueError(f"{folder} reads {shape}; the tables have {[tuple(t.case.pixels.shape[1:]) for t in tables]}")


def shipped_points(*, crops_a_photo: int = _CROPS_A_PHOTO) -> tuple[Table, list[Point]]:
    """The bottleneck that comes with splitnn, at each of its rates, on photos that it was not trained on, beside those
    photos compressed.

    Raises:
        FileNotFoundError: no such photo is installed; the message says what to install.
    """
    photos = unseen_photos(notes().trained_on)
    if len(photos) < ENOUGH:
        print(f"only {len(photos)} photos that the bottleneck was not trained on; for more: {INSTALL}", file=sys.stderr)
    count = crops_a_photo * len(photos)
    origins, pixels = crops(photos, height=224, width=224, count=count, seed=_SEED)
    case = Case(open_model(LITE0), pixels, batch=20)
    counter = Counter("unseen photos")
    images = tuple(case.point(case.whole_input, each, alone=count) for each in counter.through(UNSEEN_IMAGES))
    print(file=sys.stderr)
    table = Table(f"{LITE0}, unseen", f"{count} crops of {len(photos)} photos", (), images, 1.0, tuple(origins), case)
    rates = counter.through(list(notes().rates), at="its cut")
    return table, [bottleneck_point(open_model(name), name, table, alone=count) for name in rates]


def bottleneck_point(version: Model, name: str, table: Table, *, alone: int = _ALONE) -> Point:
    """A version with a bottleneck, on the samples of a table and judged by its answers."""
    tensor = crossing_tensor(version)
    case = table.case.of_version(version)
    cut = case.cut(tensor, f"learned, {name}", flops_share=_flops_before(version.graph, tensor))
    return case.point(cut, "entropy", alone=alone)


def _flops_before(graph: Graph, tensor: str) -> float:
    """The share of the FLOPs that are done when the tensor is there."""
    names = [layer.name for layer in graph.layers]
    done = graph.layers[: names.index(graph.producer[tensor]) + 1]
    return sum(layer.flops for layer in done) / sum(layer.flops for layer in graph.layers)


def _table(model: str, samples: str, case: Case, *, extent: Extent, origins: Sequence[str] = ()) -> Table:
    counter = Counter(model)
    images = [case.point(case.whole_input, each, alone=_ALONE) for each in counter.through(extent.images)]
    points = []
    for cut in case.cuts(only=extent.cuts):
        points += [case.point(cut, each, alone=_ALONE) for each in counter.through(extent.codecs, at=cut.name)]
    whole = float((case.answers == case.wanted).float().mean())
    print(file=sys.stderr)
    return Table(model, samples, tuple(points), tuple(images), whole, tuple(origins), case)


TABLES: dict[str, Callable[[Extent], Table]] = {LITE0: lite0_table, FASHION: fashion_table}
"""How the table of each model is made."""
