"""Models with early exits, and the rule applied by hand to what the whole model says of single samples."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from splitnn.graph.capture import capture
from splitnn.graph.exits import Exit, Exits, Tally
from splitnn.graph.model import Model
from splitnn.runtime.stage import stage

THRESHOLDS = (0.5, 0.45)


class ThreeExits(nn.Module):
    """Each stage is read by its exit and by the next stage; the last exit reads the first stage too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.exit1, self.exit2, self.exit3 = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        early = self.one(x).relu()
        middle = self.two(early).relu()
        late = self.three(middle).relu()
        return self.exit1(early) * 4, self.exit2(middle) * 6, self.exit3(torch.cat([late, early], 1)) * 4


class Cascaded(nn.Module):
    """A small trunk and a large one on the same input."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Linear(6, 4)
        self.large = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.small(x), self.large(x) * 8


class Folded(nn.Module):
    """Between its exits a sample is two rows of a tensor: none can be taken out of a batch there."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 4)
        self.exit1, self.exit2 = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        early = self.one(x.reshape(-1, 3)).relu()  # (2N, 4)
        late = self.two(early).relu()
        return self.exit1(early.reshape(-1, 8)) * 4, self.exit2(late.reshape(-1, 8)) * 4


@functools.cache
def captured(kind: Callable[[], nn.Module]) -> Model:
    """``with_exits`` of one of these, made once."""
    return with_exits(kind())


def with_exits(module: nn.Module, *, thresholds: tuple[float, ...] = THRESHOLDS, batch: int = 2) -> Model:
    """A captured module, all outputs of which are exits; random weights of one seed."""
    torch.manual_seed(5)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.6)
    model = capture(module.eval(), (torch.randn(batch, 6),))
    last = len(model.graph.outputs) - 1
    limits = (*thresholds[:last], 0.0)
    exits = tuple(
        Exit(f"exit{at + 1}", output, temperature=1 + at / 2, threshold=limits[at])
        for at, output in enumerate(model.graph.outputs)
    )
    sure = (False,) * last + (True,)
    return replace(model, exits=Exits(exits, (Tally(sure, (True,) * (last + 1), 1),), "model", "nothing"))


@dataclass(frozen=True)
class ByHand:
    """What the rule says of one sample."""

    exit: str
    confidence: float
    logits: Tensor


def by_hand(model: Model, sample: Tensor, *, exits: Exits | None = None) -> ByHand:
    """The whole model on one sample, (1, ...), and then the first exit that is sure, in plain arithmetic."""
    policy = exits or model.exits
    assert policy is not None
    (name,) = model.graph.inputs
    said = stage(model, model.graph.inputs, model.graph.outputs).run({name: sample})
    for each in policy.exits:
        logits = torch.as_tensor(said[each.output])
        scaled = [value / each.temperature for value in logits[0].tolist()]
        top = 1 / sum(math.exp(value - max(scaled)) for value in scaled)
        if top >= each.threshold:
            return ByHand(each.name, top, logits)
    raise AssertionError("the last exit answers always")


def batch(count: int, *, seed: int) -> Tensor:
    """Samples of both kinds: those that leave early and those that do not."""
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=chance) * torch.rand(count, 1, generator=chance) * 2
