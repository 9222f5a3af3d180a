"""Cut and codecs together, within what accuracy may be lost.

What a codec costs was measured for one tensor at a time. A plan that sends several tensors in lossy codecs is charged
the sum, which errors of different tensors reach at worst as far as small changes add up; a tensor that is encoded for
each of several hops is charged each time.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from splitnn.cost.accuracy import Calibration
from splitnn.errors import InfeasiblePlan
from splitnn.planner.plan import LOSSLESS, Plan

_MOST_PLANS = 2000  # made to divide one limit among several lossy tensors; beyond, codecs are given up one by one

Option = tuple[str, str]
"""A tensor and a lossy codec."""


Found = TypeVar("Found")
AllowedCodecs = dict[str, tuple[str, ...]]


def drops_of(calibration: Calibration, codecs: Iterable[str]) -> dict[Option, float]:
    """What each lossy codec on each tensor costs at worst: the upper end of its interval of 95 %, at least 0."""
    wanted = set(codecs) - LOSSLESS
    return {
        (tensor, codec): max(0.0, found.drop.high)
        for tensor, measured in calibration.tensors.items()
        for codec, found in measured.items()
        if codec in wanted
    }


def drop_of_plan(plan: Plan, drops: Mapping[Option, float]) -> float:
    """The sum over its transfers; a lossy codec that was not calibrated is charged infinitely much."""
    return sum(
        drops.get((tensor, codec), math.inf)
        for hop in plan.hops
        for tensor, codec in hop.items()
        if codec not in LOSSLESS
    )


@dataclass(frozen=True)
class Allowance:
    """What accuracy may be lost, and what lossy codecs cost of it."""

    codecs: tuple[str, ...]  # lossless ones and lossy ones
    drops: Mapping[Option, float]
    limit: float

    def best(self, solve: Callable[[AllowedCodecs], Plan], tensors: Iterable[str]) -> Plan:
        """The quickest plan that ``solve`` finds within it; see ``within_accuracy``."""
        return within_accuracy(
            solve,
            tensors=tensors,
            codecs=self.codecs,
            drops=self.drops,
            limit=self.limit,
            plan_of=lambda plan: plan,
            worth=lambda plan: plan.predicted.latency_ns,
        )


def within_accuracy(
    solve: Callable[[AllowedCodecs], Found],
    *,
    tensors: Iterable[str],
    codecs: Sequence[str],
    drops: Mapping[Option, float],
    limit: float,
    plan_of: Callable[[Found], Plan],
    worth: Callable[[Found], float | tuple[float, ...]],
) -> Found:
    """The best of what ``solve`` finds whose plan loses at most ``limit``; lossless codecs lose nothing.

    ``solve`` gets the codecs that each tensor may use and returns the best plan with them, of the least ``worth``
    (numbers, or tuples of them).
    Exact for two hosts as long as ``_MOST_PLANS`` suffice (branch and bound: a lossy codec is either used, which
    leaves less for the others, or forbidden); else a lossy codec may be given up that would just have been allowed.

    Raises:
        ValueError: the limit is not between 0 and 1.
        InfeasiblePlan: ``solve`` finds nothing even when only lossless codecs are left.
    """
    if not 0 <= limit <= 1:
        raise ValueError(f"the accuracy that may be lost is a share from 0 to 1, not {limit}")
    names = list(tensors)
    numbers = itertools.count()
    queue: list[tuple[tuple[float, ...], int, frozenset[Option], frozenset[Option], Found]] = []
    failed: list[InfeasiblePlan] = []

    def consider(used: frozenset[Option], forbidden: frozenset[Option]) -> None:
        left = limit - sum(drops[option] for option in used)
        if left < -_ROUNDING:
            return
        allowed: AllowedCodecs = {tensor: tuple(codec for codec in codecs if codec in LOSSLESS) for tensor in names}
        for option, drop in drops.items():
            tensor, codec = option
            if option not in forbidden and (option in used or drop <= left + _ROUNDING) and tensor in allowed:
                allowed[tensor] = (*allowed[tensor], codec)
        try:
            found = solve({tensor: each or ("raw",) for tensor, each in allowed.items()})
        except InfeasiblePlan as error:
            failed.append(error)
            return
        value = worth(found)
        rank = value if isinstance(value, tuple) else (value,)
        heapq.heappush(queue, (rank, next(numbers), used, forbidden, found))

    consider(frozenset(), frozenset())
    made = 1
    while queue:
        _, _, used, forbidden, found = heapq.heappop(queue)
        counted = _lossy(plan_of(found))
        if sum(drops[option] * times for option, times in counted.items()) <= limit + _ROUNDING:
            return found
        undecided = [option for option in counted if option not in used]
        costly = max(undecided or counted, key=lambda option: (drops[option] * counted[option], option))
        consider(used - {costly}, forbidden | {costly})
        if undecided and made < _MOST_PLANS:
            consider(used | {costly}, forbidden)
        made += 2
    raise failed[0] if failed else RuntimeError("defect of the planner: no plan without lossy codecs")


_ROUNDING = 1e-12  # of sums of drops


def _lossy(plan: Plan) -> Counter[Option]:
    return Counter((tensor, codec) for hop in plan.hops for tensor, codec in hop.items() if codec not in LOSSLESS)
