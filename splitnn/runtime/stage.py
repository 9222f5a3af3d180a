"""What one host runs: the layers between the tensors that it is given and those that it must hand on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch

from splitnn.errors import ProfileMismatch
from splitnn.graph.code import Callee
from splitnn.graph.extract import extract, weight_names
from splitnn.graph.model import Model, Value
from splitnn.planner.plan import Plan


@dataclass(frozen=True, repr=False)
class Stage:
    """A compiled part of a model; holds only the weights that it reads.

    A stage without layers passes its inputs on. Results are bit-identical to those of the whole model when both ran
    in torch on one kind of processor with the same batch, the same strides and the same number of threads.
    """

    host: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    weight_bytes: int
    call: Callee
    device: str = "cpu"

    def __repr__(self) -> str:
        ends = f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}"
        return f"Stage({self.host}: {len(self.layers)} layers, {self.weight_bytes / 1e6:.1f} MB of weights, {ends})"

    def run(self, tensors: Mapping[str, Value]) -> dict[str, Value]:
        """Outputs by name. Inputs are not changed; more tensors than the stage's inputs may be given.

        Raises:
            KeyError: an input is missing.
        """
        with torch.inference_mode():
            given = [self._moved(tensors[name]) for name in self.inputs]
            return dict(zip(self.outputs, self.call(*given), strict=True))

    def _moved(self, value: Value) -> Value:
        return value.to(self.device) if isinstance(value, torch.Tensor) else value


def stage(
    model: Model, inputs: Iterable[str], outputs: Iterable[str], *, host: str = "here", device: str = "cpu"
) -> Stage:
    """The stage that turns the tensors ``inputs`` into the tensors ``outputs``, on a torch device.

    Raises:
        InvalidInput: a tensor is unknown, or the inputs are no cut for these outputs.
    """
    given, wanted = tuple(inputs), tuple(dict.fromkeys(outputs))
    layers = model.graph.between(given, wanted)
    return Stage(
        host=host,
        inputs=given,
        outputs=wanted,
        layers=tuple(layer.name for layer in layers),
        weight_bytes=sum(model.weights[name].nbytes for name in weight_names(model, given, wanted)),
        call=extract(model, given, wanted, device=device),
        device=device,
    )


def split(model: Model, plan: Plan) -> tuple[Stage, ...]:
    """One stage for each host of the plan, in order; each hands on what later hosts or the caller need.

    Raises:
        ProfileMismatch: the plan is of another model.
    """
    if plan.model != model.digest:
        raise ProfileMismatch(f"the plan is of model {plan.model[:12]}, not {model.digest[:12]}")
    return stages(model, dict(zip(plan.hosts, plan.layers, strict=True)))


def stages(model: Model, layers: Mapping[str, Collection[str]]) -> tuple[Stage, ...]:
    """One stage for each host's layers; no layer reads from a later host.

    Raises:
        InvalidInput: data would flow back.
    """
    graph = model.graph
    found = []
    done: set[str] = set()
    for host, names in layers.items():
        inside = set(names)
        read = {tensor for name in inside for tensor in graph.layer(name).inputs}
        made = {tensor for name in inside for tensor in graph.layer(name).outputs}
        done |= inside
        leaves = made.intersection((*graph.crossing(done), *graph.outputs))
        inputs = tuple(tensor for tensor in graph.tensors if tensor in read - made)
        outputs = tuple(tensor for tensor in graph.tensors if tensor in leaves)
        found.append(stage(model, inputs, outputs, host=host))
    return tuple(found)
