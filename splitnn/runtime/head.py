"""The device's part of a cut model, to be exported: its layers, what they send, and what the server is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from splitnn.errors import InvalidInput
from splitnn.graph.ancestors import layers_before
from splitnn.graph.model import Model
from splitnn.graph.naming import tensor_named
from splitnn.runtime.stage import Stage, stage


@dataclass(frozen=True, slots=True)
class Head:
    """The device's part of a cut model."""

    stage: Stage
    crossing: tuple[str, ...]  # what to send: results of the head, and model inputs that the server reads itself
    results: tuple[str, ...]  # outputs of the model that the head already makes
    asked: tuple[str, ...]  # outputs of the model that the server is asked for


def head_before(model: Model, cut: Sequence[str]) -> Head:
    """The layers that it takes to make these tensors, and what the others need of them.

    A layer or a module stands for the tensor that it makes.

    Raises:
        InvalidInput: a tensor is unknown or an input, or nothing is left for the server.
    """
    tensors = [tensor_named(model.graph, text) for text in cut]
    if raw := [tensor for tensor in tensors if tensor in model.graph.inputs]:
        raise InvalidInput(f"{raw[0]!r} is an input of the model: before it there is no head")
    return head_of(model, layers_before(model.graph, tensors))


def head_of(model: Model, layers: Iterable[str]) -> Head:
    """The head that consists of these layers, such as those that a plan puts on its first host.

    Of a model with exits it sends what the last of them still needs, and nothing for those that were passed by; for an
    early exit only where none of it would be of the head's making, as inside the small model of a cascade.

    Raises:
        InvalidInput: they need others, there are none, or nothing is left for the server.
    """
    graph, inside = model.graph, set(layers)
    if not inside:
        raise InvalidInput("the plan puts no layer on the device: there is no head to write")
    if not graph.is_closed(inside):
        raise InvalidInput("these layers need tensors of others, which would have to come back from the server")
    made = {tensor for name in inside for tensor in graph.layer(name).outputs}
    results = tuple(dict.fromkeys(tensor for tensor in graph.outputs if tensor in made))
    # Exits asked for by name would have the server run the whole model.
    early = {each.output for each in model.exits.exits[:-1]} if model.exits is not None else set[str]()
    asked = tuple(dict.fromkeys(tensor for tensor in graph.outputs if tensor not in early.union(results)))
    crossing = graph.crossing(inside)
    if not crossing or not asked:
        raise InvalidInput("nothing is left for the server: the head is the whole model")
    if early:
        read = {tensor for name in layers_before(graph, asked) - inside for tensor in graph.layer(name).inputs}
        if results or made & read:
            crossing = tuple(tensor for tensor in crossing if tensor in read)
    outputs = tuple(dict.fromkeys([*(tensor for tensor in crossing if tensor in made), *results]))
    read = {tensor for name in layers_before(graph, outputs) for tensor in graph.layer(name).inputs}
    inputs = tuple(tensor for tensor in graph.inputs if tensor in read)
    if plain := [tensor for tensor in (*inputs, *outputs) if graph.tensors[tensor].dtype == "int"]:
        raise InvalidInput(f"{plain[0]!r} is a plain integer, which the head of another runtime cannot hand on")
    return Head(stage(model, inputs, outputs, host="device"), crossing, results, asked)
