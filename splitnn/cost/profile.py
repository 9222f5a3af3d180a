"""What every layer of one model costs on one host. Knows no torch; ``cost/profiler.py`` makes these."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from splitnn.cost.accuracy import Calibration
from splitnn.errors import ProfileMismatch
from splitnn.graph.graph import Graph

Clock = Literal["wall", "cpu"]

_MOST = 1e18  # seconds, bytes: no host takes more, and an integer may be too large for arithmetic with floats


@dataclass(frozen=True, slots=True)
class Timing:
    """Median seconds of a piece of work by both clocks, and how far the repeats lie apart."""

    wall_s: float
    cpu_s: float
    spread_s: float = 0.0  # interquartile range of the profile's clock


@dataclass(frozen=True, slots=True)
class CodecCost:
    """One codec on one tensor, measured on the example."""

    size_bytes: int
    encode_s: float
    decode_s: float


@dataclass(frozen=True)
class Profile:
    """Seconds of each layer of one model on one host, additive along any cut.

    ``layers`` was scaled to meet measured heads, because layer times alone do not add up. How far to trust them:
    ``error`` and ``tail_error`` are the median relative errors of predicted against measured heads and tails that the
    scaling did not use, ``drift`` is the fraction by which the whole model's time changed while it was measured.
    ``codecs`` gives, for each tensor and codec name, the encoded size on the example and both directions' seconds.
    ``stage_s`` is what running any layers costs beside them, ``message_s`` what taking in and answering, or sending and
    hearing of, one message costs beside coding and the wire.
    """

    model: str  # digest of the model
    host: str
    layers: Mapping[str, Timing]
    whole: Timing
    clock: Clock = "cpu"  # which of the two the planner uses: CPU time repeats on a busy machine
    engine: str = "torch"
    threads: int = 1
    codecs: Mapping[str, Mapping[str, CodecCost]] = field(default_factory=dict)
    error: float | None = None  # None where the model was too small to tell
    tail_error: float | None = None
    drift: float = 0.0
    machine: Mapping[str, str] = field(default_factory=dict)  # where, when and with what it was measured
    stage_s: float = 0.0  # 0 where it was not measured
    message_s: float = 0.0
    slowdown: float = 1.0  # all times are so many times those that were measured
    accuracy: Calibration | None = None  # what codecs cost in accuracy, of the model and not of the host

    def __post_init__(self) -> None:
        if self.clock not in ("wall", "cpu"):
            raise ValueError(f"a profile's clock is 'wall' or 'cpu', not {self.clock!r}")
        if not 1 <= self.threads < _MOST:
            raise ValueError(f"profile: {self.threads} threads")
        if not 0 < self.slowdown < _MOST:
            raise ValueError(f"profile: {self.slowdown} times slower than measured")
        if not (_is_amount(self.drift) and _is_amount(self.error or 0.0) and _is_amount(self.tail_error or 0.0)):
            raise ValueError(f"profile: no usable errors: {self.error}, {self.tail_error}, drift {self.drift}")
        if not (_is_amount(self.stage_s) and _is_amount(self.message_s)):
            raise ValueError(f"profile: no usable fixed times: {self.stage_s} a stage, {self.message_s} a message")
        for name, timing in (("the whole model", self.whole), *self.layers.items()):
            if not all(map(_is_amount, (timing.wall_s, timing.cpu_s, timing.spread_s))):
                raise ValueError(f"profile: {name!r} has no usable time: {timing}")
        for tensor, costs in self.codecs.items():
            for name, cost in costs.items():
                if not all(map(_is_amount, (cost.size_bytes, cost.encode_s, cost.decode_s))):
                    raise ValueError(f"profile: codec {name!r} of tensor {tensor!r} has no usable cost: {cost}")

    def seconds(self, layer: str) -> float:
        """Planned seconds of one layer."""
        timing = self.layers[layer]
        return timing.cpu_s if self.clock == "cpu" else timing.wall_s

    def planned(self, layers: Iterable[str]) -> list[float]:
        """Planned seconds of each of these layers."""
        timings = map(self.layers.__getitem__, layers)
        return [timing.cpu_s for timing in timings] if self.clock == "cpu" else [timing.wall_s for timing in timings]

    def scaled(self, factor: float, host: str | None = None) -> Profile:
        """The same model on a host that is ``factor`` times slower; ``slowdown`` says so."""
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError(f"a profile is scaled by a finite factor above 0, not {factor}")

        def slower(t: Timing) -> Timing:
            return Timing(t.wall_s * factor, t.cpu_s * factor, t.spread_s * factor)

        return replace(
            self,
            host=host or self.host,
            layers={name: slower(t) for name, t in self.layers.items()},
            whole=slower(self.whole),
            stage_s=self.stage_s * factor,
            message_s=self.message_s * factor,
            slowdown=self.slowdown * factor,
            codecs={
                tensor: {
                    name: CodecCost(c.size_bytes, c.encode_s * factor, c.decode_s * factor) for name, c in costs.items()
                }
                for tensor, costs in self.codecs.items()
            },
        )

    def calibrated(self, accuracy: Calibration) -> Profile:
        """With what codecs cost in accuracy, and as their sizes the middle ones of those data."""
        codecs = {
            tensor: {
                name: replace(cost, size_bytes=measured[name].median_bytes) if name in measured else cost
                for name, cost in costs.items()
            }
            for tensor, costs in self.codecs.items()
            for measured in [accuracy.tensors.get(tensor, {})]
        }
        return replace(self, codecs=codecs, accuracy=accuracy)

    def check_fits(self, graph: Graph, digest: str | None = None) -> None:
        """Raises ProfileMismatch unless this profile covers exactly the layers of ``graph`` (and has that digest)."""
        if digest is not None and digest != self.model:
            raise ProfileMismatch(
                f"profile of {self.host!r} is of model {self.model[:12]}, not {digest[:12]}: give one of this model "
                "(`splitnn profile`)"
            )
        if self.layers.keys() == graph.index.keys():
            return
        if missing := [layer.name for layer in graph.layers if layer.name not in self.layers]:
            raise ProfileMismatch(
                f"profile of {self.host!r} belongs to another model: no time for {len(missing)} layers, "
                f"{missing[0]!r} first"
            )
        if extra := self.layers.keys() - graph.index.keys():
            raise ProfileMismatch(
                f"profile of {self.host!r} belongs to another model: it has {len(extra)} unknown layers, "
                f"{min(extra)!r} first"
            )

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal profile."""
        return {
            "format": "splitnn-profile-1",
            "model": self.model,
            "host": self.host,
            "clock": self.clock,
            "engine": self.engine,
            "threads": self.threads,
            "error": self.error,
            "tail_error": self.tail_error,
            "drift": self.drift,
            "machine": dict(self.machine),
            "stage_s": self.stage_s,
            "message_s": self.message_s,
            "slowdown": self.slowdown,
            "whole": [self.whole.wall_s, self.whole.cpu_s, self.whole.spread_s],
            "layers": {name: [t.wall_s, t.cpu_s, t.spread_s] for name, t in self.layers.items()},
            "codecs": {
                tensor: {name: [c.size_bytes, c.encode_s, c.decode_s] for name, c in costs.items()}
                for tensor, costs in self.codecs.items()
            },
            "accuracy": None if self.accuracy is None else self.accuracy.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """The profile that ``to_json`` wrote.

        Raises:
            ValueError: the object is not such a profile.
        """
        try:
            if data["format"] != "splitnn-profile-1":
                raise ValueError(f"not a profile: format {data['format']!r}")
            before = data["machine"].get("simulated_slowdown", 1.0)  # where older files have it
            return cls(
                model=str(data["model"]),
                host=str(data["host"]),
                clock=data["clock"],
                engine=str(data["engine"]),
                threads=int(data["threads"]),
                error=None if data["error"] is None else float(data["error"]),
                tail_error=None if data["tail_error"] is None else float(data["tail_error"]),
                drift=float(data["drift"]),
                machine={str(k): str(v) for k, v in data["machine"].items()},
                stage_s=float(data.get("stage_s", 0.0)),
                message_s=float(data.get("message_s", 0.0)),
                slowdown=float(data.get("slowdown", before)),
                whole=Timing(*map(float, data["whole"])),
                layers={str(name): Timing(*map(float, t)) for name, t in data["layers"].items()},
                codecs={
                    str(tensor): {
                        str(name): CodecCost(int(size), float(encode), float(decode))
                        for name, (size, encode, decode) in costs.items()
                    }
                    for tensor, costs in data["codecs"].items()
                },
                accuracy=None if data["accuracy"] is None else Calibration.from_json(data["accuracy"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a profile: {error!r}") from error


def _is_amount(number: float) -> bool:
    return 0 <= number < _MOST
