"""What to follow, and how: defaults, the command line, and what is refused before anything starts."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from experiments.emulation.cgroups import LEAST_CPU_SHARE
from experiments.emulation.synthetic_traces import synthetic_trace
from experiments.emulation.traces import Trace, load_trace
from splitnn import zoo
from splitnn.transport.codec import CODECS

Kind = Literal["3g", "4g", "5g", "wifi"]
Column = Literal["UL_bitrate", "DL_bitrate"]

_KINDS: tuple[Kind, ...] = get_args(Kind)
_MOST_BPS = 100e6  # what links are emulated to
_CORES_FOR_SHARES = 0.75  # of the machine's: with more, quotas stop being kept


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What to follow, and how."""

    traces: tuple[str, ...] = _KINDS  # kinds of synthetic ones, or files
    model: str = "efficientnet_lite0"
    seconds: float = 40.0  # of each trace
    rounds: int = 2  # passes of each way; one alone would meet the machine as it is at that time
    period_s: float = 0.2  # between the beginnings of two requests
    rtt_s: float = 0.04
    scale: float = 1.0  # of the trace's rates
    seed: int = 1  # of synthetic traces
    column: Column = "UL_bitrate"  # of UCC's tables
    codecs: tuple[str, ...] = ("raw", "int8+zstd", "even6")
    device_share: float = 0.1
    server_share: float = 1.0
    profiling_s: float = 6.0

    @property
    def minutes(self) -> float:
        """A guess at what it will take."""
        each_s = 60 + 6 * self.rounds * self.seconds
        return (30 + 2 * self.profiling_s + len(self.traces) * each_s) / 60

    def trace(self, name: str) -> Trace:
        """One of ``traces``: read or made, at the scale that was asked for, and no faster than a link can be.

        Raises:
            ValueError: no kind, and no file in a known format.
            OSError: the file cannot be read.
        """
        kind = next((kind for kind in _KINDS if kind == name), None)
        if kind is not None:
            found = synthetic_trace(kind, duration_s=max(self.seconds, 10.0), seed=self.seed)
        elif Path(name).exists():
            found = load_trace(name, column=self.column)
        else:
            raise ValueError(f"a trace is {', '.join(_KINDS)} or a file, and there is no file {name!r}")
        rates = tuple(min(rate_bps * self.scale, _MOST_BPS) for rate_bps in found.rates_bps)
        return Trace(found.times_s, rates, found.duration_s)


_QUICK: dict[str, Any] = {"traces": ("4g",), "seconds": 20.0, "rounds": 1, "profiling_s": 3.0}


def parse(argv: Sequence[str] | None, *, description: str) -> tuple[Setup, argparse.Namespace]:
    """What to follow, and ``output`` and ``json``. Leaves the program where that is nonsense."""
    plain = Setup()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.adaptation",
        description=description,
        epilog="Files: mahimahi's millisecond stamps, lines of seconds and Mbit/s, UCC's CSV. Requests are frames that "
        "only the network makes smaller; with --codecs raw,jpeg90,int8+zstd they are photos.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one synthetic trace, 20 s a way: about three minutes")
    add("--trace", dest="traces", action="append", metavar="T",
        help=f"{', '.join(_KINDS)} or a file; may be repeated (default: the four kinds)")  # fmt: skip
    add("--model", metavar="NAME", help=f"of the zoo (default {plain.model})")
    add("--seconds", type=float, metavar="S", help=f"of each trace; shorter ones loop (default {plain.seconds:g})")
    add("--rounds", type=int, metavar="N", help=f"passes of each way (default {plain.rounds})")
    add("--period-s", type=float, metavar="S", help=f"from request to request (default {plain.period_s:g})")
    add("--rtt-s", type=float, metavar="S", help=f"round trip (default {plain.rtt_s:g})")
    add("--scale", type=float, metavar="X", help="multiply the rates of the traces (default 1)")
    add("--seed", type=int, metavar="N", help=f"of synthetic traces (default {plain.seed})")
    add("--column", choices=get_args(Column), help=f"of UCC's tables (default {plain.column})")
    add("--codecs", type=_words, metavar="A,B", help=f"allowed (default {','.join(plain.codecs)})")
    add("--device-share", type=float, metavar="X", help=f"of a core (default {plain.device_share:g})")
    add("--server-share", type=float, metavar="X", help=f"of a core (default {plain.server_share:g})")
    add("--profiling-s", type=float, metavar="S", help=f"for the model (default {plain.profiling_s:g})")
    add("--output", type=Path, metavar="DIR", help="default: a folder of its own under experiments/results/")
    add("--json", type=Path, metavar="FILE", help="write the headline figures there too")
    options = parser.parse_args(argv)
    given = {name: value for name, value in vars(options).items() if value is not None and name in vars(plain)}
    try:
        setup = Setup(**((_QUICK if options.quick else {}) | given))
        _check(setup)
        _check_files(options)
        for name in setup.traces:
            setup.trace(name)
    except (ValueError, OSError) as wrong:
        parser.error(str(wrong))
    return setup, options


def _check(setup: Setup) -> None:
    """Raises ValueError for what cannot be followed."""
    for name in ("seconds", "rounds", "period_s", "scale", "profiling_s"):
        amount = getattr(setup, name)
        if not (math.isfinite(amount) and amount > 0):
            raise ValueError(f"--{name.replace('_', '-')} must be above 0, not {amount}")
    if not 0 <= setup.rtt_s <= 10:
        raise ValueError(f"--rtt-s is a round trip from 0 to 10 seconds, not {setup.rtt_s}")
    if setup.model not in {entry.name for entry in zoo.models()}:
        raise ValueError(f"the zoo has no model {setup.model!r}; `splitnn models` lists them")
    if not setup.codecs or (unknown := [name for name in setup.codecs if name not in CODECS]):
        raise ValueError(f"--codecs names codecs that there are, not {unknown[0] if setup.codecs else 'none'!r}")
    if len({Path(name).name for name in setup.traces}) < len(setup.traces):
        raise ValueError("two traces have the same name: their files would be the same, too")
    shares = (setup.device_share, setup.server_share)
    if not all(math.isfinite(share) and share >= LEAST_CPU_SHARE for share in shares):
        raise ValueError(f"a share of a core is {LEAST_CPU_SHARE:g} at least, not {min(shares)}")
    if sum(shares) > (at_most := _CORES_FOR_SHARES * (os.cpu_count() or 1)):
        raise ValueError(f"the shares add up to more than {at_most:g} of this machine's {os.cpu_count()} cores")


def _check_files(options: argparse.Namespace) -> None:
    """Raises ValueError for what cannot be written."""
    if options.output is not None:
        if options.output.exists():
            raise ValueError(f"--output {options.output} exists already")
        there = next(folder for folder in options.output.absolute().parents if folder.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise ValueError(f"nothing can be written in {there}")
    if options.json is not None and (not os.access(options.json.absolute().parent, os.W_OK) or options.json.is_dir()):
        raise ValueError(f"--json {options.json} cannot be written")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
