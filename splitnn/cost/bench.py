"""A captured model on one torch device, ready to be timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from splitnn.cost.measure import Reading
from splitnn.graph.code import Callee, run_nodes
from splitnn.graph.extract import extract
from splitnn.graph.model import Model, Value
from splitnn.graph.owners import layer_of_nodes

_EMPTY_READINGS = 101


def read_clocks() -> Reading:
    """Wall clock, and CPU time of the calling thread: with one torch thread, the one that does the work."""
    return Reading(time.perf_counter(), time.thread_time())


def clocks_of(device: str) -> Callable[[], Reading]:
    """The clocks to measure work on ``device`` with; a GPU finishes its queue before they are read."""
    if torch.device(device).type != "cuda":
        return read_clocks

    def synchronised() -> Reading:
        torch.cuda.synchronize(device)
        return read_clocks()

    return synchronised


Compile = Callable[[Callee, Sequence[torch.Tensor]], Callee]
"""Makes a function of a stage's own function and of its example inputs."""


def in_torch(call: Callee, example: Sequence[torch.Tensor]) -> Callee:
    """The stage as it is, in torch's own operators."""
    return call


class ModelBench:
    """The stages of a model, compiled when first asked for; fed with what the example makes of every tensor.

    ``compile`` makes them what will run; single layers are always torch's own operators.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str = "cpu",
        compile: Compile = in_torch,
        now: Callable[[], Reading] | None = None,
    ) -> None:
        self._model = model
        self._device = device
        self._compile = compile
        self._now = now or clocks_of(device)
        self._example: dict[str, Value] = {name: value.to(device) for name, value in model.example.items()}
        self._nodes = [node for node in model.program.nodes if node.name not in model.program.constants]
        self._layer_of = layer_of_nodes(model.graph, model.program)
        read = {name for node in self._nodes for name in node.reads}
        self._kept = {name: value for name, value in model.resident_on(device).items() if name in read}
        self._heads: dict[int, tuple[Callee, Sequence[Value]]] = {}
        self._tails: dict[int, tuple[Callee, Sequence[Value]]] = {}
        empty = [self._timed(lambda: None)[1] for _ in range(_EMPTY_READINGS)]
        self._overhead = Reading(median(e.wall_s for e in empty), median(e.cpu_s for e in empty))

    def layers(self) -> Sequence[Reading]:
        """Seconds of every layer: its call and those that take its results apart, without what is around them."""
        graph = self._model.graph
        wall, cpu = [0.0] * len(graph), [0.0] * len(graph)
        took = Reading(0.0, 0.0)

        def timed(operator: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
            nonlocal took
            result, took = self._timed(operator, *args, **kwargs)
            return result

        with torch.inference_mode():
            values = {**self._kept, **self._example}
            for node, _ in run_nodes(self._nodes, values, device=self._device, call=timed):
                index = graph.index[self._layer_of[node.name]]
                wall[index] += max(0.0, took.wall_s - self._overhead.wall_s)
                cpu[index] += max(0.0, took.cpu_s - self._overhead.cpu_s)
        return [Reading(w, c) for w, c in zip(wall, cpu, strict=True)]

    def head(self, position: int) -> Reading:
        """Seconds of the first layers as one stage, which gives what the others read and its share of the results."""
        return self._run(*self._head(position))

    def tail(self, position: int) -> Reading:
        """Seconds of the other layers as one stage."""
        if position not in self._tails:
            made, crossing = self._cut(position)
            call, given = self._head(position)
            with torch.inference_mode():
                values = {**self._example, **dict(zip(made, call(*given), strict=True))}
            outputs = [name for name in dict.fromkeys(self._model.graph.outputs) if name not in made]
            stage = extract(self._model, crossing, outputs, device=self._device)
            self._tails[position] = self._compiled(stage, [values[name] for name in crossing])
        return self._run(*self._tails[position])

    def tensors(self) -> Iterator[tuple[str, Value]]:
        """Every tensor of the graph with the example's value, each let go after its last reader.

        Iterate in inference mode: a generator cannot hold it for itself only.
        """
        yield from self._example.items()
        for node, value in run_nodes(self._nodes, {**self._kept, **self._example}, device=self._device):
            if node.name in self._model.graph.tensors:
                yield node.name, value

    def _head(self, position: int) -> tuple[Callee, Sequence[Value]]:
        if position not in self._heads:
            inputs = self._model.graph.inputs
            call = extract(self._model, inputs, self._cut(position)[0], device=self._device)
            self._heads[position] = self._compiled(call, [self._example[name] for name in inputs])
        return self._heads[position]

    def _compiled(self, call: Callee, given: Sequence[Value]) -> tuple[Callee, Sequence[Value]]:
        """The stage as it will run, with what to feed it; plain integers are torch's alone."""
        tensors = [value for value in given if isinstance(value, torch.Tensor)]
        return (self._compile(call, tensors) if len(tensors) == len(given) else call), given

    def _run(self, call: Callee, given: Sequence[Value]) -> Reading:
        with torch.inference_mode():
            _, took = self._timed(call, *given)  # the results live on: on a host they leave for somewhere
        return took

    def _timed(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, Reading]:
        start = self._now()
        result = work(*args, **kwargs)
        return result, self._now().since(start)

    def _cut(self, position: int) -> tuple[list[str], list[str]]:
        """What the head makes for others, and everything that crosses (with inputs that the tail reads)."""
        graph = self._model.graph
        head = [layer.name for layer in graph.layers[:position]]
        made = {tensor for name in head for tensor in graph.layer(name).outputs}
        crossing = graph.crossing(head)
        results = [tensor for tensor in graph.outputs if tensor in made]
        return list(dict.fromkeys([*(t for t in crossing if t in made), *results])), list(crossing)
