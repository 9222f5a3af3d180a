"""Is the cut that we choose the best one, what does splitting win or lose, and how far off are predictions?

``python -m experiments.bandwidth_sweep`` runs the real agent and the real server as separate processes over an
emulated, calibrated link, for every model and link, and measures the agent's own choice beside baselines and rivals,
all in turns. Under ``experiments/results/`` it leaves rows.csv (a row for each model, link and way), requests.csv, a
picture a model, summary.txt and summary.json. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a share of a core is a share of one thread

import torch

from experiments.calibration import LinkOffTarget, calibrate
from experiments.hosts import Host
from experiments.leftovers import sweep as remove_leftovers
from experiments.links import emulated_link
from experiments.overhead import machine
from experiments.shape import METHODS, EmulatedLink, Method, Shape
from experiments.sweep_application import Application
from experiments.sweep_cells import Asking, Cell, measure_cell, topology_of, wait_for_cloud
from experiments.sweep_deployment import Deployment, Subject, prepare
from experiments.sweep_plots import draw_model
from experiments.sweep_report import headline, requests_of, rows_of, summary_lines, write_csv
from experiments.sweep_store import Store
from experiments.sweep_ways import Planning, ways_over
from experiments.virtual_clock import PAYLOAD_SHARE
from splitnn import zoo
from splitnn.cost.machine import describe_machine
from splitnn.cost.network import parse_link
from splitnn.errors import UnknownModel
from splitnn.planner.envelope import compute_envelope

logger = logging.getLogger(__name__)

_RESULTS = Path(__file__).parent / "results"
_MODELS = (
    "efficientnet_lite0", "minilm_l6", "resnet18", "resnet50", "vgg16", "alexnet", "googlenet", "mobilenet_v2",
    "squeezenet1_1", "densenet121", "vit_b_16", "swin_t",
)  # fmt: skip
_RATES = ("0.13Mbps", "1.1Mbps", "5.85Mbps", "18.88Mbps", "50Mbps", "100Mbps")  # the first four are those of DADS
_ROUND_TRIPS = ("10ms", "40ms", "100ms")
_CODECS = ("raw", "fp16", "int8", "int8+zstd", "png", "jpeg90")
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
    rivals: int = 3  # best cuts elsewhere that the oracle may choose from
    way_s: float = 6.0  # of each way in a cell: slow ones get fewer requests
    profiling_s: float = 10.0
    photos: tuple[str, ...] = ()  # () sends the example that was profiled
    methods: tuple[Method, ...] = METHODS
    refuses_links: bool = True  # leave links out that are off their rate; else their rows say so
    cell_s: float = 10.0  # what a cell takes as a rule

    @property
    def minutes(self) -> float:
        """A guess at what it will take."""
        models, links = len(self.models), len(self.links)
        return (links * 8 + models * (30 + 2 * self.profiling_s) + models * links * self.cell_s) / 60


QUICK = Setup(
    models=("efficientnet_lite0", "squeezenet1_1"),
    links=("1.1Mbps/10ms", "18.88Mbps/40ms", "50Mbps/10ms"),
    device_share=0.2,
    server_share=0.8,
    rounds=3,
    rivals=1,
    way_s=1.5,
    profiling_s=3.0,
    refuses_links=False,
    cell_s=10.0,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep; 0 when at least one cell was measured."""
    setup, options = _parse(argv)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    folder = options.resume or options.output or _RESULTS / f"sweep-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        known = Store(folder).load(vars(setup)) if options.resume else []
    except ValueError as wrong:
        _say(f"cannot go on: {wrong}")
        return 2
    _say(
        f"{len(setup.models)} models x {len(setup.links)} links = {len(setup.models) * len(setup.links)} cells, about "
        f"{setup.minutes:.0f} minutes; device {setup.device_share:g} and server {setup.server_share:g} of a core; "
        f"results in {folder}" + (f"; {len(known)} cells are there already" if known else "")
    )
    with tempfile.TemporaryDirectory(prefix="splitnn-sweep-") as scratch, contextlib.ExitStack() as stack:
        cells = Sweep(setup, folder, Path(scratch), stack, known=known).run()
    _say("\n" + (folder / "summary.txt").read_text())
    if options.json is not None:
        options.json.write_text((folder / "summary.json").read_text())
    return 0 if any(cell.chosen for cell in cells) else 1


@dataclass(frozen=True, slots=True)
class _Calibrated:
    shape: Shape
    is_calibrated: bool  # within 3 % of its rates


class Sweep:
    """Goes through models and links, and writes what is known after each cell."""

    def __init__(
        self, setup: Setup, folder: Path, scratch: Path, stack: contextlib.ExitStack, *, known: Sequence[Cell] = ()
    ) -> None:
        """Makes and calibrates the links; ``stack`` takes them down. ``known`` cells are not measured again."""
        self._cells = list(known)
        self._store = Store(folder)
        self._setup, self._folder, self._scratch = setup, folder, scratch
        self._started_s = time.monotonic()
        for name in remove_leftovers():
            _say(f"removed what a dead experiment left: {name}")
        shapes = sorted(map(shape_of, setup.links), key=lambda shape: (shape.rtt_s, shape.up_bps))
        self._link = stack.enter_context(emulated_link(shapes[0], methods=setup.methods))
        _say(f"link by {self._link.method}, which {self._link.cannot}")
        self._links = list(_calibrated(self._link, shapes, refuses=setup.refuses_links))
        self._application = stack.enter_context(
            Application(stack.enter_context(Host("application", link=self._link, side="device")))
        )
        self.about: dict[str, str] = {
            **{name: value for name, value in machine().items() if name != "load"},  # each cell has its own
            "processor": describe_machine()["processor"],
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **{name: metadata.version(name) for name in ("torchvision",)},
            "link_method": self._link.method,
            "device_share": f"{setup.device_share:g}",
            "server_share": f"{setup.server_share:g}",
            "content": ", ".join(setup.photos) or "the example that was profiled",
        }

    def run(self) -> list[Cell]:
        """All cells. A model that is not installed is left out, and said so."""
        for number, name in enumerate(self._setup.models):
            if not (links := self._links_left(name)):
                continue
            self._progress(number, f"{name}: capturing and profiling")
            try:
                subject = prepare(
                    name,
                    self._scratch,
                    codecs=self._setup.codecs,
                    profiling_s=self._setup.profiling_s,
                    photos=self._setup.photos,
                )
            except UnknownModel as missing:
                _say(f"left out: {missing}")
                continue
            self._run_model(subject, number, links)
        self._write()
        return self._cells

    def _links_left(self, model: str) -> list[_Calibrated]:
        """Those over which the model was not measured yet."""
        known = {str(cell.shape) for cell in self._cells if cell.model == model}
        return [link for link in self._links if str(link.shape) not in known]

    def _write(self) -> None:
        """Everything that is known so far, so that an interrupted sweep leaves what it measured."""
        cells = self._cells
        write_csv(self._folder / "rows.csv", rows_of(cells, self.about))
        write_csv(self._folder / "requests.csv", requests_of(cells))
        figures = headline(cells)
        (self._folder / "summary.txt").write_text("\n".join(summary_lines(cells, figures)) + "\n")
        report = {"about": self.about, "setup": vars(self._setup), "headline": figures}
        (self._folder / "summary.json").write_text(json.dumps(report, indent=1) + "\n")

    def _run_model(self, subject: Subject, number: int, links: Sequence[_Calibrated]) -> None:
        setup = self._setup
        error = "" if subject.profile.error is None else f", heads {subject.profile.error:.1%} off"
        self._progress(number, f"{subject.name}: {subject.profile.whole.cpu_s * 1e3:.1f} ms at full speed{error}")
        _set(self._link, links[0].shape)
        up = topology_of(links[0].shape).up[0]
        with Deployment(
            subject,
            self._link,
            device_share=setup.device_share,
            server_share=setup.server_share,
            codecs=setup.codecs,
            believed=f"{up.bandwidth_bps:.0f}bps/{2 * up.latency_s * 1e3:g}ms",
        ) as deployment:
            self.about["hosts_method"] = deployment.method
            planning = Planning(subject.model.graph, deployment.profiles, setup.codecs)
            ask = _asking(self._application, deployment.agent, subject)
            wait_for_cloud(ask)
            warm: set[str] = set()
            for link in links:
                cell = self._measure(subject, planning, ask, link, number, warm=warm)
                if not any(way.requests or way.degraded for way in cell.ways):
                    raise RuntimeError(f"no request of {subject.name} over {link.shape} was answered: {_failure(cell)}")
                self._cells.append(cell)
                self._store.add(cell, vars(setup))
                self._write()
        title = (
            f"{subject.name} ({subject.weights} weights), device {setup.device_share:g} of a core, server "
            f"{setup.server_share:g}, link by {self._link.method}, commit {self.about['commit']}"
        )
        own = [cell for cell in self._cells if cell.model == subject.name]
        draw_model(self._folder / f"{subject.name}.png", own, planning, title=title)

    def _measure(
        self,
        subject: Subject,
        planning: Planning,
        ask: Asking,
        link: _Calibrated,
        number: int,
        *,
        warm: set[str],
    ) -> Cell:
        setup, shape = self._setup, link.shape
        _set(self._link, shape)
        topology = topology_of(shape)
        rates = [each.shape.up_bps * PAYLOAD_SHARE for each in self._links]
        envelope = compute_envelope(
            planning.graph, planning.profiles, topology, codecs=setup.codecs, varying="both",
            low_bps=min(rates) / 2, high_bps=max(rates) * 2,
        )  # fmt: skip
        middle = sorted((each.shape for each in self._links), key=lambda each: (each.up_bps, each.rtt_s))
        static = planning.best(topology_of(middle[len(middle) // 2]))
        ways = ways_over(
            planning, topology, envelope=envelope, static=static, chain=planning.cut_vertices(), rivals=setup.rivals
        )
        measured = measure_cell(
            ask, planning, ways, shape,
            rounds=setup.rounds, way_s=setup.way_s, chance=random.Random(f"{subject.name} {shape}"), warm=warm,
        )  # fmt: skip
        cell = Cell(
            model=subject.name,
            shape=shape,
            is_calibrated=link.is_calibrated,
            ways=tuple(measured),
            load=os.getloadavg()[0],
            switches_bps=tuple(piece.high_bps / PAYLOAD_SHARE for piece in envelope.pieces()[:-1]),
            about=dict(self.about),
        )
        if (chosen := cell.chosen) and (oracle := cell.oracle):
            self._progress(
                number,
                f"{subject.name} {shape}: agent {chosen.p50_s * 1e3:.0f} ms (predicted "
                f"{chosen.number('predicted_s') * 1e3:.0f}), best of {len(measured)} {oracle.p50_s * 1e3:.0f}",
            )
        return cell

    def _progress(self, number: int, words: str) -> None:
        gone_s = time.monotonic() - self._started_s
        _say(f"[{gone_s:5.0f} s] {number + 1}/{len(self._setup.models)} {words}")


def _failure(cell: Cell) -> str:
    return next((failure for way in cell.ways for failure in way.failures), "none was sent")


def shape_of(text: str) -> Shape:
    """A link as text, whose rates count Ethernet frames."""
    up, down = parse_link(text)
    return Shape(up.bandwidth_bps, down.bandwidth_bps, rtt_s=up.latency_s + down.latency_s)


def _set(link: EmulatedLink, shape: Shape) -> None:
    link.set(up_bps=shape.up_bps, down_bps=shape.down_bps, rtt_s=shape.rtt_s)


def _calibrated(link: EmulatedLink, shapes: Sequence[Shape], *, refuses: bool) -> Iterator[_Calibrated]:
    """The links to sweep over; without those that are off where those are refused."""
    for shape in shapes:
        _set(link, shape)
        try:
            _say(f"  link {shape}: {calibrate(link)}")
        except LinkOffTarget as off:
            _say(f"  link {shape}: {off}; {'left out' if refuses else 'its rows say so'}")
            if not refuses:
                yield _Calibrated(shape, is_calibrated=False)
        else:
            yield _Calibrated(shape, is_calibrated=True)


def _asking(application: Application, agent: str, subject: Subject) -> Asking:
    def ask(plan: str, *, turn: int, deadline_s: float) -> dict[str, Any]:
        example = subject.examples[turn % len(subject.examples)]
        return application.ask(agent, subject.name, example=example, plan=plan, deadline_s=deadline_s)

    return ask


def _parse(argv: Sequence[str] | None) -> tuple[Setup, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bandwidth_sweep", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="two models, three links, about two minutes")
    parser.add_argument("--models", type=_words, metavar="A,B", help=f"of the zoo (default {','.join(_MODELS)})")
    parser.add_argument("--links", type=_words, metavar="A,B", help="such as 1.1Mbps/10ms,2Mbps:20Mbps/40ms")
    parser.add_argument("--device-share", type=float, metavar="X", help="of a core (default 0.1)")
    parser.add_argument("--server-share", type=float, metavar="X", help="of a core (default 1)")
    parser.add_argument("--codecs", type=_words, metavar="A,B", help=f"allowed (default {','.join(_CODECS)})")
    parser.add_argument("--rounds", type=int, metavar="N", help="requests of each way (default 5)")
    parser.add_argument("--rivals", type=int, metavar="N", help="best cuts elsewhere, for the oracle (default 3)")
    parser.add_argument("--profiling-s", type=float, metavar="S", help="for each model (default 10)")
    parser.add_argument("--photos", type=_words, metavar="A,B", help="requests carry these, not the profiled example")
    parser.add_argument("--methods", type=_words, metavar="A,B", help=f"of emulating the link: {', '.join(METHODS)}")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a folder of its own under experiments/results/")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="go on with the sweep in this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the headline figures there too")
    options = parser.parse_args(argv)
    given = {name: value for name, value in vars(options).items() if value is not None and name in vars(QUICK)}
    base = QUICK if options.quick else Setup()
    setup = Setup(**(vars(base) | given))
    try:
        _check(setup)
    except ValueError as wrong:
        parser.error(str(wrong))
    return setup, options


def _check(setup: Setup) -> None:
    """Raises ValueError for what cannot be swept."""
    for link in setup.links:
        shape_of(link)
    known = {entry.name for entry in zoo.models()}
    if unknown := [name for name in setup.models if name not in known]:
        raise ValueError(f"the zoo has no model {unknown[0]!r}; there are {', '.join(sorted(known))}")
    if unknown := [name for name in setup.methods if name not in METHODS]:
        raise ValueError(f"no link is emulated by {unknown[0]!r}; there are {', '.join(METHODS)}")
    if min(setup.device_share, setup.server_share, setup.rounds, setup.profiling_s) <= 0:
        raise ValueError("shares, rounds and seconds must be above 0")
    at_most = _CORES_FOR_SHARES * (os.cpu_count() or 1)
    if setup.device_share + setup.server_share > at_most:
        raise ValueError(f"the shares add up to more than {at_most:g} of this machine's {os.cpu_count()} cores")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
