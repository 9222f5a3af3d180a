"""EfficientNet-Lite0 with a trained bottleneck inside; ``experiments.train_bottleneck`` trains it.

The bottleneck's weights come with this package, those of EfficientNet-Lite0 with theirs. What crosses between encoder
and decoder is a small int8 tensor that the codec ``entropy`` makes smaller: cut there, and less is sent than a JPEG.
One training serves several rates: models of the zoo that differ in the step to which is rounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from safetensors.torch import load as load_weights
from torch import Tensor, nn

from splitnn.graph.recipe import Recipe
from splitnn.zoo.autoencoder import Bottleneck
from splitnn.zoo.catalogue import Entry, Example
from splitnn.zoo.vision import efficientnet_lite

BASE = "efficientnet_lite0"
FINEST = "efficientnet_lite0_bottleneck"
WEIGHTS, NOTES = "lite0_bottleneck.safetensors", "lite0_bottleneck.json"
"""Files beside this one: the weights in half precision, and how they were made."""


@dataclass(frozen=True, slots=True)
class Rate:
    """The bottleneck at one step of rounding."""

    factor: float  # that the step is wider by than the one that was trained
    recipe: Recipe  # its settings are those of ``experiments.train_bottleneck``


@dataclass(frozen=True, slots=True)
class Notes:
    """Where the bottleneck lies and what made it."""

    block: int  # of the classifier: its result passes through
    dead_zone: float
    trained_on: tuple[str, ...]  # photos by file name: nothing may be judged by them
    rates: Mapping[str, Rate]  # by the zoo's name of the model with it, the finest first

    @property
    def tensor(self) -> str:
        """The tensor of ``BASE`` that passes through, as users name it."""
        return f"classifier._blocks.{self.block}"


class Followed(nn.Module):
    """A block of the classifier, and the bottleneck behind it."""

    def __init__(self, block: nn.Module, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.block = block
        self.bottleneck = bottleneck

    def forward(self, x: Tensor, drop_connect_rate: float | None = None) -> Tensor:
        found: Tensor = self.bottleneck(self.block(x, drop_connect_rate=drop_connect_rate))
        return found


def notes() -> Notes:
    """What is known of the bottleneck that comes with this package."""
    found = json.loads(_file(NOTES))
    rates = {name: Rate(each["factor"], Recipe.from_json(each["recipe"])) for name, each in found["rates"].items()}
    return Notes(found["block"], found["dead_zone"], tuple(found["trained_on"]), rates)


def trained_bottleneck(name: str = FINEST) -> Bottleneck:
    """The bottleneck that comes with this package, at the rate of one of the zoo's models.

    Raises:
        KeyError: no rate is called so.
    """
    known = notes()
    weights = {key: weight.float() for key, weight in load_weights(_file(WEIGHTS)).items()}
    trained = Bottleneck.of_weights(weights, dead_zone=known.dead_zone)
    return trained.coarser(known.rates[name].factor)


def efficientnet_lite_bottleneck(entry: Entry) -> Example:
    """EfficientNet-Lite0 with its published weights and the bottleneck behind one of its blocks."""
    module, example = efficientnet_lite(replace(entry, name=BASE))
    blocks: Any = module.get_submodule("classifier._blocks")
    block = notes().block
    blocks[block] = Followed(blocks[block], trained_bottleneck(entry.name))
    return module.eval(), example


def _file(name: str) -> bytes:
    return (resources.files(__package__) / name).read_bytes()
