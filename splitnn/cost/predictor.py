"""What predicts a profile without running the model: seconds by kind of layer, FLOPs and bytes. Knows no torch.

``splitnn.cost.predict`` fits it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np

from splitnn.cost.borrowed import UNKNOWN
from splitnn.cost.features import Features, features
from splitnn.cost.profile import Clock, Profile, Timing
from splitnn.graph.graph import Graph, Layer

MULTIPLYING, MOVING = "any that multiplies", "any that does not"


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
        known = self.coefficients.get(group_of(layer, found)) or self.coefficients.get(half_of(found))
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


def group_of(layer: Layer, found: Features) -> str:
    """What is regressed together: convolutions by shape, other layers by operator."""
    return layer.op if found.kind in ("memory", "view") else found.kind


def half_of(found: Features) -> str:
    """What stands in for a kind of layer that was never seen: all that multiply, or all that do not."""
    return MULTIPLYING if found.flops else MOVING


def _timing(seconds: float) -> Timing:
    return Timing(wall_s=seconds, cpu_s=seconds)
