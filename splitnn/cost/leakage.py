"""How much each tensor of a model tells about its input: measured on samples, by two measures that may disagree.

Distance correlation (Székely, Rizzo and Bakirov 2007; here bias-corrected as in Székely and Rizzo 2013, since the plain
one tends to 1 with many dimensions and few samples) is 0 only for independence and 1 for a rotation of the input. The
second opinion is an attack that predicts what the input looks like: from one position of the tensor and its neighbours
the patch of the input below it, or from all of a tensor without positions a thumbnail. A ridge regression and a small
network are trained to do it on some samples and judged on the others. All are lower bounds on what a determined
attacker with more data and a deeper decoder gets: a high score forbids, a low one does not permit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from splitnn.cost.inversion import explained_by_network
from splitnn.graph.code import run_nodes
from splitnn.graph.model import Model

_DIMENSIONS = 1024  # to which long vectors are projected at random (a count sketch): distances stay within per cents
_FEATURES = 256  # of one position that the attack uses, likewise
_NEAR = 8  # of each of its eight neighbours
_POSITIONS = 64  # of a tensor that are looked at, of each sample
_PATCH, _THUMBNAIL = 4, 8  # sides of what the attack predicts
_RIDGES = (1e-4, 1e-2, 1.0, 1e2)  # relative to the features' variance
_DOWN = torch.tensor([-1, -1, -1, 0, 0, 1, 1, 1])  # where the neighbours lie
_RIGHT = torch.tensor([-1, 0, 1, -1, 1, -1, 0, 1])
_CHANNELS = 4  # an image has no more


@dataclass(frozen=True, slots=True)
class Leakage:
    """What one tensor tells about the input."""

    distance_correlation: float  # 0 to 1
    linear: float  # fraction of the variance of held-out inputs that a ridge regression reconstructs, 0 to 1
    network: float | None  # that a trained network does; None where it was not asked

    @property
    def explained(self) -> float:
        """What the stronger attack reconstructs."""
        return max(self.linear, self.network or 0.0)

    @property
    def score(self) -> float:
        """The worst of all."""
        return max(self.distance_correlation, self.explained)


def measure_leakage(
    model: Model, samples: Sequence[torch.Tensor], *, seed: int = 0, enough: float = 1.0
) -> dict[str, Leakage]:
    """Of each floating-point or image tensor that layers read, what it tells about the model's input, in graph order.

    No network is trained, which takes longest, for a tensor whose other scores are above ``enough`` already. The
    samples have the shape (1, channels, height, width) or (1, height, width, channels) of the only input.

    Raises:
        ValueError: fewer than eight samples, another shape, or a model that has not one image as its input.
    """
    graph = model.graph
    inputs = [name for name in graph.inputs if graph.tensors[name].dtype != "int"]
    if len(inputs) != 1 or len(graph.tensors[inputs[0]].shape) != 4:
        raise ValueError(f"leakage is measured for models with one image as input; this one reads {inputs}")
    if len(samples) < 8:
        raise ValueError(f"leakage takes 8 samples or more, better 50, not {len(samples)}")
    if wrong := [sample.shape for sample in samples if tuple(sample.shape) != graph.tensors[inputs[0]].shape]:
        raise ValueError(f"a sample has shape {tuple(wrong[0])}, the input {graph.tensors[inputs[0]].shape}")
    wanted = [name for name, readers in graph.consumers.items() if readers and graph.tensors[name].dtype != "int"]
    sketch = _Sketch(seed)
    views = {name: _View(graph.tensors[name].shape, sketch, seed) for name in wanted}
    images = []
    nodes = [node for node in model.program.nodes if node.name not in model.program.constants]
    with torch.inference_mode():
        for sample in samples:
            image = _planes(sample.float())
            images.append(image)
            values = {**model.resident_on("cpu"), inputs[0]: sample}
            if inputs[0] in views:
                views[inputs[0]].add(sample, image)
            for node, value in run_nodes(nodes, values):
                if node.name in views and isinstance(value, torch.Tensor):
                    views[node.name].add(value, image)
        truth = _distances(torch.stack([sketch.project(image.flatten(), _DIMENSIONS) for image in images]))
    return {name: view.leakage(truth, enough) for name, view in views.items() if view.is_complete(len(samples))}


def too_revealing(found: Mapping[str, Leakage], *, threshold: float) -> tuple[str, ...]:
    """The tensors whose score is above the threshold: what ``Constraints.private`` should name.

    Raises:
        ValueError: a threshold that is not between 0 and 1.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"scores lie between 0 and 1, the threshold {threshold} does not")
    return tuple(name for name, leakage in found.items() if leakage.score > threshold)


class _Sketch:
    """Count sketches of vectors; what was drawn for a length is kept for the next vector of that length."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._drawn: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def project(self, vectors: torch.Tensor, dimensions: int) -> torch.Tensor:
        """(..., any) as (..., at most ``dimensions``): each element joins a random one, with a random sign."""
        length = vectors.shape[-1]
        if length <= dimensions:
            return vectors
        if length not in self._drawn:
            generator = torch.Generator().manual_seed(self._seed + length)
            place = torch.randint(0, _DIMENSIONS, (length,), generator=generator, dtype=torch.int32)
            self._drawn[length] = place, torch.randint(0, 2, (length,), generator=generator) * 2.0 - 1.0
        place, sign = self._drawn[length]
        return torch.zeros((*vectors.shape[:-1], dimensions)).index_add_(-1, place % dimensions, vectors * sign)


class _View:
    """What is kept of one tensor, sample by sample."""

    def __init__(self, shape: Sequence[int], sketch: _Sketch, seed: int) -> None:
        self._sketch = sketch
        self._is_spatial = len(shape) == 4 and _sides(shape)[0] > 1 and _sides(shape)[1] > 1
        self._seed = seed
        self._vectors: list[torch.Tensor] = []
        self._features: list[torch.Tensor] = []  # of each sample (positions, features)
        self._targets: list[torch.Tensor] = []  # of each sample (positions, pixels)

    def add(self, value: torch.Tensor, image: torch.Tensor) -> None:
        """One sample's tensor, and its image (channels, height, width)."""
        value = value.float()
        self._vectors.append(self._sketch.project(value.flatten(), _DIMENSIONS))
        if not self._is_spatial:
            thumbnail = torch.nn.functional.adaptive_avg_pool2d(image, _THUMBNAIL)
            self._features.append(self._vectors[-1][None])
            self._targets.append(thumbnail.flatten()[None])
            return
        planes = _planes(value)
        height, width = planes.shape[1:]
        side = max(1, min(_PATCH, image.shape[1] // height, image.shape[2] // width))
        patches = torch.nn.functional.adaptive_avg_pool2d(image, (height * side, width * side))
        patches = torch.nn.functional.pixel_unshuffle(patches, side).flatten(1).T  # (positions, channels * side**2)
        generator = torch.Generator().manual_seed(self._seed)
        chosen = torch.randperm(height * width, generator=generator)[:_POSITIONS]
        here = self._sketch.project(planes.flatten(1).T[chosen], _FEATURES)
        rows, columns = (chosen // width)[:, None], (chosen % width)[:, None]
        near = (rows + _DOWN).clamp(0, height - 1) * width + (columns + _RIGHT).clamp(0, width - 1)  # (positions, 8)
        beside = planes.flatten(1).index_select(1, near.flatten()).T.reshape(*near.shape, -1)  # (positions, 8, C)
        around = self._sketch.project(beside, _NEAR).flatten(1)
        self._features.append(torch.cat([here, around], dim=1))
        self._targets.append(patches[chosen])

    def is_complete(self, samples: int) -> bool:
        """Whether every sample had the tensor."""
        return len(self._vectors) == samples

    def leakage(self, truth: torch.Tensor, enough: float) -> Leakage:
        """All measures, or as many as say enough; ``truth`` holds the distances between the inputs."""
        correlation = _distance_correlation(_distances(torch.stack(self._vectors)), truth)
        held = [i for i in range(len(self._features)) if i % 4 == 3]
        train = [i for i in range(len(self._features)) if i % 4 != 3]
        x, y = (torch.cat([each[i] for i in train]) for each in (self._features, self._targets))
        x_held, y_held = (torch.cat([each[i] for i in held]) for each in (self._features, self._targets))
        linear = _explained_by_ridge(x.double(), y.double(), x_held=x_held.double(), y_held=y_held.double())
        network = None
        if max(correlation, linear) <= enough:
            network = explained_by_network(x, y, x_held=x_held, y_held=y_held, seed=self._seed)
        return Leakage(correlation, linear, network)


def _sides(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of an image-like tensor; the channels come last when only they can."""
    return (shape[1], shape[2]) if shape[3] <= _CHANNELS < shape[1] else (shape[2], shape[3])


def _planes(value: torch.Tensor) -> torch.Tensor:
    """(1, channels, height, width) or (1, height, width, channels) as (channels, height, width)."""
    shape = tuple(value.shape)
    return value[0].permute(2, 0, 1) if _sides(shape) == shape[1:3] and shape[3] <= _CHANNELS else value[0]


def _distances(vectors: torch.Tensor) -> torch.Tensor:
    """(n, d) as (n, n), centred such that the estimate of the distance covariance has no bias."""
    found = torch.cdist(vectors.double(), vectors.double())
    n = len(found)
    rows = found.sum(1)
    centred = found - rows[:, None] / (n - 2) - rows[None] / (n - 2) + found.sum() / ((n - 1) * (n - 2))
    centred.fill_diagonal_(0.0)
    return centred


def _distance_correlation(one: torch.Tensor, other: torch.Tensor) -> float:
    scale = float((one * one).sum() * (other * other).sum()) ** 0.5
    return max(0.0, min(1.0, float((one * other).sum()) / scale)) ** 0.5 if scale > 0 else 0.0


def _explained_by_ridge(x: torch.Tensor, y: torch.Tensor, *, x_held: torch.Tensor, y_held: torch.Tensor) -> float:
    """Of the held-out targets, the variance that a ridge regression on the others explains."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    total = float(((y_held - y_mean) ** 2).sum())
    variance = float((x * x).mean())
    if total <= 0 or variance <= 0:
        return 0.0
    best = 0.0
    squares, products = x.T @ x, x.T @ y
    for ridge in _RIDGES:  # the attacker keeps the best one
        gram = squares + ridge * variance * len(x) * torch.eye(len(squares), dtype=torch.float64)
        guess = (x_held - x_mean) @ torch.linalg.solve(gram, products) + y_mean
        best = max(best, 1 - float(((y_held - guess) ** 2).sum()) / total)
    return best
