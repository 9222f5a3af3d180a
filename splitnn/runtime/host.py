"""One model on this host, in-process: a ``Service`` that runs whatever part of the model a request asks for."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping

import torch

from splitnn.errors import DigestMismatch, InvalidInput, UnknownModel
from splitnn.graph.graph import DATA_DEPENDENT, Graph, TensorSpec
from splitnn.graph.model import Model, Value
from splitnn.runtime.engine import Engine
from splitnn.runtime.stage import Stage, stage
from splitnn.transport.base import Answer, Clock, Description, Request, Timings

_KEPT_STAGES = 64


class ModelHost:
    """Serves one model at any cut, on an engine. The far side of a ``LocalTransport``, and a device's own part.

    Compiled stages are kept, the 64 that were used last. A given engine stays its owner's; ``close`` ends one of the
    host's own.
    """

    def __init__(
        self, model: Model, *, name: str = "model", engine: Engine | None = None, clock: Clock = time.monotonic
    ) -> None:
        self.model = model
        self.name = name
        self._own_engine = Engine(f"host {name}", clock=clock) if engine is None else None
        self._engine = engine or self._own_engine or Engine()
        self._stages: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], Stage] = OrderedDict()

    async def infer(self, request: Request) -> Answer:
        """Run the layers between the tensors that are given and those that are wanted.

        Raises:
            UnknownModel, DigestMismatch, InvalidInput: the request is wrong; the message says what was expected.
            Overloaded, DeadlineExceeded, Unavailable: the engine's state.
        """
        self.check(request)
        executed = await self._engine.run(
            lambda: self._stage(request).run(request.tensors), deadline_s=request.deadline_s
        )
        timings = Timings(queue_s=executed.queue_s, compute_s=executed.compute_s)
        return Answer(tensors=executed.result, version="1", timings=timings)

    async def describe(self, model: str, version: str = "") -> Description:
        """This model. Raises UnknownModel: another one is asked for."""
        self._check_name(model, version)
        return Description(self.name, self.model.digest, self.model.graph, versions=("1",))

    def is_ready(self, model: str = "", version: str = "") -> bool:
        """Always, for this model."""
        return model in ("", self.name) and version in ("", "1")

    def check(self, request: Request) -> None:
        """Raises UnknownModel, DigestMismatch or InvalidInput unless this host can run the request."""
        self._check_name(request.model, request.version)
        if request.digest and request.digest != self.model.digest:
            raise DigestMismatch(f"the request is for model {request.digest[:12]}; here is {self.model.digest[:12]}")
        graph = self.model.graph
        check_tensors(graph, request.tensors)
        graph.between(request.tensors, request.wanted or graph.outputs)

    def close(self) -> None:
        """End the engine that this host started."""
        if self._own_engine is not None:
            self._own_engine.close()

    def _check_name(self, model: str, version: str) -> None:
        if not self.is_ready(model, version) or not model:
            raise UnknownModel(f"no model {model!r} version {version!r} here; there is {self.name!r} version '1'")

    def _stage(self, request: Request) -> Stage:
        """Compiled on the engine's thread, which is its only user."""
        key = (tuple(sorted(request.tensors)), request.wanted or tuple(self.model.graph.outputs))
        if key not in self._stages:
            self._stages[key] = stage(self.model, *key, host=self.name)
            if len(self._stages) > _KEPT_STAGES:
                self._stages.popitem(last=False)
        self._stages.move_to_end(key)
        return self._stages[key]


def check_tensors(graph: Graph, tensors: Mapping[str, Value]) -> None:
    """Raises InvalidInput unless every tensor is one of the graph's, in type and shape, with one batch size for all."""
    samples: int | None = None
    for name, value in tensors.items():
        if name not in graph.tensors:
            raise InvalidInput(f"no tensor is called {name!r} in this model; its inputs are {list(graph.inputs)}")
        spec = graph.tensors[name]
        found = "int" if isinstance(value, int) else str(value.dtype).removeprefix("torch.")
        if found != spec.dtype:
            raise InvalidInput(f"tensor {name!r} is {spec.dtype}, not {found}")
        if isinstance(value, torch.Tensor):
            samples = _samples(name, spec, tuple(value.shape), samples)


def _samples(name: str, spec: TensorSpec, shape: tuple[int, ...], known: int | None) -> int | None:
    """By how many samples the batch is larger than the example's, once a tensor shows it."""
    if len(shape) == len(spec.shape):
        if known is None:
            grows = [d for d, growth in enumerate(spec.batch_growth) if growth > 0]
            known = (shape[grows[0]] - spec.shape[grows[0]]) // spec.batch_growth[grows[0]] if grows else None
        expected = spec.grown(known or 0)
        if all(want in (DATA_DEPENDENT, size) for want, size in zip(expected, shape, strict=True)) and 0 not in shape:
            return known
    example = [f"{size}{'*' if g else ''}" for size, g in zip(spec.shape, spec.batch_growth or spec.shape, strict=True)]
    batch = " (* grows with the batch, which all tensors share)" if spec.batch_growth else ""
    shown = example if spec.batch_growth else list(map(str, spec.shape))
    raise InvalidInput(f"tensor {name!r} has shape ({', '.join(shown)}){batch}, not {shape}")
