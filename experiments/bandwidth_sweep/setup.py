"""What a sweep covers and how thoroughly: defaults, the command line, and what is refused before anything starts."""

from __future__ import annotations

import argparse
import difflib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.bandwidth_sweep.store import MAY_DIFFER, Store
from experiments.emulation.cgroups import LEAST_CPU_SHARE
from experiments.emulation.shape import METHODS, Method, shape_of
from splitnn import zoo
from splitnn.transport.codec import CODECS

_MODELS = (
    "efficientnet_lite0", "minilm_l6", "resnet18", "resnet50", "vgg16", "alexnet", "googlenet", "mobilenet_v2",
    "squeezenet1_1", "densenet121", "vit_b_16", "swin_t",
)  # fmt: skip
_RATES = ("0.13Mbps", "1.1Mbps", "5.85Mbps", "18.88Mbps", "50Mbps", "100Mbps")  # the first four are those of DADS
_ROUND_TRIPS = ("10ms", "40ms", "100ms")
_CODECS = ("raw", "fp16", "int8", "int8+zstd", "png", "jpeg90")
_MOST_BPS, _LONGEST_RTT_S = 10e9, 10.0
_CORES_FOR_SHARES = 0.75  # of the machine's: with more, quotas stop being kept


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What to sweep, and how thoroughly."""

    models: tuple[str, ...] = _MODELS
    links: tuple[str, ...] = tuple(f"{rate}/{rtt}" for rtt in _ROUND_TRIPS for rate in _RATES)
    device_share: float = 0.1
    server_share: float = 1.0
    codecs: tuple[str, ...] = _CODECS
    rounds: int = 5
    oracle: str = "1.4"  # candidate cuts within so many times the quickest are measured; or "all"
    way_s: float = 6.0  # of each way in a cell: slow ones get fewer requests
    profiling_s: float = 10.0
    photos: tuple[str, ...] = ()  # () sends the example that was profiled
    methods: tuple[Method, ...] = METHODS
    off_target: Literal["left out", "labelled"] = "left out"  # what becomes of links that are off their rate
    cell_s: float = 17.0  # what a cell takes as a rule

    @property
    def within(self) -> float:
        """The oracle's factor; infinite when every candidate cut is measured.

        Raises:
            ValueError: ``oracle`` is no such factor.
        """
        try:
            factor = math.inf if self.oracle == "all" else float(self.oracle)
        except ValueError:
            factor = math.nan
        if not (factor >= 1 and (math.isfinite(factor) or self.oracle == "all")):
            raise ValueError(f"--oracle is a factor of at least 1, such as 1.4, or all, not {self.oracle!r}")
        return factor

    def minutes(self, *, known: int = 0) -> float:
        """A guess at what it will take when so many cells are known already."""
        models, links = len(self.models), len(self.links)
        left = max(0, models * links - known)
        models_left = math.ceil(left / links)
        return (links * 10 + models_left * (30 + 2 * self.profiling_s) + left * self.cell_s) / 60


QUICK = Setup(
    models=("efficientnet_lite0", "squeezenet1_1"),
    links=("1.1Mbps/10ms", "18.88Mbps/40ms", "50Mbps/10ms"),
    device_share=0.2,
    server_share=0.8,
    rounds=3,
    oracle="1.4",
    way_s=1.5,
    profiling_s=3.0,
    off_target="labelled",
    cell_s=7.0,
)


def parse(argv: Sequence[str] | None, *, description: str) -> tuple[Setup, argparse.Namespace]:
    """What to sweep, and ``output``, ``resume`` and ``json``. Leaves the program where that is nonsense.

    A sweep that is gone on with is set up as it was begun.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments.bandwidth_sweep", description=description)
    parser.add_argument("--quick", action="store_true", help="two models, three links, about two minutes")
    parser.add_argument("--models", type=_words, metavar="A,B", help=f"of the zoo (default {','.join(_MODELS)})")
    parser.add_argument("--links", type=_words, metavar="A,B", help="such as 1.1Mbps/10ms,2Mbps:20Mbps/40ms")
    parser.add_argument("--device-share", type=float, metavar="X", help="of a core (default 0.1)")
    parser.add_argument("--server-share", type=float, metavar="X", help="of a core (default 1)")
    parser.add_argument("--codecs", type=_words, metavar="A,B", help=f"allowed (default {','.join(_CODECS)})")
    parser.add_argument("--rounds", type=int, metavar="N", help="requests of each way (default 5)")
    parser.add_argument(
        "--oracle",
        metavar="X",
        help="measure candidate cuts predicted within X times the quickest, or all (default 1.4)",
    )
    parser.add_argument("--profiling-s", type=float, metavar="S", help="for each model (default 10)")
    parser.add_argument("--photos", type=_words, metavar="A,B", help="requests carry these, not the profiled example")
    parser.add_argument("--methods", type=_words, metavar="A,B", help=f"of emulating the link: {', '.join(METHODS)}")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a folder of its own under experiments/results/")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the sweep in this folder, as begun")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the headline figures there too")
    options = parser.parse_args(argv)
    given = {name: value for name, value in vars(options).items() if value is not None and name in vars(QUICK)}
    try:
        _check_folders(options)
        kept = _kept(options.resume) if options.resume is not None else {}
        asked = (vars(QUICK) if options.quick else {}) | given
        different = [name for name in asked if name in kept and name not in MAY_DIFFER and asked[name] != kept[name]]
        if different:
            named = dict.fromkeys(_option(name) if name in given else "--quick" for name in different)
            raise ValueError(f"the sweep in {options.resume} was begun with other {', '.join(named)}; leave them out")
        setup = Setup(**(asked | kept | given))
        _check(setup)
    except ValueError as wrong:
        parser.error(str(wrong))
    return setup, options


def _kept(folder: Path) -> dict[str, Any]:
    """What the sweep in this folder was begun with, by field; some or all may be unknown."""
    kept = {name: tuple(value) if isinstance(value, list) else value for name, value in Store(folder).setup().items()}
    if strange := sorted(kept.keys() - vars(QUICK).keys()):
        raise ValueError(f"the sweep in {folder} was begun with what is not known here: {', '.join(strange)}")
    return kept


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _check(setup: Setup) -> None:
    """Raises ValueError for what cannot be swept."""
    for what in ("models", "links", "methods", "codecs"):
        if not getattr(setup, what):
            raise ValueError(f"--{what} names none")
    shapes = [shape_of(link) for link in setup.links]
    for shape in shapes:
        if max(shape.up_bps, shape.down_bps) > _MOST_BPS or shape.rtt_s > _LONGEST_RTT_S:
            raise ValueError(f"--links: {shape} is more than the 10 Gbit/s or 10 s that can be emulated at all")
    named: dict[str, Sequence[object]] = {
        what: getattr(setup, what) for what in ("models", "methods", "codecs", "photos")
    }
    for what, names in (named | {"links": shapes}).items():
        if len(set(names)) < len(names):
            raise ValueError(f"--{what} names one twice")
    _check_known("the zoo has no model", setup.models, {entry.name for entry in zoo.models()})
    _check_known("no link is emulated by", setup.methods, METHODS)
    _check_known("there is no codec", setup.codecs, CODECS)
    if setup.photos:
        _check_known("the zoo has no photo", setup.photos, zoo.photos(8))
    for amount in (setup.device_share, setup.server_share, setup.rounds, setup.profiling_s):
        if not (math.isfinite(amount) and amount > 0):
            raise ValueError(f"shares, rounds and seconds must be above 0, not {amount}")
    for amount in (setup.device_share, setup.server_share):
        if amount < LEAST_CPU_SHARE:
            raise ValueError(
                f"a share of a core is {LEAST_CPU_SHARE:g} at least, which is the kernel's least, not {amount}"
            )
    setup.within  # noqa: B018 -- refuses what is no factor
    at_most = _CORES_FOR_SHARES * (os.cpu_count() or 1)
    if setup.device_share + setup.server_share > at_most:
        raise ValueError(f"the shares add up to more than {at_most:g} of this machine's {os.cpu_count()} cores")


def _check_known(complaint: str, names: Iterable[str], known: Iterable[str]) -> None:
    known = sorted(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=12, cutoff=0.3) or known[:12]
            raise ValueError(f"{complaint} {name!r}; there are {', '.join(near)}" + " ..." * (len(near) < len(known)))


def _check_folders(options: argparse.Namespace) -> None:
    if options.resume is not None and options.output is not None:
        raise ValueError("--resume writes into the folder that it resumes: --output has no place beside it")
    if options.resume is not None and not Store(options.resume).exists:
        raise ValueError(f"there is no sweep to go on with in {options.resume}")
    if options.output is not None and Store(options.output).exists:
        raise ValueError(f"there is a sweep in {options.output} already; --resume goes on with it")
    if options.output is not None:
        output = options.output.absolute()
        there = next(folder for folder in (output, *output.parents) if folder.exists())
        if not there.is_dir():
            raise ValueError(f"{there} is no folder")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"nothing can be written in {there}")
    if options.json is not None and (not os.access(options.json.absolute().parent, os.W_OK) or options.json.is_dir()):
        raise ValueError(f"{options.json} cannot be written")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
