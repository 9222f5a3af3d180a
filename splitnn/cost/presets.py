"""Profiles of devices that we never had, from latencies that others published. Knows no torch.

The model of a device is three rates: seconds a FLOP, seconds a byte that layers without multiplications move, seconds a
byte of weights. They are fitted to the published latencies of up to eleven reference models by non-negative least
squares on relative errors. Assumptions: times of layers add up; a rate is the same in every layer; the device runs a
runtime as good as the one that was measured (``slowdown`` says otherwise). Of the sets of features tried, with and
without kinds of convolutions, this one predicted reference models held out of the fit best: median error 5 to 24 % on
ARM processors with ten or eleven figures, 14 to 76 % where only five are published, about 55 % on desktop GPUs, whose
times are launches of kernels more than work. ``Preset.held_out`` tells for each device; calibrate where it matters. The
features were chosen by these same errors, which therefore flatter them somewhat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np

from splitnn.cost.borrowed import UNKNOWN, borrow
from splitnn.cost.features import Features, features
from splitnn.cost.lookup import look_up
from splitnn.cost.nonnegative import fit_nonnegative
from splitnn.cost.profile import Profile, Timing
from splitnn.cost.published import ROWS, WORK, Row, Work
from splitnn.graph.graph import Graph

_ALIKE = 0.01  # a graph whose FLOPs and weights differ by less from a reference model's is that model


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a device is; each may be 0 where other work hides it."""

    s_per_flop: float
    s_per_moved_byte: float
    s_per_weight_byte: float

    def seconds(self, work: Work) -> float:
        """Predicted seconds of that work."""
        return (
            self.s_per_flop * work.flops
            + self.s_per_moved_byte * work.moved_bytes
            + self.s_per_weight_byte * work.weight_bytes
        )


@dataclass(frozen=True)
class Preset:
    """A device by its published latencies; ``work`` holds what the reference models ask of it.

    Raises:
        ValueError: fewer than three latencies, one that is not above 0, or one of a model without ``work``.
    """

    name: str
    device: str  # in words
    threads: int
    latencies_s: Mapping[str, float]  # by reference model
    runtime: str = "ncnn"
    source: str = "Tencent/ncnn benchmark/README.md, averages at batch 1; see splitnn/cost/published.py"
    work: Mapping[str, Work] = field(default_factory=lambda: WORK, repr=False)

    def __post_init__(self) -> None:
        if len(self.latencies_s) < 3:
            raise ValueError(f"preset {self.name!r}: three rates take three latencies or more, not {self.latencies_s}")
        for model, latency_s in self.latencies_s.items():
            if not (math.isfinite(latency_s) and latency_s > 0 and model in self.work):
                raise ValueError(f"preset {self.name!r}: no usable latency of {model!r}: {latency_s} s")

    def rates(self, *, without: str = "") -> Rates:
        """The fitted rates, on request without one of the reference models."""
        used = [model for model in self.latencies_s if model != without]
        latencies_s = np.array([self.latencies_s[model] for model in used])
        rows = np.array([self.work[model] for model in used], dtype=np.float64) / latencies_s[:, None]
        return Rates(*map(float, fit_nonnegative(rows, np.ones(len(used)))))

    def held_out(self) -> dict[str, float]:
        """Signed relative error of each reference model as the fit on the others predicts it."""
        return {
            model: self.rates(without=model).seconds(self.work[model]) / latency_s - 1
            for model, latency_s in self.latencies_s.items()
        }

    @property
    def error(self) -> float:
        """Median absolute relative error of the reference models held out."""
        return median(abs(error) for error in self.held_out().values())


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none; the message lists them.
    """
    row = look_up(name, _by_name(), "device preset")
    latencies_s = {model: ms / 1e3 for model, ms in zip(WORK, row.latencies_ms, strict=True) if ms is not None}
    return Preset(name, row.device, row.threads, latencies_s)


def presets() -> tuple[str, ...]:
    """The names of all presets."""
    return tuple(_by_name())


def _by_name() -> dict[str, Row]:
    return {row.preset: row for row in ROWS}


def preset_profile(
    device: Preset,
    graph: Graph,
    *,
    model: str,
    host: str = "device",
    reference: Profile | None = None,
    slowdown: float = 1.0,
) -> Profile:
    """A prediction of what the layers of ``graph``, of a model of digest ``model``, cost on a device never measured.

    A graph with the work of a reference model takes in all what was published for it. ``reference`` is a measured
    profile of the same model on any host: the layers that multiply, and those that do not, then share the device's
    times as they share that host's, and its codecs, stages and messages are taken to be slower by as much as the whole
    model is (without it no codec is known, and stages and messages count nothing, which flatters the device).
    ``slowdown`` multiplies every time: above 1 for a slower runtime than the preset's.
    The result's ``machine`` says what it is, ``error`` how far off the preset is on models held out.

    Raises:
        ValueError: the slowdown is not a finite number above 0.
        ProfileMismatch: the reference belongs to another model.
    """
    if reference is not None:
        reference.check_fits(graph, model)
    found = {layer.name: features(graph, layer) for layer in graph.layers}
    rates = device.rates()
    seconds = {name: rates.seconds(_work(layer)) for name, layer in found.items()}
    alike = _reference_model(device, graph)
    if alike is not None and (total_s := sum(seconds.values())) > 0:
        seconds = {name: each * device.latencies_s[alike] / total_s for name, each in seconds.items()}
    if reference is not None:
        seconds = _shared_as(reference, seconds, found)
    whole_s = sum(seconds.values())
    predicted = Profile(
        model=model,
        host=host,
        layers={name: Timing(each, each) for name, each in seconds.items()},
        whole=Timing(whole_s, whole_s),
        clock="wall",
        engine=device.runtime,
        threads=device.threads,
        error=device.error,
        machine=_provenance(device, alike, reference, slowdown),
    )
    slower = (predicted if reference is None else borrow(predicted, reference)).scaled(slowdown)
    return replace(slower, slowdown=1.0)  # of a host that nobody measured


def _work(layer: Features) -> Work:
    """A convolution's own traffic is not counted: it grows with that of the layers between convolutions."""
    return Work(layer.flops, layer.moved_bytes if layer.kind == "memory" else 0, layer.weight_bytes)


def _reference_model(device: Preset, graph: Graph) -> str | None:
    """The reference model that ``graph`` is, if any; preprocessing may be in the graph."""
    flops, weight_bytes = sum(layer.flops for layer in graph.layers), sum(graph.weight_bytes.values())
    for model in device.latencies_s:
        work = device.work[model]
        if abs(flops - work.flops) < _ALIKE * work.flops and (
            abs(weight_bytes - work.weight_bytes) < _ALIKE * work.weight_bytes
        ):
            return model
    return None


def _shared_as(reference: Profile, seconds: Mapping[str, float], found: Mapping[str, Features]) -> dict[str, float]:
    """The same total for layers that multiply and for the others, shared within each as ``reference`` has it."""
    shared = dict(seconds)
    for multiplies in (True, False):
        group = [name for name, layer in found.items() if (layer.flops > 0) is multiplies]
        there_s = sum(reference.seconds(name) for name in group)
        if there_s > 0:
            here_s = sum(seconds[name] for name in group)
            shared |= {name: here_s * reference.seconds(name) / there_s for name in group}
    return shared


def _provenance(device: Preset, alike: str | None, reference: Profile | None, slowdown: float) -> dict[str, str]:
    worst, error = max(device.held_out().items(), key=lambda each: abs(each[1]))
    total = f"the published latency of {alike}" if alike else f"fitted to {len(device.latencies_s)} published latencies"
    shares = f"shares as measured on {reference.host}" if reference else "shares by FLOPs and bytes"
    return {
        "predicted": f"not measured: {device.name}, {total}; {shares}",
        "processor": f"{device.device}, {device.runtime}, {device.threads} threads",
        "source": device.source,
        "handling": UNKNOWN,
        "error_is": f"median relative error of whole models held out; the worst is {worst}, {error:+.0%}",
    } | ({} if slowdown == 1.0 else {"simulated_slowdown": f"{slowdown:g}"})
