"""How well a small network, trained to, undoes what a model did to its input. Seeded, and bounded in time."""

from __future__ import annotations

import torch
from torch import nn

_HIDDEN = 32
_STEPS = 150
_BATCH = 64
_RATE = 1e-2
_LOOK_EVERY = 50  # steps; the attacker keeps what did best on the held-out samples, and gives up when it gets worse


class _Inverse(nn.Module):
    """One hidden layer beside a linear way through, so that what needs no more than that is learnt at once."""

    def __init__(self, features: int, pixels: int) -> None:
        super().__init__()
        self.bent = nn.Sequential(nn.Linear(features, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, pixels))
        self.straight = nn.Linear(features, pixels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bent(x) + self.straight(x)  # type: ignore[no-any-return]


def explained_by_network(
    x: torch.Tensor, y: torch.Tensor, *, x_held: torch.Tensor, y_held: torch.Tensor, seed: int = 0
) -> float:
    """Fraction of the variance of ``y_held`` (n, pixels) that a network trained on x (m, features) and y predicts.

    1 is a perfect reconstruction, 0 one no better than the mean. A fraction of a second, however many rows there are.
    """
    x_mean, y_mean = x.mean(0), y.mean(0)
    total = float(((y_held - y_mean) ** 2).sum())
    spread = x.std(0)
    usable = spread > 1e-6 * float(spread.max())
    if total <= 0 or not bool(usable.any()):
        return 0.0
    scale, height = spread[usable], float((y - y_mean).std()) or 1.0
    x, x_held = ((each[:, usable] - x_mean[usable]) / scale for each in (x, x_held))
    y = (y - y_mean) / height
    best = 0.0
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = _Inverse(x.shape[1], y.shape[1])
        optimizer = torch.optim.Adam(network.parameters(), lr=_RATE, fused=True)
        for step in range(1, _STEPS + 1):
            rows = torch.randint(len(x), (min(_BATCH, len(x)),))
            optimizer.param_groups[0]["lr"] = _RATE * (1 - (step - 1) / _STEPS)
            loss = nn.functional.mse_loss(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % _LOOK_EVERY == 0:
                with torch.no_grad():
                    guess = network(x_held) * height + y_mean
                explained = 1 - float(((y_held - guess) ** 2).sum()) / total
                if explained < best - 0.05:
                    break
                best = max(best, explained)
    return best
