"""Models in eight bits: a package a quarter as large, and arithmetic in int8 on engines that have it.

Weights are symmetric, with one scale an output channel (of a recurrent layer, a gate of a unit), which is how such
engines take them. What restores them depends on weights only, so every host does it once when it loads the model.
Recurrent layers and embeddings are stored so, and compute in floats on every engine. Tensors are rounded to grids in
the program itself: torch computes in floats what the engines compute in int8, and any cut goes through either.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from splitnn.errors import InvalidInput
from splitnn.graph.model import Model
from splitnn.graph.owners import layer_of_nodes
from splitnn.graph.program import Node, Ref, Symbol, rewrite
from splitnn.tuning.correction import corrected
from splitnn.tuning.evaluation import Progress, Samples, silent
from splitnn.tuning.int8_names import Int8Weight
from splitnn.tuning.ranges import grids, in_eight_bits, on_grids
from splitnn.tuning.rebuild import rebuilt

_QUANTISED = {
    "aten.conv1d.default": 1,
    "aten.conv2d.default": 1,
    "aten.convolution.default": 1,
    "aten.linear.default": 1,
    "aten.embedding.default": 0,
}
_RECURRENT = frozenset(f"aten.{name}.input" for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"))
_THEIR_WEIGHTS = 2  # position of the list of a recurrent layer's weights and biases
_TO_FLOAT = {"dtype": Symbol("dtype", "float32")}
_LEAST = 256  # elements: smaller weights are not worth a scale
_CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)  # of the largest magnitude of a channel: the best in squared error is taken


def int8_arithmetic(
    model: Model, data: Samples, layers: Collection[str] | None = None, *, progress: Progress = silent
) -> Model:
    """The model with weights and tensors (of these layers only) in eight bits, ranges and corrections by the data.

    Raises:
        InvalidInput: there are no weights for it, the data do not fit, or the model makes infinity of them.
    """
    found = grids(model, data, in_eight_bits(model, layers), progress=progress)
    progress(1.0, "undoing what rounding does on average")
    return corrected(model, int8_weights(on_grids(model, found), layers), data)


def int8_weights(model: Model, layers: Collection[str] | None = None) -> Model:
    """The model with the weights of convolutions, linear and recurrent layers, and embeddings (these only) in int8.

    Raises:
        InvalidInput: there are none, or they are in int8 already.
    """
    chosen = _chosen(model, layers)
    if not chosen and any(each.steps in model.weights for each in _restored(model, layers)):
        raise InvalidInput("the weights of these layers are in int8 already")
    if not chosen:
        raise InvalidInput(
            "none of these layers has a float weight of a convolution, a linear or recurrent layer or an embedding of "
            f"{_LEAST} numbers or more; smaller ones are not worth it"
        )
    weights = {name: tensor for name, tensor in model.weights.items() if name not in chosen}
    restoring: list[Node] = []
    for name in chosen:
        of = Int8Weight(name)
        weights[of.steps], weights[of.scale] = quantised(model.weights[name])
        restoring += [
            Node(of.floats, "aten._to_copy.default", (Ref(of.steps),), _TO_FLOAT),
            Node(of.restored, "aten.mul.Tensor", (Ref(of.floats), Ref(of.scale)), {}),
        ]

    def swapped(leaf: object) -> object:
        return Ref(Int8Weight(leaf.name).restored) if isinstance(leaf, Ref) and leaf.name in chosen else leaf

    calls = [
        Node(
            node.name,
            node.op,
            rewrite(node.args, swapped),
            {key: rewrite(value, swapped) for key, value in node.kwargs.items()},
        )
        for node in model.program.nodes
    ]
    return rebuilt(model, weights, [*restoring, *calls])


def quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers, int8 like the weight, and a scale an output channel, float32 (channels, 1, ...)."""
    flat = weight.flatten(1)
    largest = flat.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    best_scale, best_error = largest / 127, torch.full_like(largest, float("inf"))
    for clip in _CLIPS:
        scale = largest * clip / 127
        error = ((flat / scale).round().clamp(-127, 127) * scale - flat).square().sum(1, keepdim=True)
        best_scale = torch.where(error < best_error, scale, best_scale)
        best_error = torch.minimum(error, best_error)
    steps = (flat / best_scale).round().clamp(-127, 127).to(torch.int8)
    return steps.view(weight.shape), best_scale.view(-1, *[1] * (weight.dim() - 1))


def _restored(model: Model, layers: Collection[str] | None) -> set[Int8Weight]:
    """The weights in int8 that these layers read."""
    owner = layer_of_nodes(model.graph, model.program)
    read = {
        name for node in model.program.nodes if layers is None or owner.get(node.name) in layers for name in node.reads
    }
    return {found for name in read if (found := Int8Weight.read_as(name)) is not None}


def _chosen(model: Model, layers: Collection[str] | None) -> list[str]:
    """Weights that only layers read that may change, and each only in places where it can be restored."""
    owner = layer_of_nodes(model.graph, model.program)
    found: dict[str, None] = {}
    kept: set[str] = set()
    for node in model.program.nodes:
        inside = node.name in owner and (layers is None or owner[node.name] in layers)
        weights = _weights_of(node)
        for name in node.reads:
            if name not in model.weights:
                continue
            if name in weights and inside:
                found[name] = None
            else:
                kept.add(name)
    return [name for name in found if name not in kept and _is_worth_it(model.weights[name])]


def _weights_of(node: Node) -> set[str]:
    """What the call reads that may be in int8; of a recurrent layer biases are too small to be."""
    if node.op in _RECURRENT:
        return {each.name for each in node.args[_THEIR_WEIGHTS] if isinstance(each, Ref)}
    at = _QUANTISED.get(node.op)
    return set() if at is None else {getattr(node.args[at], "name", "")}


def _is_worth_it(weight: torch.Tensor) -> bool:
    return weight.dtype == torch.float32 and weight.dim() >= 2 and weight.numel() >= _LEAST


def int8_bytes(model: Model) -> int:
    """Bytes of the model's weights that are in int8, scales not counted."""
    return sum(tensor.nbytes for name, tensor in model.weights.items() if _is_stored(model, name))


def _is_stored(model: Model, name: str) -> bool:
    weight = name.removesuffix(".int8")
    return weight != name and Int8Weight(weight).scale in model.weights


def left_in_floats(model: Model) -> dict[str, str]:
    """Layers that read a weight in floats which is large enough for int8, by name, and why it was left."""
    owner = layer_of_nodes(model.graph, model.program)
    behind: dict[str, set[str]] = {name: {name} for name in model.weights if _is_worth_it(model.weights[name])}
    behind = {name: each for name, each in behind.items() if not name.endswith(".scale")}
    found: dict[str, str] = {}
    for node in model.program.nodes:
        read = set().union(*(behind[name] for name in node.reads if name in behind))
        if node.name in model.program.constants:
            behind[node.name] = read
        elif read:
            reason = (
                "other layers read its weight, too, or it was not asked for"
                if read & _weights_of(node)
                else (f"{node.op.split('.')[1]} is no layer whose weights are taken")
            )
            found.setdefault(owner[node.name], reason)
    return found
