"""One model grafted onto another: an exit on an inner tensor, a second trunk on the input, a bottleneck in the middle.

The result is an ordinary model: cut, profiled, planned, packed and served like any other, under a digest of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from splitnn.graph.code import run_nodes
from splitnn.graph.extract import extract
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.graph.model import Model, Value
from splitnn.graph.program import Node, Program, Ref, rewrite
from splitnn.graph.structure import with_names


def graft(
    model: Model, scion: Model, *, name: str, at: Mapping[str, str], replacing: Mapping[str, str] | None = None
) -> Model:
    """``model`` with the layers of ``scion`` grown into it; all their names begin with ``name`` and a dot.

    ``at`` feeds each input of the scion from a tensor of the model. Without ``replacing`` the scion's outputs join the
    model's, after them (an early exit, a second model on the same input); the result is then the pair of both. With it,
    each tensor named there is replaced by that output of the scion for all who read it later (a bottleneck), and the
    model's outputs stay what they are. ``tensor_values`` makes the example with which to capture a scion.

    Raises:
        ValueError: a name is taken or unknown, or a tensor of the scion is not as the model has it there.
    """
    if set(at) != set(scion.graph.inputs):
        raise ValueError(f"the scion's inputs are {list(scion.graph.inputs)}, not {sorted(at)}")
    _check_specs(model, scion, at, replacing or {})
    rename = {value: f"{name}.{value}" for value in _values(scion.program)} | dict(at)
    swap = {old: rename[new] for old, new in (replacing or {}).items()}
    _check_names(model, rename, at)
    grown = _program(model, scion, rename, swap, name)
    graph = _graph(model.graph, scion.graph, rename, swap, name)
    weights = {**model.weights, **{rename[weight]: tensor for weight, tensor in scion.weights.items()}}
    made = Model(
        graph=graph,
        program=grown,
        weights={weight: weights[weight] for weight in grown.weights},
        signature=model.signature,
        result=with_names(model.result, swap) if swap else {"tuple": [model.result, with_names(scion.result, rename)]},
        example=model.example,
        eager_difference=max(model.eager_difference, scion.eager_difference),
    )
    return _laid_out_again(made) if swap else made


def tensor_values(model: Model, tensors: Iterable[str], inputs: Mapping[str, Value] | None = None) -> dict[str, Value]:
    """What these tensors of the model hold for ``inputs`` by name (its example by default), strides included.

    Raises:
        ValueError: an input is missing.
    """
    wanted = tuple(tensors)
    given = dict(inputs or model.example)
    with torch.inference_mode():
        found = extract(model, tuple(given), wanted)(*given.values())
    return dict(zip(wanted, found, strict=True))


def _check_specs(model: Model, scion: Model, at: Mapping[str, str], replacing: Mapping[str, str]) -> None:
    for inner, outer in (*at.items(), *((new, old) for old, new in replacing.items())):
        if outer not in model.graph.tensors:
            raise ValueError(f"the model has no tensor {outer!r}")
        if inner not in scion.graph.tensors:
            raise ValueError(f"the scion has no tensor {inner!r}")
        want, have = model.graph.tensors[outer], scion.graph.tensors[inner]
        if (want.shape, want.dtype, want.batch_growth) != (have.shape, have.dtype, have.batch_growth):
            raise ValueError(
                f"{outer!r} of the model is {_said(want)}, but {inner!r} of the scion is {_said(have)}; capture the "
                "scion with the model's batch, fixed where the model's is"
            )
    if missing := sorted(set(replacing.values()) - set(scion.graph.outputs)):
        raise ValueError(f"{missing} are no outputs of the scion; these are: {list(scion.graph.outputs)}")


def _said(spec: TensorSpec) -> str:
    return f"{spec.dtype} {list(spec.shape)} that grows by {list(spec.batch_growth) or 'nothing'} a sample"


def _check_names(model: Model, rename: Mapping[str, str], at: Mapping[str, str]) -> None:
    taken = {*_values(model.program), *model.graph.index}
    if clash := sorted(new for old, new in rename.items() if old not in at and new in taken):
        raise ValueError(f"the model has {clash[0]!r} already; graft under another name")


def _values(program: Program) -> tuple[str, ...]:
    return (*program.inputs, *program.weights, *(node.name for node in program.nodes))


def _program(model: Model, scion: Model, rename: Mapping[str, str], swap: Mapping[str, str], name: str) -> Program:
    """The model's calls, the scion's right behind the last that it reads, and readers of swapped values after them."""
    feeding = {rename[value] for value in scion.program.inputs}
    old = model.program.nodes
    at = max((i + 1 for i, node in enumerate(old) if node.name in feeding), default=0)
    grown = tuple(_renamed(node, rename, name=rename[node.name]) for node in scion.program.nodes)
    later = tuple(_renamed(node, swap, name=node.name) for node in old[at:])
    outputs = tuple(_leaf(output, swap) for output in model.program.outputs)
    if not swap:
        outputs += tuple(_leaf(output, rename) for output in scion.program.outputs)
    return Program(
        inputs=model.program.inputs,
        weights=(*model.program.weights, *(rename[weight] for weight in scion.program.weights)),
        nodes=(*old[:at], *grown, *later),
        outputs=outputs,
    )


def _renamed(node: Node, names: Mapping[str, str], *, name: str) -> Node:
    args = rewrite(node.args, lambda leaf: _leaf(leaf, names))
    kwargs = {key: rewrite(value, lambda leaf: _leaf(leaf, names)) for key, value in node.kwargs.items()}
    return Node(name, node.op, args, kwargs)


def _leaf(leaf: Any, names: Mapping[str, str]) -> Any:
    return Ref(names.get(leaf.name, leaf.name)) if isinstance(leaf, Ref) else leaf


def _graph(model: Graph, scion: Graph, rename: Mapping[str, str], swap: Mapping[str, str], name: str) -> Graph:
    feeding = {rename[tensor] for tensor in scion.inputs}
    at = max((i + 1 for i, layer in enumerate(model.layers) if feeding & set(layer.outputs)), default=0)
    grown = tuple(
        Layer(
            name=f"{name}.{layer.name}",
            op=layer.op,
            inputs=tuple(dict.fromkeys(rename[tensor] for tensor in layer.inputs)),
            outputs=tuple(rename[tensor] for tensor in layer.outputs),
            module=f"{name}.{layer.module}".rstrip("."),
            weights=tuple(rename[weight] for weight in layer.weights),
            flops=layer.flops,
        )
        for layer in scion.layers
    )
    later = tuple(
        replace(layer, inputs=tuple(dict.fromkeys(swap.get(tensor, tensor) for tensor in layer.inputs)))
        for layer in model.layers[at:]
    )
    outputs = tuple(swap.get(tensor, tensor) for tensor in model.outputs)
    return Graph(
        layers=(*model.layers[:at], *grown, *later),
        tensors={**model.tensors, **{rename[t]: s for t, s in scion.tensors.items() if t not in scion.inputs}},
        inputs=model.inputs,
        outputs=outputs if swap else (*outputs, *(rename[tensor] for tensor in scion.outputs)),
        weight_bytes={**model.weight_bytes, **{rename[weight]: size for weight, size in scion.weight_bytes.items()}},
        batch=model.batch,
    )


def _laid_out_again(model: Model) -> Model:
    """With the dimension orders that tensors behind a replaced one really have now."""
    tensors = dict(model.graph.tensors)
    with torch.inference_mode():
        for node, value in run_nodes(model.program.nodes, {**model.weights, **model.example}):
            if node.name in tensors and isinstance(value, torch.Tensor):
                order = tuple(sorted(range(value.ndim), key=lambda i, v=value: (-v.stride()[i], i)))  # type: ignore[misc]
                plain = value.is_contiguous() or order == tuple(range(value.ndim))
                tensors[node.name] = replace(tensors[node.name], dim_order=() if plain else order)
    return replace(model, graph=replace(model.graph, tensors=tensors))
