"""Tensors by the names that users know: of a tensor, of the layer that makes it, of a module. Knows no torch."""

from __future__ import annotations

from splitnn.errors import InvalidInput
from splitnn.graph.graph import Graph


def tensor_named(graph: Graph, text: str) -> str:
    """The tensor of that name, else what the layer of that name makes, or the last layer of that module.

    Raises:
        InvalidInput: there is none, or the layer makes several tensors.
    """
    if text in graph.tensors:
        return text
    if text in graph.index:
        made = graph.layer(text).outputs
    else:
        inside = [layer for layer in graph.layers if layer.module == text or layer.module.startswith(text + ".")]
        if not inside or not text:
            raise InvalidInput(
                f"no tensor, layer or module is called {text!r} in this model; `splitnn layers` and `splitnn plan` "
                "name some"
            )
        made = inside[-1].outputs
    if len(made) != 1:
        raise InvalidInput(f"{text!r} makes {len(made)} tensors; name one of them: {', '.join(map(repr, made))}")
    return made[0]
