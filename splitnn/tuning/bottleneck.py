"""A bottleneck: an encoder to few small whole numbers, a decoder back, grown into a model at one of its tensors.

What crosses a cut between the two is an int8 tensor that a lossless codec makes small: the model with the bottleneck
is a version of its own, and each of its cuts answers exactly as the whole of it does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.graft import graft, tensor_values
from splitnn.graph.graph import TensorSpec
from splitnn.graph.model import Model
from splitnn.graph.naming import tensor_named
from splitnn.graph.recipe import Recipe

NAME = "bottleneck"
"""Layers that are grown in are called so."""

_LARGEST = 127


class Encoder(nn.Module):
    """Patches of (N, C, H, W) to whole numbers, int8 (N, K, H / patch, W / patch).

    A value within ``dead_zone`` of half a step counts as none: zeros are what a lossless codec makes smallest.
    """

    def __init__(self, channels: int, symbols: int, *, patch: int, dead_zone: float = 0.0) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, symbols, patch, stride=patch)
        self.dead_zone = dead_zone

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """What is about to be rounded, in steps: (N, K, H / patch, W / patch)."""
        y: torch.Tensor = self.project(x)
        return y - y.clamp(-self.dead_zone, self.dead_zone) if self.dead_zone else y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaled(x).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)


class Decoder(nn.Module):
    """Whole numbers (N, K, h, w) back to (N, C, h * patch, w * patch): linear, and a residual that may be learned."""

    def __init__(self, symbols: int, channels: int, *, patch: int, kernel: int = 3, hidden: int = 0) -> None:
        super().__init__()
        self.linear = nn.Conv2d(symbols, channels * patch * patch, kernel, padding=kernel // 2)
        self.spread = nn.PixelShuffle(patch) if patch > 1 else nn.Identity()
        self.residual: nn.Module | None = None
        if hidden:
            last = nn.Conv2d(hidden, channels * patch * patch, 1)
            nn.init.zeros_(last.weight)  # it starts as the linear decoder alone
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
            self.residual = nn.Sequential(
                nn.Conv2d(symbols, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1, groups=max(1, hidden // 16)),
                nn.ReLU(),
                last,
            )

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        x = symbols.float()
        y = self.linear(x) if self.residual is None else self.linear(x) + self.residual(x)
        found: torch.Tensor = self.spread(y)
        return found


class Bottleneck(nn.Module):
    """Encoder and decoder, one after the other."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.decoder(self.encoder(x))
        return found


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
        if layer.startswith(f"{NAME}.") and version.graph.tensors[tensor].dtype == "int8"
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
