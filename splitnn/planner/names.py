"""What a user calls layers, tensors and operators, as those of a graph. A module stands for all of its layers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from splitnn.graph.graph import Graph


def layers_named(graph: Graph, name: str) -> tuple[str, ...]:
    """The layer of that name, or all layers of the module of that name and of the modules in it, in graph order.

    What the names of all modules begin with may be left out, as it is where plans are shown. ``features.3.*`` is the
    module even where one of its layers has its name.

    Raises:
        ValueError: there are none; the message has the nearest names.
    """
    if name in graph.index:
        return (name,)
    shared, name = _shared_beginning(graph), name.removesuffix(".*")
    for module in (name, f"{shared}.{name}") if shared else (name,):
        inside = tuple(
            layer.name for layer in graph.layers if layer.module == module or layer.module.startswith(f"{module}.")
        )
        if inside:
            return inside
    raise ValueError(
        f"layer {name!r}, which a constraint names, does not exist in this model, nor does such a module"
        f"{_nearest(name, [*graph.index, *_modules(graph)])}; `splitnn layers MODEL` lists them"
    )


def tensors_named(graph: Graph, name: str) -> tuple[str, ...]:
    """The tensor of that name, or all that the layers make that ``layers_named`` finds.

    Raises:
        ValueError: there are none; the message has the model's inputs and the nearest names.
    """
    if name in graph.tensors:
        return (name,)
    try:
        makers = layers_named(graph, name)
    except ValueError:
        raise ValueError(
            f"no tensor is called {name!r} in this model, nor is a layer or a module; its inputs are "
            f"{list(graph.inputs)}{_nearest(name, [*graph.tensors, *_modules(graph)])}; "
            "`splitnn layers MODEL` lists them"
        ) from None
    return tuple(tensor for maker in makers for tensor in graph.layer(maker).outputs)


def layers_of_operator(graph: Graph, name: str) -> tuple[str, ...]:
    """The layers whose operator is ``aten.conv2d.default``, by its full name or as ``conv2d``.

    Raises:
        ValueError: there are none; the message lists the model's operators, the nearest ones first.
    """
    found = tuple(layer.name for layer in graph.layers if name == layer.op or name in layer.op.split(".")[1:2])
    if found:
        return found
    ops = sorted({layer.op for layer in graph.layers})
    short = [op.split(".")[1] if "." in op else op for op in ops]
    raise ValueError(
        f"no layer of this model is a {name!r}{_nearest(name, [*short, *ops])}; its operators are {', '.join(ops)}"
    )


def _modules(graph: Graph) -> list[str]:
    """Every module that a name may stand for, also without the shared beginning."""
    shared = _shared_beginning(graph)
    found: dict[str, None] = {}
    for layer in graph.layers:
        parts = layer.module.split(".") if layer.module else []
        for depth in range(1, len(parts) + 1):
            module = ".".join(parts[:depth])
            found |= {module: None}
            if shared and module.startswith(f"{shared}."):
                found |= {module.removeprefix(f"{shared}."): None}
    return list(found)


def _shared_beginning(graph: Graph) -> str:
    """What the names of all modules that own layers begin with, whole parts only."""
    paths = [layer.module.split(".") for layer in graph.layers if layer.module]
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.4)
    return f": did you mean {' or '.join(near)}?" if near else ""
