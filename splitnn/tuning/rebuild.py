"""A model again with other weights, or other calls under the same names: its graph is laid out by running it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from splitnn.graph.code import run_nodes
from splitnn.graph.graph import TensorSpec
from splitnn.graph.model import Model, aligned
from splitnn.graph.owners import layer_of_nodes
from splitnn.graph.program import Node, Program

BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"

_WEIGHTS_AT = {  # positions of what training changes
    "aten.conv1d.default": (1, 2),
    "aten.conv2d.default": (1, 2),
    "aten.convolution.default": (1, 2),
    "aten.linear.default": (1, 2),
    "aten.addmm.default": (0, 2),
    "aten.embedding.default": (0,),
    "aten.layer_norm.default": (2, 3),
    "aten.native_layer_norm.default": (2, 3),
    BATCH_NORM: (1, 2),
}


def rebuilt(model: Model, weights: Mapping[str, torch.Tensor], nodes: Sequence[Node] | None = None) -> Model:
    """The model with these weights, and calls in place of its own if given.

    Every tensor of the graph keeps its name, dtype and growth; shapes, strides, operations and weights of layers are
    found anew. Weights that nothing reads are left out. No recipe is kept.
    """
    calls = tuple(model.program.nodes if nodes is None else nodes)
    read = {name for node in calls for name in node.reads}
    program = Program(
        inputs=model.program.inputs,
        weights=tuple(name for name in weights if name in read),
        nodes=calls,
        outputs=model.program.outputs,
    )
    kept = {name: aligned(weights[name]) for name in program.weights}
    behind = {name: {name} for name in program.weights}
    owner = layer_of_nodes(model.graph, program)
    flops: dict[str, int] = {}
    reads: dict[str, set[str]] = {}
    tensors = dict(model.graph.tensors)
    counter, seen = FlopCounterMode(display=False), 0
    with torch.inference_mode(), counter:
        for node, value in run_nodes(calls, {**kept, **model.example}):
            spent, seen = counter.get_total_flops() - seen, counter.get_total_flops()
            if node.name in program.constants:
                behind[node.name] = set().union(*(behind[name] for name in node.reads if name in behind))
                continue
            layer = owner[node.name]
            flops[layer] = flops.get(layer, 0) + spent
            reads.setdefault(layer, set()).update(*(behind[name] for name in node.reads if name in behind))
            if node.name in tensors and isinstance(value, torch.Tensor):
                tensors[node.name] = _spec_like(tensors[node.name], value)
    layers = tuple(
        replace(layer, weights=tuple(sorted(reads.get(layer.name, ()))), flops=flops.get(layer.name, 0))
        for layer in model.graph.layers
    )
    graph = replace(
        model.graph,
        layers=layers,
        tensors=tensors,
        weight_bytes={name: tensor.nbytes for name, tensor in kept.items()},
    )
    return replace(model, graph=graph, program=program, weights=kept, recipe=None)


def learnable(model: Model, layers: Iterable[str] | None = None) -> frozenset[str]:
    """Float weights that training changes (of these layers only): no statistics, no constants of preprocessing.

    A weight that another layer reads too is left alone when only some layers are asked for.
    """
    within = None if layers is None else set(layers)
    owner = layer_of_nodes(model.graph, model.program)
    found: set[str] = set()
    others: set[str] = set()
    for node in model.program.nodes:
        names = {
            name
            for at in _WEIGHTS_AT.get(node.op, ())
            if at < len(node.args) and (name := getattr(node.args[at], "name", "")) in model.weights
        }
        inside = within is None or owner.get(node.name) in within
        (found if inside else others).update(names)
    return frozenset(name for name in found - others if model.weights[name].is_floating_point())


def _spec_like(spec: TensorSpec, value: torch.Tensor) -> TensorSpec:
    order = tuple(sorted(range(value.ndim), key=lambda i: (-value.stride()[i], i)))
    plain = value.is_contiguous() or order == tuple(range(value.ndim))
    return replace(spec, shape=tuple(value.shape), dim_order=() if plain else order)
