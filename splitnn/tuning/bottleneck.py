"""A bottleneck (``zoo.autoencoder``) grown into a model at one of its tensors.

What crosses a cut between the two is an int8 tensor that a lossless codec makes small: the model with the bottleneck
is a version of its own, and each of its cuts answers exactly as the whole of it does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional

from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.graft import graft, tensor_values
from splitnn.graph.graph import TensorSpec
from splitnn.graph.model import Model
from splitnn.graph.naming import tensor_named
from splitnn.graph.recipe import Recipe
from splitnn.zoo.autoencoder import Bottleneck

NAME = "bottleneck"
"""Layers that are grown in are called so."""


def cut_tensor(model: Model, text: str) -> str:
    """The tensor that a user named: itself, or the last one that a layer or a module makes.

    Raises:
        InvalidInput: there is none, or the model has exits.
        ValueError: it is no image-like float tensor (N, C, H, W), or no layer reads it.
    """
    if model.exits is not None:
        raise InvalidInput(
            "the model has exits, which a bottleneck would change and nobody would have judged: grow it into a model "
            "with one answer, and attach exits to that version (`splitnn exits`)"
        )
    graph = model.graph
    tensor = tensor_named(graph, text)
    _check(graph.tensors[tensor], tensor)
    if not graph.consumers[tensor] or tensor not in graph.producer:
        raise ValueError(f"{tensor!r} is an input or an output; a bottleneck lies between layers")
    return tensor


def _check(spec: TensorSpec, tensor: str) -> None:
    if len(spec.shape) != 4 or spec.dtype != "float32":
        raise ValueError(
            f"a bottleneck takes a float32 tensor (N, C, H, W); {tensor!r} is {spec.dtype} {list(spec.shape)}"
        )


def patch_that_fits(spec: TensorSpec, patch: int) -> None:
    """Raises InvalidInput unless the tensor's height and width are multiples of ``patch``."""
    if spec.shape[2] % patch or spec.shape[3] % patch:
        raise InvalidInput(f"patches of {patch} x {patch} do not tile {spec.shape[2]} x {spec.shape[3]}")


def insert(model: Model, tensor: str, bottleneck: Bottleneck, *, recipe: Recipe | None = None) -> Model:
    """The version of the model in which ``tensor`` passes through the bottleneck.

    Raises:
        ValueError: the model has a bottleneck already, or this one is of another shape.
    """
    value = tensor_values(model, [tensor])[tensor]
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{tensor!r} is a number, no tensor")
    grows = model.graph.tensors[tensor].batch_growth[:1] == (1,)
    scion = capture(bottleneck.eval(), (value,), batch="auto" if grows else "fixed")
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


def pixels_of(patches: torch.Tensor, *, channels: int, patch: int) -> torch.Tensor:
    """(N, C * patch * patch, h, w), as a decoder makes them, to (N, C, h * patch, w * patch)."""
    return functional.pixel_shuffle(patches, patch) if patch > 1 else patches.view(-1, channels, *patches.shape[2:])


def patches_of(values: torch.Tensor, patch: int) -> torch.Tensor:
    """(N, C, H, W) to (N, C * patch * patch, H / patch, W / patch): the inverse of ``pixels_of``."""
    return functional.pixel_unshuffle(values, patch) if patch > 1 else values
