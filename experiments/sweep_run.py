"""Goes through the models and links of a sweep, and writes what is known after each cell."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from experiments.machine import machine
from experiments.sweep_application import Application
from experiments.sweep_cells import Cell, topology_of
from experiments.sweep_cuts import Cuts
from experiments.sweep_deployment import Deployment, Subject, prepare
from experiments.sweep_figures import headline, notes_of
from experiments.sweep_measuring import Asking, Compiled, measure_cell, wait_for_cloud
from experiments.sweep_plots import draw_model
from experiments.sweep_report import requests_of, rows_of, summary_lines, write_csv
from experiments.sweep_setup import Setup
from experiments.sweep_store import Store
from experiments.sweep_ways import Planning, ways_over
from experiments.testbed import (
    EmulatedLink,
    Host,
    LinkOffTarget,
    Shape,
    calibrate,
    emulated_link,
    remove_leftovers,
    shape_of,
)
from experiments.virtual_clock import PAYLOAD_SHARE
from splitnn.cost.machine import describe_machine
from splitnn.errors import UnknownModel
from splitnn.planner.envelope import compute_envelope


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
            say(f"removed what a dead experiment left: {name}")
        self._asked = shapes = sorted(map(shape_of, setup.links), key=lambda shape: (shape.rtt_s, shape.up_bps))
        self._link = stack.enter_context(emulated_link(shapes[0], methods=setup.methods))
        say(f"link by {self._link.method}, which {self._link.cannot}")
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
                say(f"left out: {missing}")
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
            "notes": notes_of(cells),
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
            compiled, cuts = Compiled(), Cuts(planning)
            for link in links:
                cell = self._measure(subject, cuts, ask, link, number, compiled=compiled)
                self._cells.append(cell)
                if any(way.requests or way.degraded for way in cell.ways):
                    self._store.add(cell, vars(setup))
                else:  # not stored: --resume tries again
                    say(f"no request of {subject.name} over {link.shape} was answered: {_failure(cell)}")
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
        cuts: Cuts,
        ask: Asking,
        link: _Calibrated,
        number: int,
        *,
        compiled: Compiled,
    ) -> Cell:
        setup, shape, planning = self._setup, link.shape, cuts.planning
        _set(self._link, shape)
        topology = topology_of(shape)
        rates = [each.up_bps * PAYLOAD_SHARE for each in self._asked]
        envelope = compute_envelope(
            planning.graph, planning.profiles, topology, codecs=setup.codecs, varying="both",
            low_bps=min(rates) / 2, high_bps=max(rates) * 2,
        )  # fmt: skip
        middle = sorted(self._asked, key=lambda each: (each.up_bps, each.rtt_s))
        static = planning.best(topology_of(middle[len(middle) // 2]))
        ways = ways_over(planning, topology, envelope=envelope, static=static, chain=planning.cut_vertices())
        measured, survey = measure_cell(
            ask, planning, ways, shape,
            candidates=cuts.candidates(topology), within=setup.within, rounds=setup.rounds, way_s=setup.way_s,
            chance=random.Random(f"{subject.name} {shape}"), compiled=compiled,
        )  # fmt: skip
        cell = Cell(
            model=subject.name,
            shape=shape,
            is_calibrated=link.is_calibrated,
            ways=tuple(measured),
            load=os.getloadavg()[0],
            switches_bps=tuple(piece.high_bps / PAYLOAD_SHARE for piece in envelope.pieces()[:-1]),
            about=dict(self.about),
            survey=survey,
        )
        if (chosen := cell.chosen) and (oracle := cell.oracle):
            self._progress(
                number,
                f"{subject.name} {shape}: agent {chosen.p50_s * 1e3:.0f} ms (predicted "
                f"{chosen.number('predicted_s') * 1e3:.0f}), oracle {oracle.p50_s * 1e3:.0f} ({survey})",
            )
        return cell

    def _progress(self, number: int, words: str) -> None:
        gone_s = time.monotonic() - self._started_s
        say(f"[{gone_s:5.0f} s] {number + 1}/{len(self._setup.models)} {words}")


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
            say(f"  link {shape}: {calibrate(link)}")
        except LinkOffTarget as off:
            say(f"  link {shape}: {off}; {off_target}")
            if off_target == "labelled":
                yield _Calibrated(shape, is_calibrated=False)
        except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as failed:
            say(f"  link {shape}: {failed}; left out")
        else:
            yield _Calibrated(shape, is_calibrated=True)


def _asking(application: Application, agent: str, subject: Subject) -> Asking:
    def ask(plan: str, *, turn: int, deadline_s: float) -> dict[str, Any]:
        example = subject.examples[turn % len(subject.examples)]
        return application.ask(agent, subject.name, example=example, plan=plan, deadline_s=deadline_s)

    return ask


def say(text: str) -> None:
    print(text, flush=True)
