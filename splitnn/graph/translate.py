"""From torch's exported program to ours: the same calls under readable names, and the operators checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from splitnn.errors import CaptureError
from splitnn.graph.operators import name_of
from splitnn.graph.program import Node, Program, Ref, Symbol, rewrite
from splitnn.graph.sizes import infer_sizes
from splitnn.graph.structure import Place, Structure, structure_of

_WEIGHTS = {InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR}


@dataclass(frozen=True)
class Translation:
    """A program, and what the graph needs to know of it that the program does not say."""

    program: Program
    outputs: tuple[str, ...]
    result: Structure
    sources: Mapping[str, str]  # weight -> its name in the module
    layers: Mapping[str, str]  # node -> name of its layer
    modules: Mapping[str, str]  # node -> dotted name of the module that it comes from
    parts: Mapping[str, tuple[str, ...]]  # node with several results -> the values taken out of it
    shapes: Mapping[str, Any]  # value -> torch's symbolic value, for what depends on the batch


def translate(exported: ExportedProgram) -> Translation:
    """Our program for an exported, functional one.

    Raises:
        CaptureError: it calls an operator that is not on the allow-list, or holds what JSON cannot.
    """
    graph = exported.graph_module.graph
    infer_sizes(graph)
    weights, inputs = _sources(exported)
    layers = _names(graph, {*weights.values(), *inputs})
    names = layers | _output_names(exported, layers) | weights | {name: name for name in inputs}
    nodes = [_node(node, names, exported.graph_module) for node in graph.nodes if node.op == "call_function"]
    outputs, extra, result = _results(exported, graph, names)
    read = {name for node in (*nodes, *extra) for name in node.reads}
    program = Program(
        inputs=tuple(inputs),
        weights=tuple(name for name in dict.fromkeys(weights.values()) if name in read),
        nodes=(*nodes, *extra),
        outputs=tuple(Ref(name) for name in outputs),
    )
    calls = [node for node in graph.nodes if node.op == "call_function"]
    return Translation(
        program=program,
        outputs=outputs,
        result=result,
        sources={
            weights[spec.arg.name]: str(spec.target)
            for spec in exported.graph_signature.input_specs
            if spec.kind in _WEIGHTS
        },
        layers={names[node.name]: layers[node.name].removesuffix("()") for node in calls},
        modules={names[node.name]: _owner(node)[0] for node in calls},
        parts={names[node.name]: tuple(names[user.name] for user in node.users) for node in calls if _is_several(node)},
        shapes={names[node.name]: node.meta.get("val") for node in graph.nodes if node.name in names},
    )


def _sources(exported: ExportedProgram) -> tuple[dict[str, str], list[str]]:
    """Placeholder -> weight, and the tensor inputs in order."""
    weights: dict[str, str] = {}
    inputs = [
        spec.arg.name
        for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT and not isinstance(spec.arg, ConstantArgument)
    ]
    for spec in exported.graph_signature.input_specs:
        if spec.kind in _WEIGHTS:
            target = str(spec.target)
            weights[spec.arg.name] = target if target not in inputs else f"{target} (weight)"
        elif spec.kind is not InputKind.USER_INPUT:
            raise CaptureError(f"the module takes or holds a {spec.kind.name.lower()}, which cannot travel")
    return weights, inputs


def _owner(node: fx.Node) -> tuple[str, str]:
    """The module that a call comes from and which of its calls it was ('' or '@1', ...)."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return "", ""
    key, (path, kind) = next(reversed(stack.items()))
    if "nn_module_stack" in str(kind) or "nn_module_stack" in path:
        return "", ""
    call = key.rpartition("@")[2] if "@" in key else ""
    return path.partition("@")[0], f"@{call}" if call else ""


def _operator(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    return str(getattr(target, "__name__", target))


def _is_getitem(node: fx.Node) -> bool:
    return _operator(node) == "getitem" and isinstance(node.args[0], fx.Node)


def _is_several(node: fx.Node) -> bool:
    """Whether a call makes a tuple or list."""
    return not _is_getitem(node) and isinstance(node.meta.get("val"), (tuple, list))


def _names(graph: fx.Graph, sources: set[str]) -> dict[str, str]:
    """fx name of each call -> its readable name, unique among all values; ``sources`` are taken.

    A module of one operator gives that operator its name, ``features.3.conv``; in others the operator is added,
    ``layer1.0:add``, and counted, ``layer1.0:add#2``. A part of several results is ``split[1]``; the call that makes
    the parts is then ``split()``.
    """
    calls = [node for node in graph.nodes if node.op == "call_function"]
    owners = Counter(_owner(node) for node in calls if not _is_getitem(node))
    taken = set(sources)
    names: dict[str, str] = {}
    for node in calls:
        if _is_getitem(node):
            continue
        owner = _owner(node)
        path = "".join(owner)
        name = path if path and owners[owner] == 1 else f"{path}:{_operator(node)}" if path else _operator(node)
        count, unique = 1, name
        while unique in taken:
            count += 1
            unique = f"{name}#{count}"
        taken.add(unique)
        if not _is_several(node):
            names[node.name] = unique
            continue
        names[node.name] = f"{unique}()"
        for user in node.users:
            if not _is_getitem(user):
                raise CaptureError(f"{unique!r}: its results are used as one value, which cannot be cut")
            names[user.name] = unique if len(node.users) == 1 else f"{unique}[{user.args[1]}]"
    return names


def _output_names(exported: ExportedProgram, names: Mapping[str, str]) -> dict[str, str]:
    """Names for the tensors that the module returns: ``output``, ``output_1`` or the key in its mapping."""
    taken = {*names.values(), *(spec.arg.name for spec in exported.graph_signature.input_specs)}
    taken |= {str(spec.target) for spec in exported.graph_signature.input_specs}
    keyed = pytree.tree_flatten_with_path(
        pytree.tree_unflatten(list(range(exported.call_spec.out_spec.num_leaves)), exported.call_spec.out_spec)
    )[0]
    user = [s for s in exported.graph_signature.output_specs if s.kind is OutputKind.USER_OUTPUT]
    better: dict[str, str] = {}
    for (path, _), spec in zip(keyed, user, strict=True):
        source = getattr(spec.arg, "name", None)
        if not isinstance(source, str) or source not in names or source in better:
            continue
        parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", "")))) for key in path]
        words = ".".join(parts)
        name = "output" if not parts else words if not words[0].isdigit() else f"output_{words}"
        if name not in taken:
            taken.add(name)
            better[source] = name
    return better


def _node(node: fx.Node, names: Mapping[str, str], owner: torch.nn.Module) -> Node:
    name = names[node.name]
    op = name_of(node.target)
    if op is None:
        raise CaptureError(
            f"{name!r} calls {node.target}, which may not travel: only torch's own operators that mutate nothing can; "
            "express it with those, or leave this part out of the module"
        )

    def argument(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            if leaf.op == "get_attr":
                return _branch(leaf, owner)
            return Ref(names[leaf.name])
        for kind, known in (
            ("dtype", torch.dtype), ("layout", torch.layout), ("memory_format", torch.memory_format)
        ):  # fmt: skip
            if isinstance(leaf, known):
                return Symbol(kind, str(leaf).removeprefix("torch."))  # type: ignore[arg-type]
        if isinstance(leaf, torch.device):
            return Symbol("device", leaf.type)
        if leaf is None or isinstance(leaf, (bool, int, float, str)):
            return leaf
        raise CaptureError(f"{name!r} takes {leaf!r} ({type(leaf).__name__}) as an argument, which cannot travel")

    args = rewrite(_plain(node.args), argument)
    return Node(name, op, args, {key: rewrite(_plain(value), argument) for key, value in node.kwargs.items()})


def _plain(value: Any) -> Any:
    """fx's immutable lists and mappings as plain ones."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    return value


def _branch(attribute: fx.Node, owner: torch.nn.Module) -> Program:
    """The graph module behind an argument of torch's control flow."""
    module = getattr(owner, str(attribute.target))
    graph = module.graph
    infer_sizes(graph)
    names = {node.name: node.name for node in graph.nodes}
    (output,) = (node for node in graph.nodes if node.op == "output")
    results = output.args[0]
    return Program(
        inputs=tuple(node.name for node in graph.nodes if node.op == "placeholder"),
        weights=(),
        nodes=tuple(_node(node, names, module) for node in graph.nodes if node.op == "call_function"),
        outputs=tuple(
            Ref(item.name) if isinstance(item, fx.Node) else item
            for item in (results if isinstance(results, (list, tuple)) else (results,))
        ),
    )


def _results(
    exported: ExportedProgram, graph: fx.Graph, names: dict[str, str]
) -> tuple[tuple[str, ...], list[Node], Structure]:
    """Output tensors, the copies that turn returned weights into tensors of their own, and how all is nested."""
    outputs: list[str] = []
    extra: list[Node] = []
    leaves: list[Structure] = []
    weights = {spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind in _WEIGHTS}
    for spec in exported.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            continue
        if isinstance(spec.arg, ConstantArgument):
            leaves.append({"value": spec.arg.value})
            continue
        name = names[spec.arg.name]
        if spec.arg.name in weights:
            copy = f"{name} (returned)"
            if all(node.name != copy for node in extra):
                extra.append(Node(copy, "aten.clone.default", (Ref(name),), {}))
            name = copy
        outputs.append(name)
        leaves.append({"tensor": name})
    nested = pytree.tree_unflatten([Place(leaf) for leaf in leaves], exported.call_spec.out_spec)
    return tuple(outputs), extra, structure_of(nested)
