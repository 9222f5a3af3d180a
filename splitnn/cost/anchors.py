"""From layer times to times that add up. Pure arithmetic, knows no torch.

Times of single layers, measured one by one, do not add up to the time of the stage that holds them: their sum is off
by -2 to +9 % on common networks. So they serve as shares only. A few heads (the first so many layers, compiled as one
stage) are measured as such, the anchors; between two anchors the layers' shares are scaled to meet both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate


def equally_spaced(shares: Sequence[float], parts: int) -> list[int]:
    """Positions that divide layers with these costs into so many parts of about equal cost.

    A position p means the first p layers; all lie strictly between 0 and ``len(shares)``, ascending, each once, so
    there are fewer than ``parts - 1`` where the layers are few or one of them dominates.
    """
    heads = list(accumulate(shares))
    if not heads or heads[-1] <= 0:
        shares = [1.0] * len(shares)
        heads = list(accumulate(shares))
    found = {_nearest(heads, heads[-1] * k / parts) for k in range(1, parts)} if heads else set()
    return sorted(position for position in found if 0 < position < len(shares))


def _nearest(heads: Sequence[float], cost: float) -> int:
    """The number of layers whose summed cost comes nearest to ``cost``."""
    above = min(bisect_left(heads, cost), len(heads) - 1)
    below = heads[above - 1] if above else 0.0
    return above if cost - below < heads[above] - cost else above + 1


def never_falling(values: Sequence[float]) -> list[float]:
    """The sequence without falls that is nearest in least squares: pools of neighbours, each at its mean.

    Pool adjacent violators: Barlow et al., "Statistical Inference under Order Restrictions", 1972.
    """
    pools: list[tuple[float, int]] = []  # sum, count
    for value in values:
        total, count = value, 1
        while pools and pools[-1][0] * count > total * pools[-1][1]:
            more, others = pools.pop()
            total, count = total + more, count + others
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]


def meet(shares: Sequence[float], heads: Mapping[int, float]) -> list[float]:
    """Times of layers, none negative, whose first p add up to ``heads[p]`` and that share it like ``shares`` between.

    ``heads`` holds the measured seconds of the first p layers, of all of them among others. A longer head that was
    measured as quicker than a shorter one is noise, or a fusion that the sum cannot express: both get their mean, and
    none gets more than the whole.

    Raises:
        ValueError: ``heads`` lacks the whole, or has a position that does not exist.
    """
    positions = sorted(heads)
    if not positions or positions[-1] != len(shares) or positions[0] < 0:
        raise ValueError(f"heads at {positions} do not belong to {len(shares)} layers: the last must be all of them")
    whole = heads[positions[-1]]
    smooth = never_falling([min(heads[position], whole) for position in positions[:-1]])
    times: list[float] = []
    start, reached = 0, 0.0
    for position, head in zip(positions, [*smooth, whole], strict=True):
        if position == 0:
            continue
        part = shares[start:position]
        total = sum(part)
        length = head - reached
        times += [length * share / total for share in part] if total > 0 else [length / len(part)] * len(part)
        start, reached = position, head
    return times
