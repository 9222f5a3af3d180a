"""A bottleneck that is learned: from the closed-form one on, by distillation from the model itself, without labels.

The loss is what the answers change by, in nats, and the length of the symbols, in bits, at the rate of exchange that
the closed form has where training starts. Rounding is a straight-through estimate for the answers and uniform noise
for the length (Ballé et al. 2017). Gradients come through the rest of the model (BottleFit, Matsubara et al. 2022;
SC2 Benchmark, 2023). Few photos go far because none is seen twice alike: the tensor is mirrored, and blended with
another photo's or patched with a piece of it, and what the model answers to that is the teacher.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from splitnn.graph.model import Model
from splitnn.graph.recipe import Setting
from splitnn.tuning.evaluation import Progress, silent
from splitnn.tuning.fitting import Ground, judged, transform_basis
from splitnn.tuning.symbol_bits import LogisticBits, rounded
from splitnn.tuning.transform import Basis, transform_bottleneck
from splitnn.zoo.autoencoder import Bottleneck, Decoder, Encoder, Size

Pace = Callable[[int], float]
"""What share of the training is over after so many batches."""

_HIDDEN = {"encoder": 48, "decoder": 96}  # channels of what is learned beside the closed form
_BATCH = 16
_RATES = {"project": 0.002, "encoder": 1e-4, "linear": 5e-5, "residual": 2e-4, "bits": 3e-3}
"""Adam's, at their highest; that of the encoder's projection is in units of its weights' size."""
_WARM_UP = 50  # batches
_MOST_KEPT = 0.998  # of the running mean of the weights, a batch
_FORGOTTEN = 3  # the mean is over about the last third of the batches until then
_WIDER = 1.25  # the step at which the rate of exchange is read off
_BLENDED, _PATCHED = 0.25, 0.25  # shares of the batches
_WATCHED = 8  # one photo in so many is not trained on, but watched
_MOST_WATCHED = 96  # samples of them
_WATCH_EVERY = 0.1


def by_count(batches: int) -> Pace:
    """So many batches: what comes out depends on the seed alone."""
    return lambda done: done / batches


def by_clock(seconds: float, *, now: Callable[[], float] = time.monotonic) -> Pace:
    """As many batches as there is time for, from now on."""
    start = now()
    return lambda done: (now() - start) / seconds


def learned_versions(
    given: Ground,
    *,
    steps: Sequence[float],
    patch: int = 1,
    pace: Callable[[], Pace],
    seed: int = 0,
    progress: Progress = silent,
) -> Iterator[Model]:
    """For each step the version whose bottleneck was trained from the closed-form one of that step.

    Raises:
        InvalidInput, ValueError: as ``transform_versions``.
    """
    found = transform_basis(given, patch=patch, seed=seed, progress=progress)
    for step in steps:
        made, settings = learned_bottleneck(given, found, step=step, pace=pace(), seed=seed, progress=progress)
        yield judged(given, made, method="learned", settings={"patch": patch, **settings})


def learned_bottleneck(
    given: Ground, found: Basis, *, step: float, pace: Pace, seed: int = 0, progress: Progress = silent
) -> tuple[Bottleneck, dict[str, Setting]]:
    """The bottleneck that was trained from the closed-form one of that step on, and what it was trained with.

    Raises:
        ValueError: as ``transform_bottleneck``.
    """
    kernel = given.planes.kernel(3)
    made = transform_bottleneck(given.values, found, step=step, kernel=kernel)
    wider = transform_bottleneck(given.values, found, step=step * _WIDER, kernel=kernel)
    grown = with_residuals(made, around=kernel, seed=seed)
    training = Training(given, grown, exchange=exchange_rate(given, made, wider), seed=seed)
    training.run(pace, progress=progress)
    return grown.eval(), {"step": step, "batches": training.batches, "seed": seed, "nats_a_bit": training.exchange}


class Training:
    """One bottleneck in training."""

    def __init__(self, given: Ground, bottleneck: Bottleneck, *, exchange: float, seed: int) -> None:
        """``exchange``: the nats that one bit may cost."""
        self.exchange = exchange
        self.batches = 0
        self._given, self._net = given, bottleneck
        self._mean = copy.deepcopy(bottleneck)  # the running mean of the weights, which is what is kept
        self._best = (math.inf, copy.deepcopy(bottleneck.state_dict()))
        self._answer = given.answering()
        self._generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            symbols = torch.cat([bottleneck.encoder(part) for part in given.values[:64].split(_BATCH)]).float()
        self._bits = LogisticBits(symbols.abs().mean((0, 2, 3)).clone())
        self._mean_bits = copy.deepcopy(self._bits)
        photos = sorted(set(given.origins))
        watched = set(photos[::_WATCHED]) if len(photos) >= _WATCHED else set()
        rows = torch.arange(len(given.origins))
        is_watched = torch.tensor([origin in watched for origin in given.origins])
        self._taught, kept_out = rows[~is_watched], rows[is_watched]
        self._watched = kept_out[torch.randperm(len(kept_out), generator=self._generator)[:_MOST_WATCHED]]

    def loss(self, rows: torch.Tensor) -> float:
        """Nats and exchanged bits of samples with the weights' running mean, without noise and unaltered."""
        with torch.inference_mode():
            total = 0.0
            for part in rows.split(_BATCH):
                symbols = self._mean.encoder(self._given.values[part]).float()
                said = self._answer(self._mean.decoder(symbols), part)
                lost = self._given.answer.divergence(self._given.teacher[part], said)
                total += float(lost + self.exchange * self._mean_bits(symbols).mean()) * len(part)
            return total / len(rows)

    def run(self, pace: Pace, *, progress: Progress = silent) -> None:
        """Train, and keep what did best on photos that were not trained on."""
        optimiser = torch.optim.Adam(self._groups(), betas=(0.9, 0.99))
        highest = [group["lr"] for group in optimiser.param_groups]
        clipped = [*self._net.decoder.parameters(), *self._bits.parameters()]
        self._watch()
        watched_next = _WATCH_EVERY
        while (share := pace(self.batches)) < 1:
            height = min(1.0, (self.batches + 1) / _WARM_UP) * (1 + math.cos(math.pi * share)) / 2
            for group, rate in zip(optimiser.param_groups, highest, strict=True):
                group["lr"] = rate * height
            loss = self._loss()
            progress(share, f"training, batch {self.batches + 1}: loss {loss.item():.4f}")
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(clipped, 1.0)
            optimiser.step()
            self.batches += 1
            self._follow()
            if share >= watched_next:
                watched_next += _WATCH_EVERY
                self._watch()
        self._watch()
        self._net.load_state_dict(self._best[1])

    def _groups(self) -> list[dict[str, object]]:
        encoder, decoder = self._net.encoder, self._net.decoder
        size = float(encoder.project.weight.detach().square().mean().sqrt())  # it starts where it should be, and small
        beside = [parameter for name, parameter in encoder.named_parameters() if name != "project.weight"]
        further = [] if decoder.residual is None else list(decoder.residual.parameters())
        return [
            {"params": [encoder.project.weight], "lr": _RATES["project"] * size},
            {"params": beside, "lr": _RATES["encoder"]},
            {"params": list(decoder.linear.parameters()), "lr": _RATES["linear"]},
            {"params": further, "lr": _RATES["residual"]},
            {"params": list(self._bits.parameters()), "lr": _RATES["bits"]},
        ]

    def _follow(self) -> None:
        """The running mean takes the new weights in; at first it forgets soon."""
        kept = min(_MOST_KEPT, self.batches / (self.batches + _FORGOTTEN))
        followed = ((self._mean, self._net), (self._mean_bits, self._bits))
        with torch.no_grad():
            for followers, leaders in followed:
                for mean, weight in zip(followers.parameters(), leaders.parameters(), strict=True):
                    mean.lerp_(weight, 1 - kept)

    def _watch(self) -> None:
        """Compare with the best until now; with nothing to watch the last is the best."""
        now = self.loss(self._watched) if len(self._watched) else -math.inf
        if now < self._best[0] or now == -math.inf:
            self._best = (now, copy.deepcopy(self._mean.state_dict()))

    def _loss(self) -> torch.Tensor:
        rows = self._taught[torch.randint(len(self._taught), (_BATCH,), generator=self._generator)]
        x = varied(self._given.values[rows], self._generator)
        with torch.no_grad():
            teacher = self._answer(x, rows)
        scaled = self._net.encoder.scaled(x)
        noise = torch.rand(scaled.shape, generator=self._generator) - 0.5
        bits = self._bits(scaled + noise).mean()
        said = self._answer(self._net.decoder(rounded(scaled)), rows)
        loss: torch.Tensor = self._given.answer.divergence(teacher, said) + self.exchange * bits
        return loss


def varied(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Samples (N, C, H, W), half of them mirrored; in some batches each blended with another one, or patched."""
    draw = torch.rand(8, generator=generator).tolist()
    mirrored = torch.rand(len(values), 1, 1, 1, generator=generator) < 0.5
    values = torch.where(mirrored, values.flip(3), values)
    others = values.roll(1, 0)
    if draw[0] < _BLENDED:
        return values.lerp(others, 0.2 + 0.3 * draw[1])
    if draw[0] < _BLENDED + _PATCHED:
        height, width = values.shape[2:]
        tall, wide = (max(1, round(side * (0.25 + 0.5 * each))) for side, each in ((height, draw[2]), (width, draw[3])))
        top, left = round((height - tall) * draw[4]), round((width - wide) * draw[5])
        values = values.clone()
        values[:, :, top : top + tall, left : left + wide] = others[:, :, top : top + tall, left : left + wide]
    return values


def exchange_rate(given: Ground, made: Bottleneck, wider: Bottleneck) -> float:
    """Nats that a bit saves where two closed-form bottlenecks lie."""
    answer = given.answering()
    lost, length = [], []
    rows = torch.linspace(0, len(given.values) - 1, min(len(given.values), 16 * _BATCH)).long()
    with torch.inference_mode():
        for each in (made, wider):
            parts = rows.split(_BATCH)
            symbols = [each.encoder(given.values[part]).float() for part in parts]
            said = torch.cat([answer(each.decoder(one), part) for one, part in zip(symbols, parts, strict=True)])
            coded = torch.cat(symbols)
            lost.append(float(given.answer.divergence(given.teacher[rows], said)))
            length.append(float(LogisticBits(coded.abs().mean((0, 2, 3)))(coded).mean()))
    return max(0.0, lost[1] - lost[0]) / max(1.0, length[0] - length[1])


def with_residuals(made: Bottleneck, *, around: Size = (3, 3), seed: int = 0) -> Bottleneck:
    """The same bottleneck, with an encoder and a decoder that can learn more from so many places around."""
    project, linear = made.encoder.project, made.decoder.linear
    patch, kernel = ((each.kernel_size[0], each.kernel_size[1]) for each in (project, linear))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(
            project.in_channels,
            project.out_channels,
            patch=patch,
            dead_zone=made.encoder.dead_zone,
            hidden=_HIDDEN["encoder"],
            around=around,
        )
        decoder = Decoder(
            linear.in_channels,
            linear.out_channels // (patch[0] * patch[1]),
            patch=patch,
            kernel=kernel,
            hidden=_HIDDEN["decoder"],
            around=around,
        )
    encoder.project.load_state_dict(project.state_dict())
    decoder.linear.load_state_dict(linear.state_dict())
    return Bottleneck(encoder, decoder)
