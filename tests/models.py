"""Tiny models, each for one difficulty that a cut must survive. ``TINY`` maps a name to a factory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import splitnn
from splitnn.graph.capture import capture
from splitnn.graph.model import Model

Factory = Callable[[], tuple[nn.Module, tuple[Any, ...]]]


class Chain(nn.Module):
    """A convolutional chain: the easy case."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    """Skips: tensors with several consumers, far away."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        z = self.b(y) + y
        return (self.c(z) + y + x).sigmoid()


class Branches(nn.Module):
    """Parallel branches of different lengths, then a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one = nn.Conv2d(4, 4, 1)
        self.three = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        s = self.stem(x)
        return torch.cat([self.one(s), self.three(s), nn.functional.max_pool2d(s, 3, 1, 1)], 1)


class InPlace(nn.Module):
    """In-place operators on an alias: a raw graph gives wrong results at some cuts."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        alias = y[:, :2]
        alias.add_(1)
        y.relu_()
        return y.sum(1) + alias.mean()


class Reused(nn.Module):
    """One module called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(6, 6)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.act(self.block(x))
        return x


class Tied(nn.Module):
    """An embedding whose weight is also the output layer's: both sides of a cut need it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.mix = nn.Linear(8, 8)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.mix(self.embed(ids)).tanh())


class ManyInputs(nn.Module):
    """Several inputs, one of which is only read at the end; several nested outputs, one of them an input."""

    def forward(self, a: Tensor, b: Tensor, mask: Tensor) -> dict[str, Any]:
        s = a @ b.transpose(1, 2)
        weights = s.masked_fill(mask, -1e9).softmax(-1)
        return {"weights": weights, "both": (weights @ b, s.amax(-1)), "echo": a}


class SeveralResults(nn.Module):
    """Operators that make several results: split, topk, max with indices."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left, middle, right = x.split(2, 1)
        values, places = (left * right).topk(2, dim=1)
        largest, where = middle.max(1)
        return values + largest.unsqueeze(1), places + where.unsqueeze(1)


class Attention(nn.Module):
    """Attention: permuted, non-contiguous tensors cross the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(n, t, 3, 4, 4).permute(2, 0, 3, 1, 4)  # each (n, heads, t, c / heads)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(n, t, c))


class Tables(nn.Module):
    """A chain of operators on weights only: computed on both sides, never sent."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, 4))
        self.index: Tensor
        self.register_buffer("index", torch.randint(0, 9, (5, 5)))
        self.proj = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.table[self.index.view(-1)].view(5, 5, 4).permute(2, 0, 1).sigmoid() * 16
        return self.proj((x @ x.transpose(1, 2) + bias.sum(0)).softmax(-1) @ x)


class Counter(nn.Module):
    """A buffer that changes while the module runs; a weight and a plain number among the results."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.scale = nn.Parameter(torch.tensor([1.5, 2.5]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        self.seen += 1
        return x * self.scale + self.seen, self.scale, 7


class Conditional(nn.Module):
    """torch.cond: a decision on data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(torch.cond(y.sum() > 0, lambda t: t.sin(), lambda t: t.cos() * 2, (y,)))


class Masked(nn.Module):
    """A shape that depends on the data crosses the cut."""

    def forward(self, x: Tensor) -> Tensor:
        chosen = x[x > 0]
        return (chosen * 3).sort().values.cumsum(0)


class Recurrent(nn.Module):
    """An opaque multi-result operator and an unused input."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor, unused: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])


class Integers(nn.Module):
    """uint8 in, bool and int64 inside, half precision at the end; expanded and sliced tensors cross."""

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float() / 255  # (N, 3, H, W), channels last in memory
        bright = x > 0.5
        wide = x.mean(1, keepdim=True).expand(-1, 4, -1, -1)
        sliced = wide[:, 1:3, ::2]
        return (sliced * bright[:, :2, ::2]).sum((2, 3)).half()


def _seeded(make: Callable[[], nn.Module], *shapes: tuple[int, ...]) -> Factory:
    def factory() -> tuple[nn.Module, tuple[Any, ...]]:
        torch.manual_seed(0)
        return make().eval(), tuple(torch.randn(shape) for shape in shapes)

    return factory


def _many_inputs() -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    return ManyInputs(), (torch.randn(1, 4, 6), torch.randn(1, 5, 6), torch.rand(1, 4, 5) > 0.7)


def _tied() -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    return Tied(), (torch.randint(0, 20, (1, 7)),)


def _integers() -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    return Integers(), (torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8),)


TINY: dict[str, Factory] = {
    "chain": _seeded(Chain, (1, 3, 12, 12)),
    "residual": _seeded(Residual, (1, 4, 6, 6)),
    "branches": _seeded(Branches, (1, 3, 6, 6)),
    "in_place": _seeded(InPlace, (1, 4, 5)),
    "reused": _seeded(Reused, (1, 6)),
    "tied": _tied,
    "many_inputs": _many_inputs,
    "several_results": _seeded(SeveralResults, (1, 6, 4)),
    "attention": _seeded(Attention, (1, 5, 16)),
    "tables": _seeded(Tables, (1, 5, 4)),
    "counter": _seeded(Counter, (1, 2)),
    "conditional": _seeded(Conditional, (1, 4)),
    "masked": _seeded(Masked, (3, 4)),
    "recurrent": _seeded(Recurrent, (1, 5, 4), (1, 2)),
    "integers": _integers,
}


@functools.cache
def captured(name: str) -> Model:
    """The tiny model of that name, captured once for all tests (a model does not change)."""
    return capture(*TINY[name]())


REAL = (
    "alexnet", "resnet18", "mobilenet_v2", "googlenet", "squeezenet1_1", "densenet121", "efficientnet_lite0",
    "shufflenet_v2_x1_0", "regnet_y_400mf", "vit_b_16", "swin_t", "bert_l6",
)  # fmt: skip
"""Models of the zoo: Swin's tables of weights and BERT's non-contiguous tensors are among what crosses."""


@functools.cache
def captured_real(name: str) -> Model:
    """The zoo's model of that name, with its exits and recipe, captured once for all tests."""
    return splitnn.open_model(name)
