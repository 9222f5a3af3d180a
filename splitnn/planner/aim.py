"""What a unit of each condition is worth: how an objective that adds up weighs seconds a layer, a bit or a round trip.

Energy, traffic and money depend on the conditions as latency does, linearly: joules are watts times the same seconds,
and what a byte costs whatever the bandwidth is a constant. So envelopes and thresholds are exact for all of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from splitnn.cost.energy import EnergyPrices
from splitnn.planner.conditions import Conditions, dot
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import Objective


class Prices(NamedTuple):
    """What is wanted, a unit of each weight, under some conditions."""

    units: tuple[Fraction, ...]  # in the order of ``Conditions.vector``
    handling: tuple[Fraction, ...]  # host

    @property
    def scale(self) -> int:
        """Times it, every price is a whole number."""
        return math.lcm(*(price.denominator for price in (*self.units, *self.handling)))


class Steps(NamedTuple):
    """Prices in whole numbers, by which of two placements that are worth the same the quicker one costs less."""

    units: tuple[int, ...]  # in the order of ``Conditions.vector``
    handling: tuple[int, ...]  # host
    per_worth: int  # what a billionth of the objective's unit costs
    per_ns: int  # what a nanosecond costs beside; less than one step of what is wanted for a whole request


@dataclass(frozen=True, slots=True)
class Aim:
    """An objective as ``sum(weight * (factor * condition + constant))`` over ``Form.weights``.

    In the order of ``Conditions.vector``. The sum is in billionths of the objective's unit.
    """

    objective: Objective
    factors: tuple[Fraction, ...]
    constants: tuple[Fraction, ...]
    handling: tuple[Fraction, ...]  # host: the factor of seconds in which it handles messages and starts stages

    def prices(self, conditions: Conditions) -> Prices:
        """What a unit of each weight is worth under these conditions."""
        terms = zip(self.factors, conditions.vector, self.constants, strict=True)
        return Prices(
            tuple(factor * value + constant for factor, value, constant in terms),
            tuple(factor * slowdown for factor, slowdown in zip(self.handling, conditions.slowdown, strict=True)),
        )

    def steps(self, conditions: Conditions, *, most: Sequence[int]) -> Steps:
        """The prices under these conditions; ``most`` are ``Form.weights`` that no placement exceeds."""
        prices = self.prices(conditions)
        scale = prices.scale
        units = tuple(int(price * scale) for price in prices.units)
        handling = tuple(int(price * scale) for price in prices.handling)
        if self.objective.is_latency:
            return Steps(units, handling, per_worth=scale, per_ns=0)
        per_ns = math.lcm(*(value.denominator for value in conditions.vector))
        above = 1 + int(dot(most, conditions.vector) * per_ns)  # no request takes that many steps of time
        seconds = [int(value * per_ns) for value in conditions.vector]
        return Steps(
            tuple(price * above + second for price, second in zip(units, seconds, strict=True)),
            tuple(price * above + second for price, second in zip(handling, seconds, strict=False)),
            per_worth=scale * above,
            per_ns=per_ns,
        )


def aim_of(
    objective: Objective, *, hosts: int, energy: EnergyPrices | None = None, tariff: Tariff | None = None
) -> Aim:
    """The aim of an objective with so many hosts.

    Raises:
        ValueError: throughput, which is no sum; or energy or cost without prices.
    """
    if objective.is_throughput:
        raise ValueError(
            "throughput is the largest of several sums, not a sum: ask `splitnn plan` for it, at a single link"
        )
    hops = hosts - 1
    factors, constants = [Fraction(0)] * (hosts + 3 * hops), [Fraction(0)] * (hosts + 3 * hops)
    up, down, trip = hosts, hosts + hops, hosts + 2 * hops

    def add(place: int, factor: Fraction, constant: Fraction) -> None:
        factors[place] += factor
        constants[place] += constant

    weights = {quantity: Fraction(repr(float(weight))) for quantity, weight in objective.weights.items()}
    seconds = weights.get("latency", Fraction(0))
    for place in range(len(factors)):
        add(place, seconds, Fraction(0))
    if (weight := weights.get("energy")) is not None:
        if energy is None:
            raise ValueError("the objective weighs energy: that takes EnergyPrices of the device")
        watts = [_exact(energy.wait_w)] * len(factors)
        watts[0] = _exact(energy.compute_w)
        joules = [Fraction(0)] * len(factors)
        if hops:
            watts[up], watts[down] = _exact(energy.sending_w), _exact(energy.receiving_w)
            joules[up], joules[down] = _exact(energy.send_j_per_bit), _exact(energy.receive_j_per_bit)
            joules[trip] = _exact(energy.tail_j)
        for place, (watt, joule) in enumerate(zip(watts, joules, strict=True)):
            add(place, weight * watt, weight * joule)
    handling = tuple(factors[:hosts])  # servers do it while others compute: it costs no money
    if (weight := weights.get("bytes")) is not None:
        for place in range(up, trip):
            add(place, Fraction(0), weight / 8)
    if (weight := weights.get("cost")) is not None:
        if tariff is None:
            raise ValueError("the objective weighs cost: that takes a Tariff")
        for place in range(1, hosts):
            add(place, weight * _exact(tariff.per_server_s), Fraction(0))
        for place in range(up, trip):
            add(place, Fraction(0), weight * _exact(tariff.per_gb) / (8 * 10**9))
    return Aim(objective, tuple(factors), tuple(constants), handling)


def _exact(value: float) -> Fraction:
    """The decimal number that a float is written as: small denominators keep the arithmetic quick."""
    return Fraction(repr(float(value)))
