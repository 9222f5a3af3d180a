"""A small model with a bottleneck, and profiles of a slow device and a quick cloud in which every kind of plan wins."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path

import pytest

from splitnn.cli.sources import open_model
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.graph.model import Model

MODEL = "two_host_models:photo"

_FACTORY = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=4), nn.ReLU())
        self.side = nn.Conv2d(2, 2, 1)
        self.head = nn.Linear(2 * 4 * 4, 5)

    def forward(self, image):
        found = self.features(image.permute(0, 3, 1, 2).float())
        return self.head((found + self.side(found)).flatten(1))

def photo():
    torch.manual_seed(0)
    return Small(), (torch.randint(0, 256, (1, 32, 32, 3), dtype=torch.uint8),)

def other():
    return nn.Linear(3, 3), (torch.randn(1, 3),)
"""


def write_files(place: Path) -> Model:
    """The module, the two profiles, one of another model and one that hides its error; ``place`` is importable."""
    (place / "two_host_models.py").write_text(_FACTORY)
    model = open_model(MODEL)
    for host, slowdown, error in (("device", 8.0, 0.03), ("cloud", 1.0, 0.02)):
        write_profile(place / f"{host}.json", model, host=host, slowdown=slowdown, error=error)
    write_profile(place / "other.json", open_model("two_host_models:other"), host="cloud", slowdown=1.0, error=0.02)
    write_profile(place / "unsure.json", model, host="cloud", slowdown=1.0, error=None)
    return model


def capture_once(patch: pytest.MonkeyPatch) -> None:
    """Commands take the same model from memory: capturing is what they spend most of their time on."""
    once = functools.cache(open_model)
    for command in ("plan", "predict", "profile", "two_hosts"):
        patch.setattr(f"splitnn.cli.{command}.open_model", once)


def write_profile(path: Path, model: Model, *, host: str, slowdown: float, error: float | None) -> None:
    """Layers take one to three milliseconds, int8 and jpeg90 take time and save bytes."""
    rng = random.Random(0)
    layers = {}
    for layer in model.graph.layers:
        seconds = rng.uniform(1e-3, 3e-3)
        layers[layer.name] = Timing(seconds, seconds)
    codecs = {}
    for name, spec in model.graph.tensors.items():
        codecs[name] = {"raw": CodecCost(spec.size_bytes, 0, 0), "int8": CodecCost(spec.size_bytes // 4, 1e-4, 5e-5)}
    for name in model.graph.inputs:
        size = model.graph.tensors[name].size_bytes
        codecs[name] = {"raw": CodecCost(size, 0, 0), "jpeg90": CodecCost(size // 3, 2e-4, 1e-4)}
    whole = sum(timing.cpu_s for timing in layers.values())
    found = Profile(model.digest, host, layers, Timing(whole, whole), codecs=codecs, error=error, tail_error=error)
    path.write_text(json.dumps(found.scaled(slowdown).to_json()))
