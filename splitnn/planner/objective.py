"""What to want from a plan: little latency, energy, traffic or money, a mix of these, or many requests a second."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

Quantity = Literal["latency", "energy", "bytes", "cost"]
"""What adds up over a placement: seconds, joules of the device, bytes over all hops both ways, money."""

QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
UNITS: Mapping[str, str] = {"latency": "s", "energy": "J", "bytes": "bytes", "cost": "money", "throughput": "s"}
METER_UNITS: Mapping[Quantity, Fraction] = {
    "latency": Fraction(1, 10**9),
    "energy": Fraction(1, 10**9),
    "bytes": Fraction(1),
    "cost": Fraction(1, 10**36),  # a byte at a price of 1e-18 a gigabyte is still many
}
"""How much one step of a quantity's meter is."""


@dataclass(frozen=True)
class Objective:
    """The weighted sum to make small, each weight for one unit (second, joule, byte, unit of money); or throughput.

    With ``throughput`` the longest time for which a request keeps a host or a link busy is made small, a host with its
    layers, codecs, messages and stages; weights are not used then. Of plans that are worth the same, the quicker one is
    wanted.

    Raises:
        ValueError: a weight that is no finite number above 0, an unknown quantity, nothing wanted, or a name that other
            weights have.
    """

    weights: Mapping[Quantity, float]
    name: str = "mix"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) - set(QUANTITIES)):
            raise ValueError(f"no quantity is called {unknown[0]!r}; there are {', '.join(QUANTITIES)}")
        for quantity, weight in self.weights.items():
            if not (math.isfinite(weight) and weight > 0):
                raise ValueError(f"the weight of {quantity} must be a finite number above 0, not {weight}")
        if not self.weights and self.name != "throughput":
            raise ValueError(f"an objective weighs at least one of {', '.join(QUANTITIES)}")
        alone = {} if self.name == "throughput" else {self.name: 1.0}
        if self.name in UNITS and dict(self.weights) != alone:
            raise ValueError(f"{self.name!r} is the name of the weights {alone}, not of {dict(self.weights)}")

    @property
    def is_throughput(self) -> bool:
        """Whether the bottleneck is what counts."""
        return not self.weights

    @property
    def is_latency(self) -> bool:
        """Whether the seconds of a request are what counts, and nothing beside."""
        return self.name == "latency"

    @property
    def unit(self) -> str:
        """What the value of a plan is counted in."""
        return UNITS.get(self.name, "weighted")

    def factors(self) -> dict[Quantity, int]:
        """Whole weights for the steps of the quantities' meters."""
        exact = {quantity: Fraction(repr(w)) * METER_UNITS[quantity] for quantity, w in self.weights.items()}
        scale = self.scale
        return {quantity: int(weight * scale) for quantity, weight in exact.items()}

    @property
    def scale(self) -> int:
        """By how much ``factors`` are larger than the weights."""
        return math.lcm(*((Fraction(repr(w)) * METER_UNITS[q]).denominator for q, w in self.weights.items()))


LATENCY = Objective({"latency": 1.0}, "latency")
ENERGY = Objective({"energy": 1.0}, "energy")
BYTES = Objective({"bytes": 1.0}, "bytes")
COST = Objective({"cost": 1.0}, "cost")
THROUGHPUT = Objective({}, "throughput")
OBJECTIVES: Mapping[str, Objective] = {each.name: each for each in (LATENCY, ENERGY, THROUGHPUT, BYTES, COST)}


def parse_objective(text: str) -> Objective:
    """A name such as ``energy``, or a mix such as ``latency=1,energy=0.2``.

    Raises:
        ValueError: the text is neither.
    """
    if "=" not in text:
        if text not in OBJECTIVES:
            raise ValueError(
                f"unknown objective {text!r}: there are {', '.join(OBJECTIVES)}, and mixes: latency=1,energy=2"
            )
        return OBJECTIVES[text]
    weights: dict[Quantity, float] = {}
    for part in text.split(","):
        name, _, weight = part.partition("=")
        known = next((quantity for quantity in QUANTITIES if quantity == name.strip()), None)
        if known is None:
            raise ValueError(f"{part!r} weighs nothing that adds up: there are {', '.join(QUANTITIES)}")
        if known in weights:
            raise ValueError(f"{text!r} weighs {known} twice")
        try:
            weights[known] = float(weight)
        except ValueError:
            raise ValueError(f"{part!r}: the weight of {known} must be a number") from None
    return Objective(weights)
