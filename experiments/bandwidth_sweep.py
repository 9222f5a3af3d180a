"""Is the cut that we choose the best one, what does splitting win or lose, and how far off are predictions?

``python -m experiments.bandwidth_sweep`` runs the real agent and the real server as separate processes over an
emulated, calibrated link, for every model and link, and measures the agent's own choice beside baselines and rivals,
all in turns. Under ``experiments/results/`` it leaves rows.csv (a row for each model, link and way), requests.csv, a
picture a model, summary.txt and summary.json. See README.md beside this file.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a share of a core is a share of one thread

import torch

from experiments.calibration import LinkOffTarget, calibrate
from experiments.hosts import Host
from experiments.leftovers import scratch_folder
from experiments.leftovers import sweep as remove_leftovers
from experiments.links import emulated_link
from experiments.machine import machine
from experiments.shape import EmulatedLink, Shape
from experiments.sweep_application import Application
from experiments.sweep_cells import Asking, Cell, measure_cell, topology_of, wait_for_cloud
from experiments.sweep_deployment import Deployment, Subject, prepare
from experiments.sweep_plots import draw_model
from experiments.sweep_report import headline, requests_of, rows_of, summary_lines, without_choice, write_csv
from experiments.sweep_setup import Setup, parse, shape_of
from experiments.sweep_store import Store
from experiments.sweep_ways import Planning, ways_over
from experiments.virtual_clock import PAYLOAD_SHARE
from splitnn.cost.machine import describe_machine
from splitnn.errors import UnknownModel
from splitnn.planner.envelope import compute_envelope

logger = logging.getLogger(__name__)

_RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep; 0 when at least one cell was measured."""
    setup, options = parse(argv, description=(__doc__ or "").split("\n")[0])
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    folder = options.resume or options.output or _RESULTS / f"sweep-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        known = Store(folder).load(vars(setup))
    except ValueError as wrong:
        _say(f"cannot go on: {wrong}")
        return 2
    there = sum(cell.model in setup.models for cell in known)
    _say(
        f"{len(setup.models)} models x {len(setup.links)} links = {len(setup.models) * len(setup.links)} cells, about "
        f"{setup.minutes(known=there):.0f} minutes; device {setup.device_share:g} and server {setup.server_share:g} of "
        f"a core where this machine can limit them; results in {folder}"
        + (f"; {len(known)} cells are there already" if known else "")
    )
    if others := sorted({cell.about.get("commit", "unknown") for cell in known} - {machine()["commit"]}):
        _say(f"these sources are {machine()['commit']}; cells that are there were measured at {', '.join(others)}")
    try:
        with scratch_folder("sweep") as scratch, contextlib.ExitStack() as stack:
            cells = Sweep(setup, folder, scratch, stack, known=known).run()
    except KeyboardInterrupt:
        _say(f"interrupted; --resume {folder} goes on" if Store(folder).exists else "interrupted")
        return 130
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
        self._asked = shapes = sorted(map(shape_of, setup.links), key=lambda shape: (shape.rtt_s, shape.up_bps))
        self._link = stack.enter_context(emulated_link(shapes[0], methods=setup.methods))
        _say(f"link by {self._link.method}, which {self._link.cannot}")
        self._links = list(_calibrated(self._link, shapes, off_target=setup.off_target))
        self._application = stack.enter_context(
            Application(stack.enter_context(Host("application", link=self._link, side="device")))
        )
        self.about: dict[str, str] = {
            **{name: value for name, value in machine().items() if name != "load"},  # each cell has its own
            "processor": describe_machine()["processor"],
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "link_method": self._link.method,
            "device_share": f"{setup.device_share:g}",
            "server_share": f"{setup.server_share:g}",
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
        known = {cell.shape for cell in self._cells if cell.model == model}
        return [link for link in self._links if link.shape not in known]

    def _write(self) -> None:
        """Everything that is known so far, so that an interrupted sweep leaves what it measured."""
        cells = self._cells
        write_csv(self._folder / "rows.csv", rows_of(cells, self.about))
        write_csv(self._folder / "requests.csv", requests_of(cells, self.about))
        figures = headline(cells)
        (self._folder / "summary.txt").write_text("\n".join(summary_lines(cells, figures, self.about)) + "\n")
        report = {
            "about": self.about,
            "setup": vars(self._setup),
            "headline": figures,
            "without_choice": without_choice(cells),
        }
        (self._folder / "summary.json").write_text(json.dumps(report, indent=1) + "\n")

    def _run_model(self, subject: Subject, number: int, links: Sequence[_Calibrated]) -> None:
        setup = self._setup
        error = "" if subject.profile.error is None else f", heads {subject.profile.error:.1%} off"
        self._progress(number, f"{subject.name}: {subject.profile.whole.cpu_s * 1e3:.1f} ms at full speed{error}")
        _set(self._link, links[0].shape)
        topology = topology_of(links[0].shape)
        up, down = topology.up[0], topology.down[0]
        with Deployment(
            subject,
            self._link,
            device_share=setup.device_share,
            server_share=setup.server_share,
            codecs=setup.codecs,
            believed=f"{up.bandwidth_bps:.0f}bps:{down.bandwidth_bps:.0f}bps/{2 * up.latency_s * 1e3:g}ms",
        ) as deployment:
            self.about |= deployment.shares | {"hosts_method": deployment.method, "content": subject.content}
            planning = Planning(subject.model.graph, deployment.profiles, setup.codecs)
            ask = _asking(self._application, deployment.agent, subject)
            wait_for_cloud(ask)
            warm: set[str] = set()
            for link in links:
                cell = self._measure(subject, planning, ask, link, number, warm=warm)
                self._cells.append(cell)
                if any(way.requests or way.degraded for way in cell.ways):
                    self._store.add(cell, vars(setup))
                else:  # not stored: --resume tries again
                    _say(f"no request of {subject.name} over {link.shape} was answered: {_failure(cell)}")
                self._write()
        title = (
            f"{subject.name} ({subject.weights} weights), {deployment.method},\nlink by {self._link.method}, "
            f"commit {self.about['commit']}"
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
        rates = [each.up_bps * PAYLOAD_SHARE for each in self._asked]
        envelope = compute_envelope(
            planning.graph, planning.profiles, topology, codecs=setup.codecs, varying="both",
            low_bps=min(rates) / 2, high_bps=max(rates) * 2,
        )  # fmt: skip
        middle = sorted(self._asked, key=lambda each: (each.up_bps, each.rtt_s))
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


def _set(link: EmulatedLink, shape: Shape) -> None:
    link.set(up_bps=shape.up_bps, down_bps=shape.down_bps, rtt_s=shape.rtt_s)


def _calibrated(
    link: EmulatedLink, shapes: Sequence[Shape], *, off_target: Literal["left out", "labelled"]
) -> Iterator[_Calibrated]:
    """The links to sweep over; without those that nothing gets through, or whose rate this machine cannot make."""
    for shape in shapes:
        try:
            _set(link, shape)
            _say(f"  link {shape}: {calibrate(link)}")
        except LinkOffTarget as off:
            _say(f"  link {shape}: {off}; {off_target}")
            if off_target == "labelled":
                yield _Calibrated(shape, is_calibrated=False)
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as failed:
            _say(f"  link {shape}: {failed}; left out")
        else:
            yield _Calibrated(shape, is_calibrated=True)


def _asking(application: Application, agent: str, subject: Subject) -> Asking:
    def ask(plan: str, *, turn: int, deadline_s: float) -> dict[str, Any]:
        example = subject.examples[turn % len(subject.examples)]
        return application.ask(agent, subject.name, example=example, plan=plan, deadline_s=deadline_s)

    return ask


def _say(text: str) -> None:
    print(text, flush=True)


def _end(*_: object) -> None:
    raise SystemExit(143)  # so that everything is cleaned up


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
