"""Seeded traces of 3G, 4G, 5G and Wi-Fi uplinks, as Markov chains over rates: enough to steer a planner through what
such links do, not a model of any one network. Each chain says where its numbers come from and what was our choice.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from experiments.emulation.traces import Trace

_Matrix = tuple[tuple[float, ...], ...]
_LONGEST_S = 1e7  # as many values as steps are in memory
_SPREAD = 0.15  # our choice: rates within a state vary evenly by this share, which keeps its mean


@dataclass(frozen=True, slots=True)
class Chain:
    """A Markov chain over rates: every ``step_s`` the state moves by a row of ``moves`` (rounded shares, about 1)."""

    levels_bps: tuple[float, ...]
    moves: _Matrix
    step_s: float
    source: str

    def __post_init__(self) -> None:
        count = len(self.levels_bps)
        if len(self.moves) != count or any(len(row) != count or abs(sum(row) - 1) > 0.03 for row in self.moves):
            raise ValueError(f"{count} levels need {count} rows of {count} shares that sum to 1")


def _ladder(dwell_s: tuple[float, ...], step_s: float) -> _Matrix:
    """Moves to the neighbours only, both alike, such that a state lasts ``dwell_s`` on average."""
    last = len(dwell_s) - 1
    rows = []
    for state, mean_s in enumerate(dwell_s):
        leave = step_s / mean_s
        neighbours = [other for other in (state - 1, state + 1) if 0 <= other <= last]
        row = [leave / len(neighbours) if other in neighbours else 0.0 for other in range(last + 1)]
        row[state] = 1 - leave
        rows.append(tuple(row))
    return tuple(rows)


CHAINS: dict[str, Chain] = {
    "3g": Chain(
        (0.253e6, 0.688e6, 1.040e6, 1.293e6, 1.416e6),
        (
            (0.74, 0.20, 0.05, 0.00, 0.01),
            (0.19, 0.48, 0.28, 0.05, 0.00),
            (0.04, 0.24, 0.38, 0.26, 0.06),
            (0.01, 0.06, 0.21, 0.42, 0.30),
            (0.01, 0.01, 0.08, 0.28, 0.62),
        ),
        1.0,
        "fitted by us: fifths of the seconds of T-Mobile UMTS uplink, driving (931 s, mean 0.94 Mbit/s), recorded for "
        "Winstein et al., Stochastic Forecasts Achieve High Throughput and Low Delay over Cellular Networks, NSDI 2013",
    ),
    "4g": Chain(
        (2.417e6, 5.097e6, 7.796e6, 10.967e6, 21.883e6),
        (
            (0.66, 0.25, 0.07, 0.02, 0.00),
            (0.27, 0.47, 0.18, 0.07, 0.00),
            (0.05, 0.25, 0.39, 0.25, 0.05),
            (0.00, 0.04, 0.34, 0.57, 0.05),
            (0.00, 0.00, 0.02, 0.07, 0.91),
        ),
        1.0,
        "fitted by us: fifths of the seconds of T-Mobile and Verizon LTE uplinks together (280 s, mean 9.6 Mbit/s), "
        "recorded for Winstein et al., NSDI 2013",
    ),
    "5g": Chain(
        (6e6, 12e6, 37e6, 72e6, 100e6),
        _ladder((30.0, 20.0, 45.0, 15.0, 60.0), 3.0),
        3.0,
        "levels and how long they last read off by us from ten minutes of a non-stand-alone 5G uplink while driving in "
        "Cork, one sample in 3 s, which saturates at 100 Mbit/s and falls back to 4G: MTU-Insectt/Measurements5G, "
        "15 December 2021. Our choice: moves to neighbours only, both alike",
    ),
    "wifi": Chain(
        tuple(0.6 * mbit * 1e6 for mbit in (6.5, 13.0, 19.5, 26.0, 39.0, 52.0, 58.5, 65.0)),
        _ladder((4.0, 4.0, 4.0, 6.0, 8.0, 10.0, 15.0, 30.0), 1.0),
        1.0,
        "levels: IEEE 802.11n, 20 MHz, one stream, MCS 0 to 7. Our choices, not measured: 60 % of them is payload, and "
        "how long each lasts (a walk to the edge of the cell and back)",
    ),
}


def synthetic_trace(kind: Literal["3g", "4g", "5g", "wifi"], *, duration_s: float, seed: int) -> Trace:
    """A trace of this kind, the same for the same seed on every machine.

    Raises:
        ValueError: no such kind, or a duration of less than one step.
    """
    if kind not in CHAINS:
        raise ValueError(f"no kind {kind!r}; there are {', '.join(CHAINS)}")
    chain = CHAINS[kind]
    if not chain.step_s <= duration_s <= _LONGEST_S:
        raise ValueError(
            f"a {kind} trace lasts {chain.step_s:g} s at least and {_LONGEST_S:g} at most, not {duration_s} s"
        )
    count = int(duration_s / chain.step_s)
    chance = random.Random(seed)
    states = range(len(chain.levels_bps))
    state = chance.choice(states)
    rates = []
    for _ in range(count):
        rates.append(chain.levels_bps[state] * chance.uniform(1 - _SPREAD, 1 + _SPREAD))
        state = chance.choices(states, chain.moves[state])[0]
    return Trace(tuple(i * chain.step_s for i in range(count)), tuple(rates), count * chain.step_s)
