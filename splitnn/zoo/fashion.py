"""A small network with three exits for Fashion-MNIST (Xiao et al. 2017); ``experiments.train_fashion_exits`` trains it.

Its weights, its exits' thresholds and some of the test images come with this package. The images and their labels are
Zalando's, under the MIT licence.
"""

from __future__ import annotations

import io
import json
from importlib import resources

import numpy as np
import torch
from safetensors.torch import load as load_weights
from torch import Tensor, nn

from splitnn.graph.exits import Exits
from splitnn.zoo.catalogue import Entry, Example

CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip

WEIGHTS, POLICY, IMAGES = "fashion_exits.safetensors", "fashion_exits.json", "fashion_images.npz"
"""Files beside this one."""


class FashionExits(nn.Module):
    """Three stages of convolutions, each with a linear exit behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(*_convolution(1, 16), nn.MaxPool2d(2))
        self.stage2 = nn.Sequential(*_convolution(16, 32), *_convolution(32, 24), nn.MaxPool2d(2))
        self.stage3 = nn.Sequential(*_convolution(24, 64), *_convolution(64, 96), *_convolution(96, 128, stride=2))
        self.exit1 = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 7 * 7, 10))
        self.exit2 = nn.Sequential(nn.Flatten(), nn.Linear(24 * 7 * 7, 10))
        self.exit3 = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, 10) of the three exits, the first one first, of images uint8 (N, 28, 28, 1)."""
        # Not permuted: with a single channel nobody could tell from the strides which dimension comes last in memory.
        pixels = image.squeeze(3).unsqueeze(1).float()  # (N, 1, 28, 28)
        # In order of depth, so that whoever cuts between two layers finds each exit behind its stage.
        early = self.stage1((pixels - 72.94) / 90.02)  # (N, 16, 14, 14); mean and deviation of the training images
        first = self.exit1(early)
        middle = self.stage2(early)  # (N, 24, 7, 7)
        second = self.exit2(middle)
        return first, second, self.exit3(self.stage3(middle))  # (N, 128, 4, 4) into the last


def _convolution(inputs: int, outputs: int, *, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def fashion_exits(entry: Entry) -> Example:
    """The trained network, and the first of the images that come with it."""
    module = FashionExits()
    module.load_state_dict(load_weights(_file(WEIGHTS)))
    return module.eval(), (sample_images()[0][:1],)


def fashion_policy() -> Exits:
    """Temperatures and thresholds of the trained network, with what they did on images that it was not trained on."""
    return Exits.from_json(json.loads(_file(POLICY)))


def sample_images() -> tuple[Tensor, Tensor]:
    """The first 600 test images uint8 (600, 28, 28, 1), and their labels int64 (600,)."""
    with np.load(io.BytesIO(_file(IMAGES)), allow_pickle=False) as file:
        return torch.from_numpy(file["images"])[..., None], torch.from_numpy(file["labels"]).long()


def _file(name: str) -> bytes:
    return (resources.files(__package__) / name).read_bytes()
