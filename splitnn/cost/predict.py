"""Predict a profile without running the model: a regression of layer times on layer features. Knows no torch.

As Neurosurgeon (ASPLOS 2017) and Edgent (TWC 2019) do, one linear regression for each kind of layer; unlike theirs the
coefficients cannot be negative, FLOPs, bytes moved and weight bytes are regressed on together, and what was never seen
falls back to the layers that multiply, or to those that do not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from splitnn.cost.borrowed import UNKNOWN
from splitnn.cost.features import Features, features
from splitnn.cost.nonnegative import fit_nonnegative
from splitnn.cost.profile import Clock, Profile, Timing
from splitnn.graph.graph import Graph, Layer

Sample: TypeAlias = tuple[Graph, Profile]
"""A model and its measured profile."""

Method = Literal["features", "flops", "throughput"]
"""``features`` is ours; the others are what it is compared with: ``flops`` regresses each kind on one quantity (FLOPs,
or bytes moved where there are none), ``throughput`` divides the FLOPs by the host's mean rate."""

_MULTIPLYING, _MOVING = "any that multiplies", "any that does not"

_PULL = 1e-6
"""How much of a layer the fallback weighs in each regression: it decides only between fits that are equally good, of
which there are many where a kind was seen a few times. Over twelve draws of four models it took the mean error of
models held out from 15 to 14 %."""


class Coefficients(NamedTuple):
    """Seconds of a layer: a constant, and what each unit of work adds."""

    constant_s: float
    per_flop_s: float
    per_moved_byte_s: float
    per_weight_byte_s: float

    def seconds(self, layer: Features) -> float:
        """Predicted seconds."""
        return (
            self.constant_s
            + self.per_flop_s * layer.flops
            + self.per_moved_byte_s * layer.moved_bytes
            + self.per_weight_byte_s * layer.weight_bytes
        )


class HeldOut(NamedTuple):
    """How far predictions of a model are from its measured profile when they were fitted on the others.

    Relative errors: of the whole model (signed), of layers (their absolute errors' sum over the model's time), and of
    heads (the mean over all cuts of the absolute error, over the model's time).
    """

    model: str
    whole: float
    layers: float
    heads: float


@dataclass(frozen=True)
class Predictor:
    """What the layers of any model cost on the host that it was fitted on."""

    host: str
    clock: Clock
    engine: str
    threads: int
    coefficients: Mapping[str, Coefficients]  # by kind of layer, see ``group_of``
    models: tuple[str, ...]  # digests of what it was fitted on
    error: float | None = None  # median absolute relative error of the whole of models held out; None: too few models
    stage_s: float = 0.0  # what a stage and a message cost that host, as its profiles have it (the median)
    message_s: float = 0.0

    def seconds(self, graph: Graph, layer: Layer) -> float:
        """Predicted seconds of one layer."""
        found = features(graph, layer)
        known = self.coefficients.get(group_of(layer, found)) or self.coefficients.get(_fallback(found))
        if known is None:  # fitted on layers of the other half only: all that there is
            known = next(iter(self.coefficients.values()))
        return known.seconds(found)

    def predict(self, graph: Graph, *, model: str, host: str | None = None) -> Profile:
        """A profile of a model of digest ``model`` that was not run; its ``machine`` says so.

        Both clocks show the predicted time. Codecs are unknown, so that only raw tensors can be planned with it, unless
        ``splitnn.cost.borrowed`` takes them from another host. What a stage and a message cost is that host's.
        """
        timings = {layer.name: _timing(self.seconds(graph, layer)) for layer in graph.layers}
        unseen = sorted({group for layer in graph.layers if (group := self._unseen(graph, layer))})
        return Profile(
            model=model,
            host=host or self.host,
            layers=timings,
            whole=_timing(sum(timing.wall_s for timing in timings.values())),
            clock=self.clock,
            engine=self.engine,
            threads=self.threads,
            error=self.error,
            stage_s=self.stage_s,
            message_s=self.message_s,
            machine={
                "predicted": f"not measured: regression on {len(self.models)} models measured on {self.host}",
                "fitted_on": " ".join(digest[:12] for digest in self.models),
                "handling": self._handling(),
                "error_is": "median relative error of the whole model over models held out of the fit"
                if self.error is not None
                else "unknown: fitted on one model, none was held out",
            }
            | ({"never_seen": " ".join(unseen)} if unseen else {}),
        )

    def _handling(self) -> str:
        measured = f"a stage and a message as measured on {self.host}"
        return measured if self.stage_s or self.message_s else UNKNOWN

    def _unseen(self, graph: Graph, layer: Layer) -> str:
        group = group_of(layer, features(graph, layer))
        return "" if group in self.coefficients else group

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal predictor."""
        return {
            "format": "splitnn-predictor-1",
            "host": self.host,
            "clock": self.clock,
            "engine": self.engine,
            "threads": self.threads,
            "models": list(self.models),
            "error": self.error,
            "stage_s": self.stage_s,
            "message_s": self.message_s,
            "coefficients": {group: list(found) for group, found in self.coefficients.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Predictor:
        """The predictor that ``to_json`` wrote.

        Raises:
            ValueError: the object is not such a predictor.
        """
        try:
            if data["format"] != "splitnn-predictor-1":
                raise ValueError(f"not a predictor: format {data['format']!r}")
            if data["clock"] not in get_args(Clock) or not data["coefficients"]:
                raise ValueError(
                    f"not a predictor: clock {data['clock']!r}, {len(data['coefficients'])} kinds of layer"
                )
            coefficients = {str(group): Coefficients(*map(float, c)) for group, c in data["coefficients"].items()}
            if not all(0 <= value < np.inf for found in coefficients.values() for value in found):
                raise ValueError("not a predictor: coefficients are finite and not below 0")
            return cls(
                host=str(data["host"]),
                clock=data["clock"],
                engine=str(data["engine"]),
                threads=int(data["threads"]),
                coefficients=coefficients,
                models=tuple(str(digest) for digest in data["models"]),
                error=None if data["error"] is None else float(data["error"]),
                stage_s=float(data.get("stage_s", 0.0)),
                message_s=float(data.get("message_s", 0.0)),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a predictor: {error!r}") from error


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


def group_of(layer: Layer, found: Features) -> str:
    """What is regressed together: convolutions by shape, other layers by operator."""
    return layer.op if found.kind in ("memory", "view") else found.kind


def _fallback(found: Features) -> str:
    return _MULTIPLYING if found.flops else _MOVING


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
        coefficients = {name: Coefficients(0.0, 1 / rate, 0.0, 0.0) for name in (_MULTIPLYING, _MOVING)}
    else:
        groups: dict[str, list[tuple[Features, float]]] = defaultdict(list)
        for group, found, seconds in rows:
            groups[group].append((found, seconds))
            groups[_fallback(found)].append((found, seconds))
        halves = {
            half: _regress(groups.pop(half), method, mean_s) for half in (_MULTIPLYING, _MOVING) if half in groups
        }
        coefficients = halves | {
            group: _regress(layers, method, mean_s, towards=halves[_fallback(layers[0][0])])
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


def _timing(seconds: float) -> Timing:
    return Timing(wall_s=seconds, cpu_s=seconds)
