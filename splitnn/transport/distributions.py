"""The distributions that coded symbols are written with: logistic ones of many spreads, rounded to whole numbers.

Both sides must agree to the last bit, so no ``exp`` is called: its last bit differs between machines. The curves are
built from sums, products, quotients and square roots of doubles, which do not.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from splitnn.transport.rans import Distribution

SYMBOLS = 256  # numbers from -128 to 127
QUARTERS = 4  # a distribution's mean is 0, 1/4, 1/2 or 3/4
SPREADS = 41
SHARES = (0.0, 0.03125, 0.125, 0.25, 0.5, 0.75, 0.875, 0.96875)
"""Probabilities of a rare event that can be said in three bits."""

_ROOT = 1.189207115002721  # 2**(1/4)
_NARROWEST = 0.0625
# exp(-1 / (4 s)) for the four narrowest spreads s; twice the spread is the square root of it.
_CURVES = (0.018315638888734, 0.034610933092545, 0.059105746561956, 0.092697457867590)


@functools.cache
def spreads() -> NDArray[np.float32]:
    """The logistic distributions' scale parameters, ascending, each 2**(1/4) times the last."""
    found = [_NARROWEST]
    while len(found) < SPREADS:
        found.append(found[-1] * _ROOT)
    return np.array(found, dtype=np.float32)


@functools.cache
def borders() -> NDArray[np.float32]:
    """Spreads from which on the next distribution is the better one."""
    return spreads()[:-1] * np.float32(1.0905077326652577)  # 2**(1/8)


@functools.cache
def mean_sizes() -> NDArray[np.float64]:
    """The expected absolute value of a symbol around 0, by spread."""
    sizes = np.abs(np.arange(SYMBOLS) - SYMBOLS // 2)
    return np.array(
        [float((logistic(QUARTERS * spread).frequencies * sizes).sum()) / 2**24 for spread in range(SPREADS)]
    )


def nearest_spread(mean_size: NDArray[np.float64]) -> NDArray[np.int64]:
    """The spreads whose symbols have about these absolute values."""
    sizes = mean_sizes()
    return np.searchsorted(np.sqrt(sizes[:-1] * sizes[1:]), mean_size)


@functools.cache
def logistic(number: int) -> Distribution:
    """Number ``QUARTERS * spread + quarter``: of that spread, its mean at so many quarters. Symbol 128 is 0."""
    spread, quarter = divmod(number, QUARTERS)
    curve = _CURVES[spread % 4]
    for _ in range(spread // 4):
        curve = math.sqrt(curve)
    powers = np.multiply.accumulate(np.full(QUARTERS * (SYMBOLS + 2), curve))  # curve**1, curve**2, ...
    powers = np.concatenate(([1.0], powers))
    # In quarters from the mean: a symbol reaches from 2 below itself to 2 above.
    distance = np.abs(QUARTERS * (np.arange(SYMBOLS) - SYMBOLS // 2) - quarter)
    far = powers[distance + 2]
    near = powers[np.abs(distance - 2)]
    inside = distance < 2  # the mean lies within the symbol's own interval
    tail = (near - far) / ((1 + near) * (1 + far))
    centre = 1 / (1 + far) - near / (1 + near)
    probabilities = np.where(inside, centre, tail)
    return Distribution.near(probabilities / _ordered_sum(probabilities))


@functools.cache
def yes_or_no(share: int) -> Distribution:
    """1 with the probability ``1 - SHARES[share]``, 0 otherwise."""
    return Distribution.near(np.array([SHARES[share], 1 - SHARES[share]]))


def nearest_share(share: float) -> int:
    """The share that events of this frequency are written with; none is called impossible that happens."""
    return min(range(1 if share else 0, len(SHARES)), key=lambda index: abs(SHARES[index] - share))


def _ordered_sum(values: NDArray[np.float64]) -> float:
    return float(np.add.accumulate(values)[-1])  # np.sum adds in an order of its own on each machine
