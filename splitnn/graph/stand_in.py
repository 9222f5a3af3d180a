"""A model in another one's place: it reads the same inputs and answers under the same name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from splitnn.errors import InvalidInput
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model
from splitnn.graph.program import Node, Ref, rewrite
from splitnn.graph.resize import behind_resize, resizes
from splitnn.graph.structure import with_names

_INSIDE = "model"


def stand_in(model: Model, original: Model, *, answer: str, original_answer: str) -> Model:
    """``model`` for clients of ``original``: it reads the same inputs, and its ``answer`` has the name that they know.

    Where the two read images of different sizes, uint8 (N, H, W, C), a resize becomes part of the program. A name that
    is taken by this gets ``model.`` in front.

    Raises:
        InvalidInput: the model reads something else than the original.
    """
    entries = original.graph.inputs
    alone = len(entries) == len(model.graph.inputs) == 1
    if alone and resizes(original.graph.tensors[entries[0]], model.graph.tensors[model.graph.inputs[0]]):
        model, answer = behind_resize(model, original, name=_INSIDE), f"{_INSIDE}.{answer}"
    names = {answer: original_answer} | ({model.graph.inputs[0]: entries[0]} if alone else {})
    taken = set(names.values())
    names |= {name: f"{_INSIDE}.{name}" for name in _names(model) if name in taken and name not in names}
    made = _renamed(model, names)
    if (wanted := _read(original.graph)) != (found := _read(made.graph)):
        raise InvalidInput(f"a model in another one's place reads the same: {_said(wanted)}, not {_said(found)}")
    return replace(made, signature=original.signature, example=original.example)


def _names(model: Model) -> list[str]:
    program = model.program
    return list(
        dict.fromkeys([*program.inputs, *program.weights, *(n.name for n in program.nodes), *model.graph.index])
    )


def _read(graph: Graph) -> dict[str, tuple[object, ...]]:
    specs = {name: graph.tensors[name] for name in graph.inputs}
    return {name: (spec.dtype, spec.shape, spec.batch_growth) for name, spec in specs.items()}


def _said(read: Mapping[str, tuple[object, ...]]) -> str:
    return ", ".join(f"{name} {dtype} {shape}" for name, (dtype, shape, _) in read.items())


def _renamed(model: Model, names: Mapping[str, str]) -> Model:
    """The model with other names for some of its values and layers; no two get the same."""

    def name(old: str) -> str:
        return names.get(old, old)

    def leaf(old: Any) -> Any:
        return Ref(name(old.name)) if isinstance(old, Ref) else old

    nodes = tuple(
        Node(name(n.name), n.op, rewrite(n.args, leaf), {key: rewrite(value, leaf) for key, value in n.kwargs.items()})
        for n in model.program.nodes
    )
    program = replace(
        model.program,
        inputs=tuple(map(name, model.program.inputs)),
        weights=tuple(map(name, model.program.weights)),
        nodes=nodes,
        outputs=tuple(rewrite(output, leaf) for output in model.program.outputs),
    )
    layers = tuple(
        replace(
            layer,
            name=name(layer.name),
            inputs=tuple(map(name, layer.inputs)),
            outputs=tuple(map(name, layer.outputs)),
            weights=tuple(map(name, layer.weights)),
        )
        for layer in model.graph.layers
    )
    graph = replace(
        model.graph,
        layers=layers,
        tensors={name(tensor): spec for tensor, spec in model.graph.tensors.items()},
        inputs=tuple(map(name, model.graph.inputs)),
        outputs=tuple(map(name, model.graph.outputs)),
        weight_bytes={name(weight): size for weight, size in model.graph.weight_bytes.items()},
    )
    exits = model.exits
    if exits is not None:
        exits = replace(exits, exits=tuple(replace(each, output=name(each.output)) for each in exits.exits))
    return replace(
        model,
        graph=graph,
        program=program,
        weights={name(weight): tensor for weight, tensor in model.weights.items()},
        signature=with_names(model.signature, names),
        result=with_names(model.result, names),
        example={name(tensor): value for tensor, value in model.example.items()},
        exits=exits,
    )
