"""A bottleneck that is learned: from the closed-form one on, by distillation from the model itself, without labels.

The loss is what the answers change by, in nats, and the length of the symbols, in bits, at the rate of exchange that
the closed form has where training starts. Rounding is a straight-through estimate for the answers and uniform noise
for the length (Ballé et al. 2017); the length is that under a logistic distribution for each channel, learned along.
First on the tensor alone, where a disturbance costs what the Fisher information says: many cheap steps. Then through
the rest of the model (BottleFit, Matsubara et al. 2022; SC2 Benchmark, 2023).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from splitnn.graph.model import Model
from splitnn.tuning.bottleneck import Bottleneck, Decoder, patches_of
from splitnn.tuning.drops import answers_of
from splitnn.tuning.evaluation import Progress, silent
from splitnn.tuning.fitting import Ground, judged, transform_basis
from splitnn.tuning.sensitivity import answer_from
from splitnn.tuning.transform import Basis, transform_bottleneck

_HIDDEN = 64
_BATCH = 16
_ALONE = 0.4  # of the time: on the tensor alone
_RATES = {"alone": 1e-3, "through": 3e-4}  # Adam's, at the start of each part; they fall to nothing
_WIDER = 1.25  # the step at which the rate of exchange is read off
_LEAST_MASS = 1e-6
_WATCHED = 5  # one photo in so many is not trained on, but watched
_MOST_WATCHED = 96  # samples of them
_WATCH_EVERY = 0.1  # of each part


def learned_versions(
    given: Ground, *, steps: Sequence[float], patch: int = 1, minutes: float, seed: int = 0, progress: Progress = silent
) -> Iterator[Model]:
    """For each step the version whose bottleneck was trained for ``minutes`` from the closed-form one of that step.

    Raises:
        InvalidInput, ValueError: as ``transform_versions``.
    """
    found = transform_basis(given, patch=patch, seed=seed, progress=progress)
    for step in steps:
        made = transform_bottleneck(given.values, found, step=step)
        wider = transform_bottleneck(given.values, found, step=step * _WIDER)
        exchange = _exchange(given, found, made, wider)
        grown = _with_residual(made)
        Training(given, found, grown, exchange=exchange, seed=seed).run(60 * minutes, progress=progress)
        settings = {"step": step, "patch": patch, "minutes": minutes, "seed": seed, "nats_a_bit": exchange}
        yield judged(given, grown.eval(), method="learned", settings=settings)


class LogisticBits(nn.Module):
    """Bits of symbols (N, K, h, w), each channel a logistic distribution of its own."""

    def __init__(self, spread: torch.Tensor) -> None:
        """``spread`` (K,): mean absolute value of each channel's symbols, from which the distributions start."""
        super().__init__()
        self.log_scale = nn.Parameter((spread.clamp(min=0.02) / (2 * math.log(2))).log()[:, None, None])
        self.centre = nn.Parameter(torch.zeros(len(spread), 1, 1))

    def forward(self, symbols: torch.Tensor) -> torch.Tensor:
        """The sum over everything but samples: (N,)."""
        scale = self.log_scale.exp()
        distance = (symbols - self.centre).abs()
        # the mass between two points on one side of the centre: no difference of numbers near 1
        mass = torch.sigmoid((0.5 - distance) / scale) - torch.sigmoid((-0.5 - distance) / scale)
        bits: torch.Tensor = -mass.clamp(min=_LEAST_MASS).log2().sum((1, 2, 3))
        return bits


def rounded(scaled: torch.Tensor) -> torch.Tensor:
    """Whole numbers forwards, as if nothing had happened backwards."""
    clamped = scaled.clamp(-127, 127)
    return clamped + (clamped.round() - clamped).detach()


class Training:
    """One bottleneck in training."""

    def __init__(
        self,
        given: Ground,
        found: Basis,
        bottleneck: Bottleneck,
        *,
        exchange: float,
        seed: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``exchange``: the nats that one bit may cost."""
        self._now = now
        self._rows = torch.empty(0, dtype=torch.long)
        self._best: tuple[float, dict[str, Any]] = (math.inf, {})
        self._given, self._found, self._net, self._exchange = given, found, bottleneck, exchange
        self._generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            symbols = torch.cat([bottleneck.encoder(part) for part in given.values[:64].split(_BATCH)]).float()
        self._bits = LogisticBits(symbols.abs().mean((0, 2, 3)).clone())
        photos = sorted(set(given.origins))
        watched = set(photos[::_WATCHED]) if len(photos) >= _WATCHED else set()
        self._watched = torch.tensor(
            [i for i, origin in enumerate(given.origins) if origin in watched], dtype=torch.long
        )
        self._taught = torch.tensor(
            [i for i, origin in enumerate(given.origins) if origin not in watched], dtype=torch.long
        )

    def loss(self, rows: torch.Tensor) -> float:
        """Nats and exchanged bits of samples, without noise and through the rest of the model."""
        with torch.inference_mode():
            total = 0.0
            for part in rows.split(_BATCH):
                symbols = self._net.encoder(self._given.values[part]).float()
                cost = self._through(self._net.decoder(symbols).clone(), part)
                total += float(cost + self._exchange * self._bits(symbols).mean()) * len(part)
            return total / len(rows)

    def run(self, seconds: float, *, progress: Progress = silent) -> None:
        """Train for that long, and keep what did best on photos that were not trained on."""
        rows = self._watched[torch.randperm(len(self._watched), generator=self._generator)[:_MOST_WATCHED]]
        self._rows, self._best = rows, (math.inf, copy.deepcopy(self._net.state_dict()))
        self._watch()
        self._part(seconds * _ALONE, _RATES["alone"], self._alone, progress)
        self._part(seconds * (1 - _ALONE), _RATES["through"], self._through, progress)
        self._net.load_state_dict(self._best[1])

    def _watch(self) -> None:
        """Compare with the best until now."""
        now = self.loss(self._rows) if len(self._rows) else -math.inf
        if now < self._best[0] or now == -math.inf:
            self._best = (now, copy.deepcopy(self._net.state_dict()))

    def _part(
        self,
        seconds: float,
        rate: float,
        cost: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        progress: Progress,
    ) -> None:
        """Adam with a rate that falls along a cosine to nothing when the time is over."""
        encoder = list(self._net.encoder.parameters())
        others = [*self._net.decoder.parameters(), *self._bits.parameters()]
        # the encoder starts where it should be, in units of a step; its weights are small numbers
        optimiser = torch.optim.Adam([{"params": encoder, "lr": rate / 10}, {"params": others, "lr": rate}])
        start_rates = [group["lr"] for group in optimiser.param_groups]
        start, watched_next = self._now(), _WATCH_EVERY
        self._net.train()
        while (share := (self._now() - start) / seconds) < 1:
            for group, first in zip(optimiser.param_groups, start_rates, strict=True):
                group["lr"] = first * (1 + math.cos(math.pi * share)) / 2
            rows = self._taught[torch.randint(len(self._taught), (_BATCH,), generator=self._generator)]
            loss = self._loss(rows, cost)
            progress(share, f"training, {cost.__name__.strip('_')}: loss {loss.item():.4f}")
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(others, 1.0)
            optimiser.step()
            if share >= watched_next:
                watched_next += _WATCH_EVERY
                self._watch()
        self._watch()

    def _loss(self, rows: torch.Tensor, cost: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        x = self._given.values[rows]
        scaled = self._net.encoder.scaled(x)
        noise = torch.rand(scaled.shape, generator=self._generator) - 0.5
        bits = self._bits(scaled + noise)
        decoded = self._net.decoder(rounded(scaled))
        loss: torch.Tensor = cost(decoded, rows) + self._exchange * bits.mean()
        return loss

    def _alone(self, decoded: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return felt_nats(decoded - self._given.values[rows], self._found)

    def _through(self, decoded: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        model = self._given.model
        logits = answer_from(model, self._given.tensor, decoded, answers=answers_of(model))
        return nats(self._given.teacher[rows], logits)


def nats(teacher: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the answers from the teacher's, the mean over samples."""
    return functional.kl_div(logits.log_softmax(1), teacher.log_softmax(1), log_target=True, reduction="batchmean")


def felt_nats(disturbance: torch.Tensor, found: Basis) -> torch.Tensor:
    """What a small disturbance (N, C, H, W) changes answers by, as the Fisher information has it; the mean."""
    rows = patches_of(disturbance, found.patch).permute(0, 2, 3, 1)  # (N, h, w, D)
    return found.nats * (rows @ found.directions.T).square().sum((1, 2, 3)).mean()


def _exchange(given: Ground, found: Basis, made: Bottleneck, wider: Bottleneck) -> float:
    """Nats that a bit saves where two closed-form bottlenecks lie."""
    model = given.model
    answers = answers_of(model)
    lost, length = [], []
    with torch.inference_mode():
        for each in (made, wider):
            x, teacher = given.values[: 4 * _BATCH], given.teacher[: 4 * _BATCH]
            symbols = each.encoder(x)
            decoded = each.decoder(symbols).split(_BATCH)
            logits = torch.cat([answer_from(model, given.tensor, part.clone(), answers=answers) for part in decoded])
            lost.append(float(nats(teacher, logits)))
            length.append(float(LogisticBits(symbols.float().abs().mean((0, 2, 3)))(symbols.float()).mean()))
    return max(0.0, lost[1] - lost[0]) / max(1.0, length[0] - length[1])


def _with_residual(made: Bottleneck) -> Bottleneck:
    """The same bottleneck, with a decoder that can learn more."""
    old = made.decoder
    kernel = old.linear.kernel_size[0]
    patch = made.encoder.project.kernel_size[0]
    channels = old.linear.out_channels // patch**2
    decoder = Decoder(old.linear.in_channels, channels, patch=patch, kernel=kernel, hidden=_HIDDEN)
    decoder.linear.load_state_dict(old.linear.state_dict())
    return Bottleneck(made.encoder, decoder)
