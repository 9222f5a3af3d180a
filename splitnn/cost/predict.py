"""Predict a profile without running the model: a regression of layer times on layer features. Knows no torch.

As Neurosurgeon (ASPLOS 2017) and Edgent (TWC 2019) do, one linear regression for each kind of layer; unlike theirs the
coefficients cannot be negative, FLOPs, bytes moved and weight bytes are regressed on together, and what was never seen
falls back to the layers that multiply, or to those that do not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from splitnn.cost.features import Features, features
from splitnn.cost.nonnegative import fit_nonnegative
from splitnn.cost.predictor import MOVING, MULTIPLYING, Coefficients, Predictor, group_of, half_of
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph

Sample: TypeAlias = tuple[Graph, Profile]
"""A model and its measured profile."""

Method = Literal["features", "flops", "throughput"]
"""``features`` is ours; the others are what it is compared with: ``flops`` regresses each kind on one quantity (FLOPs,
or bytes moved where there are none), ``throughput`` divides the FLOPs by the host's mean rate."""

_PULL = 1e-6
"""How much of a layer the fallback weighs in each regression: it decides only between fits that are equally good, of
which there are many where a kind was seen a few times. Over twelve draws of four models it took the mean error of
models held out from 15 to 14 %."""


class HeldOut(NamedTuple):
    """How far predictions of a model are from its measured profile when they were fitted on the others.

    Relative errors: of the whole model (signed), of layers (their absolute errors' sum over the model's time), and of
    heads (the mean over all cuts of the absolute error, over the model's time).
    """

    model: str
    whole: float
    layers: float
    heads: float


def fit(samples: Sequence[Sample], *, method: Method = "features") -> Predictor:
    """Regress the times of all layers of ``samples``, which were measured on one host under one setting.

    Errors count relative to a layer's time plus the mean layer's: a layer that takes no time decides nothing.
    The result's ``error`` comes from holding each model out in turn.

    Raises:
        ValueError: no samples, samples of different hosts, clocks, engines or threads, or no such method.
        ProfileMismatch: a profile belongs to another graph.
    """
    held_out = held_out_error(samples, method=method) if len(samples) > 1 else []
    return _fit(samples, method, median(abs(each.whole) for each in held_out) if held_out else None)


def held_out_error(samples: Sequence[Sample], *, method: Method = "features") -> list[HeldOut]:
    """For each model the error of its prediction by a fit on the others, in the order of ``samples``.

    Raises:
        ValueError: fewer than two samples, or samples that do not belong together.
    """
    if len(samples) < 2:
        raise ValueError(f"to hold one model out takes two or more, not {len(samples)}")
    found = []
    for i, (graph, profile) in enumerate(samples):
        predictor = _fit([*samples[:i], *samples[i + 1 :]], method, None)
        measured = np.array([profile.seconds(layer.name) for layer in graph.layers])
        predicted = np.array([predictor.seconds(graph, layer) for layer in graph.layers])
        total, off = float(measured.sum()), predicted - measured
        heads = float(np.abs(np.cumsum(off)).mean())
        found.append(HeldOut(profile.model, float(off.sum()) / total, float(np.abs(off).sum()) / total, heads / total))
    return found


def _fit(samples: Sequence[Sample], method: Method, error: float | None) -> Predictor:
    first = _check(samples, method)
    rows = [
        (group_of(layer, found), found, profile.seconds(layer.name))
        for graph, profile in samples
        for layer in graph.layers
        for found in (features(graph, layer),)
    ]
    mean_s = fmean(seconds for _, _, seconds in rows)
    if method == "throughput":
        rate = sum(found.flops for _, found, _ in rows) / sum(seconds for _, _, seconds in rows)
        coefficients = {name: Coefficients(0.0, 1 / rate, 0.0, 0.0) for name in (MULTIPLYING, MOVING)}
    else:
        groups: dict[str, list[tuple[Features, float]]] = defaultdict(list)
        for group, found, seconds in rows:
            groups[group].append((found, seconds))
            groups[half_of(found)].append((found, seconds))
        halves = {half: _regress(groups.pop(half), method, mean_s) for half in (MULTIPLYING, MOVING) if half in groups}
        coefficients = halves | {
            group: _regress(layers, method, mean_s, towards=halves[half_of(layers[0][0])])
            for group, layers in groups.items()
        }
    return Predictor(
        host=first.host,
        clock=first.clock,
        engine=first.engine,
        threads=first.threads,
        coefficients=coefficients,
        models=tuple(profile.model for _, profile in samples),
        error=error,
        stage_s=_usual(profile.stage_s for _, profile in samples),
        message_s=_usual(profile.message_s for _, profile in samples),
    )


def _usual(measured: Iterable[float]) -> float:
    """The median of what was measured; 0 where nothing was."""
    return median([seconds for seconds in measured if seconds > 0] or [0.0])


def _check(samples: Sequence[Sample], method: Method) -> Profile:
    if method not in get_args(Method):
        raise ValueError(f"a method is one of {', '.join(get_args(Method))}, not {method!r}")
    if not samples:
        raise ValueError("a predictor is fitted on the profiles of one or more models")
    first = samples[0][1]
    for graph, profile in samples:
        profile.check_fits(graph)
        setting = (profile.host, profile.clock, profile.engine, profile.threads)
        if setting != (first.host, first.clock, first.engine, first.threads):
            raise ValueError(
                f"profiles of one host under one setting are needed: {setting} is not "
                f"{(first.host, first.clock, first.engine, first.threads)}"
            )
    if not any(profile.seconds(layer.name) > 0 and layer.flops for graph, profile in samples for layer in graph.layers):
        raise ValueError("no layer of the samples multiplies and takes time: nothing to fit")
    return first


def _regress(
    layers: Iterable[tuple[Features, float]], method: Method, mean_s: float, *, towards: Coefficients | None = None
) -> Coefficients:
    rows, seconds = [], []
    for found, took in layers:
        rows.append([1.0, found.flops, found.moved_bytes, found.weight_bytes])
        seconds.append(took)
    matrix, targets = np.array(rows), np.array(seconds)
    if method == "flops":
        matrix[:, 3] = 0.0
        matrix[matrix[:, 1] > 0, 2] = 0.0
    weights = 1 / (targets + mean_s)
    matrix, targets = matrix * weights[:, None], targets * weights
    if towards is not None:
        pull = np.diag(np.sqrt(_PULL * (matrix**2).mean(axis=0)))
        matrix, targets = np.vstack([matrix, pull]), np.concatenate([targets, pull @ np.array(towards)])
    return Coefficients(*map(float, fit_nonnegative(matrix, targets)))
