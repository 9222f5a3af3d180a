"""How a model is measured: which runs, in which order, how often, and when to start over. Knows no torch.

Other work on the machine changes its speed, CPU time included (shared caches, shared cores), so the runs go in rounds:
each stage is compared with the others of its round. The whole is measured before and after, too; when the two
differ, its seconds are not to be trusted, and the measurement starts over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median
from typing import NamedTuple, Protocol

from splitnn.cost.anchors import equally_spaced
from splitnn.cost.profile import Clock

ANCHORS = 6
MIN_REPEATS = 3
MAX_DRIFT = 0.1
ATTEMPTS = 3

Progress = Callable[[float, str], None]
"""Told how much is done (0 to 1) and what comes next."""

_log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """Seconds of one run, or the state of the two clocks."""

    wall_s: float
    cpu_s: float  # of the thread that runs the model

    def since(self, start: Reading) -> Reading:
        """From ``start`` to here."""
        return Reading(self.wall_s - start.wall_s, self.cpu_s - start.cpu_s)

    def by(self, clock: Clock) -> float:
        """Seconds by one of the two clocks."""
        return self.cpu_s if clock == "cpu" else self.wall_s


class Bench(Protocol):
    """A model that can be timed: each call runs once. A position p cuts after the first p layers."""

    def layers(self) -> Sequence[Reading]:
        """Every layer, called one by one, in the graph's order."""
        ...

    def head(self, position: int) -> Reading:
        """The first layers as one compiled stage."""
        ...

    def tail(self, position: int) -> Reading:
        """The other layers as one compiled stage."""
        ...


@dataclass(frozen=True)
class Readings:
    """All that was read in one attempt, round by round."""

    layers: Sequence[Sequence[Reading]]  # a round: one pass, layer by layer
    whole: Sequence[Reading]  # one a round
    heads: Mapping[int, Sequence[Reading]]  # the anchors: one a round
    held_heads: Mapping[int, Sequence[Reading]]  # cuts that the anchors know nothing of
    held_tails: Mapping[int, Sequence[Reading]]
    before: Sequence[Reading] = ()  # the whole, before and after all this
    after: Sequence[Reading] = ()

    def drift(self, clock: Clock) -> float:
        """By what fraction the whole model became slower or faster meanwhile."""
        first, last = (median(each.by(clock) for each in some) for some in (self.before, self.after))
        return abs(last - first) / min(first, last) if min(first, last) > 0 else 0.0

    def stage_s(self, stage: Sequence[Reading], clock: Clock) -> float:
        """Seconds of a stage: the median of its part of its round, times the median round."""
        rounds = [sum(reading.by(clock) for reading in each) for each in self._rounds()]
        parts = [reading.by(clock) / total for reading, total in zip(stage, rounds, strict=True) if total > 0]
        return median(parts) * median(rounds) if parts else 0.0

    def _rounds(self) -> Iterator[tuple[Reading, ...]]:
        """What was read in each round, of stages."""
        groups = (self.heads, self.held_heads, self.held_tails)
        return zip(self.whole, *(stage for group in groups for stage in group.values()), strict=True)

    def shares(self, clock: Clock) -> list[float]:
        """Part of every layer in the sum of all: the median over the passes."""
        sums = [sum(reading.by(clock) for reading in each) or 1.0 for each in self.layers]
        return [
            median(reading.by(clock) / total for reading, total in zip(each, sums, strict=True))
            for each in zip(*self.layers, strict=True)
        ]


def measure(
    bench: Bench,
    *,
    clock: Clock,
    repeats: int,
    budget_s: float,
    now: Callable[[], Reading],
    progress: Progress,
) -> Readings:
    """The readings of the calmest of up to three attempts; the first one without drift is taken.

    One attempt takes about ``budget_s`` seconds, or what three rounds take, and all of them about twice as much.
    """
    started = now()
    bench.layers()  # warm-up: the first pass pays for memory and for kernels that choose themselves
    warm = now()
    shares = [reading.by(clock) for reading in bench.layers()]
    anchors = equally_spaced(shares, ANCHORS + 1)
    held = _between(shares, anchors)
    pass_s = now().since(warm).wall_s
    stages_in_wholes = 3.0 + sum(_fractions(shares, anchors)) + len(held)  # of one round
    repeats = max(MIN_REPEATS, min(repeats, int(budget_s / (pass_s * stages_in_wholes)) if pass_s > 0 else repeats))
    calmest: Readings | None = None
    for attempt in range(1, ATTEMPTS + 1):
        found = _attempt(bench, len(shares), anchors, held, repeats, progress)
        if calmest is None or found.drift(clock) < calmest.drift(clock):
            calmest = found
        if calmest.drift(clock) <= MAX_DRIFT:
            return calmest
        _log.info(
            "the machine's speed changed by %.0f %% while it was measured (attempt %d of %d)",
            found.drift(clock) * 100, attempt, ATTEMPTS,
        )  # fmt: skip
        if now().since(started).wall_s > budget_s:
            break
    assert calmest is not None
    return calmest


def _attempt(
    bench: Bench, layers: int, anchors: Sequence[int], held: Sequence[int], repeats: int, progress: Progress
) -> Readings:
    progress(0.0, "compiling stages")
    for position in (*anchors, *held, layers):  # compiles them, and warms them up
        bench.head(position)
    for position in held:
        bench.tail(position)
    few = max(MIN_REPEATS, repeats // 2)
    before = [bench.head(layers) for _ in range(few)]
    passes: list[Sequence[Reading]] = []
    whole: list[Reading] = []
    heads: dict[int, list[Reading]] = {position: [] for position in anchors}
    held_heads: dict[int, list[Reading]] = {position: [] for position in held}
    held_tails: dict[int, list[Reading]] = {position: [] for position in held}
    for repeat in range(repeats):
        progress(repeat / repeats, f"measuring, round {repeat + 1} of {repeats}")
        passes.append(bench.layers())
        whole.append(bench.head(layers))
        for position in anchors:
            heads[position].append(bench.head(position))
        for position in held:
            held_heads[position].append(bench.head(position))
            held_tails[position].append(bench.tail(position))
    after = [bench.head(layers) for _ in range(few)]
    return Readings(passes, whole, heads, held_heads, held_tails, before, after)


def _between(shares: Sequence[float], anchors: Sequence[int]) -> list[int]:
    """Every second of the cuts in the middle between two anchors, where the anchors say least."""
    edges = [0, *anchors, len(shares)]
    found = []
    for start, end in list(pairwise(edges))[1::2]:
        found += [start + position for position in equally_spaced(shares[start:end], 2)]
    return found


def _fractions(shares: Sequence[float], positions: Sequence[int]) -> list[float]:
    """Which part of the whole each head is."""
    heads = [0.0, *accumulate(shares)]
    return [heads[position] / heads[-1] if heads[-1] > 0 else 1.0 for position in positions]
