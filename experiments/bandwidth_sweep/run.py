"""Goes through the models and links of a sweep, and writes what is known after each cell."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from experiments.bandwidth_sweep.application import Application
from experiments.bandwidth_sweep.cells import Cell, topology_of
from experiments.bandwidth_sweep.cuts import Cuts
from experiments.bandwidth_sweep.deployment import Deployment, Subject, prepare, profiles_of
from experiments.bandwidth_sweep.figures import headline, notes_of
from experiments.bandwidth_sweep.measuring import Asking, Compiled, measure_cell, wait_for_cloud
from experiments.bandwidth_sweep.plots import draw_model
from experiments.bandwidth_sweep.report import requests_of, rows_of, summary_lines, write_csv
from experiments.bandwidth_sweep.setup import Setup
from experiments.bandwidth_sweep.store import Store
from experiments.bandwidth_sweep.ways import Planning, ways_over
from experiments.emulation.virtual_clock import PAYLOAD_SHARE
from experiments.machine import machine
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
from splitnn.cost.machine import describe_machine
from splitnn.errors import SplitnnError
from splitnn.planner.envelope import compute_envelope

_LONGEST_REASON = 500  # characters, of why a model was left out


@dataclass(frozen=True, slots=True)
class _Calibrated:
    shape: Shape
    is_calibrated: bool  # within 3 % of its rates


class Sweep:
    """Goes through models and links, and writes what is known after each cell."""

    def __init__(
        self, setup: Setup, folder: Path, scratch: Path, stack: contextlib.ExitStack, *, known: Sequence[Cell] = ()
    ) -> None:
        """Makes the links, and calibrates those that are to be measured over; ``stack`` takes them down.

        ``known`` cells are not measured again.
        """
        self._cells = list(known)
        self._store = Store(folder)
        self._setup, self._folder, self._scratch = setup, folder, scratch
        self._started_s = time.monotonic()
        for name in remove_leftovers():
            say(f"removed what a dead experiment left: {name}")
        self._asked = shapes = sorted(map(shape_of, setup.links), key=lambda shape: (shape.rtt_s, shape.up_bps))
        self._link = stack.enter_context(emulated_link(shapes[0], methods=setup.methods))
        say(f"link by {self._link.method}, which {self._link.cannot}")
        needed = [shape for shape in shapes if any(self._lacks(name, shape) for name in setup.models)]
        self._links = list(_calibrated(self._link, needed, off_target=setup.off_target))
        self._host = stack.enter_context(Host("application", link=self._link, side="device"))
        self._application: Application | None = None  # there while a model is measured that needs it
        stack.callback(self._end_application)
        self._left_out: list[str] = []
        self.about: dict[str, str] = {
            **{name: value for name, value in machine().items() if name != "load"},  # each cell has its own
            "processor": describe_machine()["processor"],
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "link_method": self._link.method,
            "device_share": f"{setup.device_share:g}",
            "server_share": f"{setup.server_share:g}",
        }

    def run(self) -> list[Cell]:
        """All cells. A model that is not installed, or cannot be served, is left out or ended there, and said so."""
        for number, name in enumerate(self._setup.models):
            links = [link for link in self._links if self._lacks(name, link.shape)]
            is_drawn = (self._folder / f"{name}.png").exists() or not self._cells_of(name)
            if not links and is_drawn:
                continue
            try:
                self._run_model(name, number, links)
            except (SplitnnError, RuntimeError, OSError, subprocess.SubprocessError) as failure:
                self._left_out.append(f"{name}: {_on_one_line(failure)}")
                say(f"left out: {name}: {failure}")
                self._end_application()  # it may be what failed; the next model gets a fresh one
        self._write()
        return self._cells

    def _cells_of(self, model: str) -> list[Cell]:
        return [cell for cell in self._cells if cell.model == model]

    def _lacks(self, model: str, shape: Shape) -> bool:
        return all(cell.shape != shape for cell in self._cells_of(model))

    def _end_application(self) -> None:
        if self._application is not None:
            self._application.close()
            self._application = None

    def _write(self) -> None:
        """Everything that is known so far, so that an interrupted sweep leaves what it measured."""
        cells = self._cells
        write_csv(self._folder / "rows.csv", rows_of(cells, self.about))
        write_csv(self._folder / "requests.csv", requests_of(cells, self.about))
        figures = headline(cells)
        (self._folder / "summary.txt").write_text("\n".join(self._summary(figures)) + "\n")
        report = {
            "about": self.about,
            "setup": vars(self._setup),
            "headline": figures,
            "notes": notes_of(cells) | {"models_left_out": self._left_out},
        }
        (self._folder / "summary.json").write_text(json.dumps(report, indent=1) + "\n")

    def _summary(self, figures: Mapping[str, float | None]) -> list[str]:
        left_out = [f"left out: {why}" for why in self._left_out]
        return summary_lines(self._cells, figures, self.about) + [""] * bool(left_out) + left_out

    def _run_model(self, name: str, number: int, links: Sequence[_Calibrated]) -> None:
        """Measure the model over these links, if any, and draw all that is known of it."""
        setup = self._setup
        self._progress(number, f"{name}: capturing and profiling")
        subject = prepare(name, self._scratch, codecs=setup.codecs, profiling_s=setup.profiling_s, photos=setup.photos)
        if links:
            self._measure_model(subject, number, links)
        own = self._cells_of(name)
        about = own[-1].about
        server_share = 1.0 if about["server_share"] == "full speed" else setup.server_share
        profiles = profiles_of(subject, device_share=setup.device_share, server_share=server_share)
        title = (
            f"{name} ({subject.weights} weights), {about['hosts_method']},\nlink by {about['link_method']}, "
            f"commit {about['commit']}"
        )
        planning = Planning(subject.model.graph, profiles, setup.codecs)
        draw_model(self._folder / f"{name}.png", own, planning, title=title)

    def _measure_model(self, subject: Subject, number: int, links: Sequence[_Calibrated]) -> None:
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
            self._application = self._application or Application(self._host)
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


def _on_one_line(failure: Exception) -> str:
    return " ".join(str(failure).split())[:_LONGEST_REASON]


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
