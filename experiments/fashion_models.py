"""Models beside the network with exits that comes with splitnn, for ``splitnn compress`` and ``splitnn exits``.

splitnn compress fashion_exits --data fashion-mnist --method distill --into experiments.fashion_models:student ...
splitnn exits experiments.fashion_models:backbone --at stage1 --at stage2 --data fashion-mnist --train joint ...
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from splitnn.zoo import load
from splitnn.zoo.reference import Example


class Backbone(nn.Module):
    """The network without its early exits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        stages = [network.get_submodule(f"stage{number}") for number in (1, 2, 3)]
        self.stage1, self.stage2, self.stage3 = stages
        self.last = network.get_submodule("exit3")

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 10) of images uint8 (N, 28, 28, 1)."""
        pixels = image.squeeze(3).unsqueeze(1).float()  # (N, 1, 28, 28)
        logits: Tensor = self.last(self.stage3(self.stage2(self.stage1((pixels - 72.94) / 90.02))))
        return logits


class Student(nn.Module):
    """A fourteenth of the weights, and none of them trained; without normalisation, whose statistics nobody taught."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(48, 10),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, 10) of images uint8 (N, 28, 28, 1)."""
        pixels = image.squeeze(3).unsqueeze(1).float()  # (N, 1, 28, 28)
        logits: Tensor = self.layers((pixels - 72.94) / 90.02)
        return logits


def backbone() -> Example:
    """The trained network, its last exit as the only one."""
    network, example = load("fashion_exits")
    return Backbone(network).eval(), example


def student() -> Example:
    """The same random weights on every call."""
    _, example = load("fashion_exits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Student().eval(), example
