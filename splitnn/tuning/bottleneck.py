"""A bottleneck (``zoo.autoencoder``) grown into a model at one of its tensors.

What crosses a cut between the two is an int8 tensor that a lossless codec makes small: the model with the bottleneck
is a version of its own, and each of its cuts answers exactly as the whole of it does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.graft import graft, tensor_values
from splitnn.graph.model import Model
from splitnn.graph.naming import tensor_named
from splitnn.graph.recipe import Recipe
from splitnn.tuning.planes import planes_of
from splitnn.zoo.autoencoder import Bottleneck, SpreadRows
from splitnn.zoo.planes import InPlanes

NAME = "bottleneck"
"""Layers that are grown in are called so."""


def cut_tensor(model: Model, text: str) -> str:
    """The tensor that a user named: itself, or the last one that a layer or a module makes.

    Raises:
        InvalidInput: there is none, or the model has exits.
        ValueError: it has no planes (``planes_of``), or no layer reads it.
    """
    if model.exits is not None:
        raise InvalidInput(
            "the model has exits, which a bottleneck would change and nobody would have judged: grow it into a model "
            "with one answer, and attach exits to that version (`splitnn exits`)"
        )
    graph = model.graph
    tensor = tensor_named(graph, text)
    planes_of(graph, tensor)
    if not graph.consumers[tensor] or tensor not in graph.producer:
        raise ValueError(f"{tensor!r} is an input or an output; a bottleneck lies between layers")
    return tensor


def patch_that_fits(planes: torch.Tensor, patch: tuple[int, int]) -> None:
    """Raises InvalidInput unless the height and the width of planes (N, C, H, W) are multiples of the patch's."""
    height, width = planes.shape[2:]
    if height % patch[0] or width % patch[1]:
        raise InvalidInput(f"patches of {patch[0]} x {patch[1]} do not tile {height} x {width}: give another --patch")


def insert(model: Model, tensor: str, bottleneck: Bottleneck, *, recipe: Recipe | None = None) -> Model:
    """The version of the model in which ``tensor``, seen as planes, passes through the bottleneck.

    Raises:
        ValueError: the model has a bottleneck already, or this one is of another shape.
    """
    value = tensor_values(model, [tensor])[tensor]
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{tensor!r} is a number, no tensor")
    grows = model.graph.tensors[tensor].batch_growth[:1] == (1,)
    planes = planes_of(model.graph, tensor)
    inside = bottleneck if planes.form == "image" else InPlanes(bottleneck, planes)
    scion = capture(inside.eval(), (value,), batch="auto" if grows else "fixed")
    (fed,), (decoded,) = scion.graph.inputs, scion.graph.outputs
    grown = graft(model, scion, name=NAME, at={fed: tensor}, replacing={tensor: decoded})
    return replace(grown, recipe=recipe, exits=None)


def crossing_tensor(version: Model) -> str:
    """The int8 tensor between encoder and decoder.

    Raises:
        ValueError: the version has no bottleneck.
    """
    made = [
        tensor
        for tensor, layer in version.graph.producer.items()
        if NAME in layer.split(".") and version.graph.tensors[tensor].dtype == "int8"
    ]
    if not made:
        raise ValueError("the model has no bottleneck")
    return made[-1]


def pixels_of(patches: torch.Tensor, *, patch: tuple[int, int]) -> torch.Tensor:
    """(N, C * rows * columns, h, w), as a decoder makes them, to (N, C, h * rows, w * columns)."""
    if patch == (1, 1):
        return patches
    rows, columns = patch
    spread = nn.PixelShuffle(rows) if rows == columns else SpreadRows(rows)
    found: torch.Tensor = spread(patches)
    return found


def patches_of(values: torch.Tensor, patch: tuple[int, int]) -> torch.Tensor:
    """(N, C, H, W) to (N, C * rows * columns, H / rows, W / columns): the inverse of ``pixels_of``."""
    if patch == (1, 1):
        return values
    rows, columns = patch
    cut: torch.Tensor = values.unflatten(2, (-1, rows)).unflatten(4, (-1, columns))  # (N, C, h, rows, w, columns)
    return cut.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
