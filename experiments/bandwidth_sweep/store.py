"""What a sweep has measured, a line for each cell, written at once: an interrupted one goes on where it was."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.bandwidth_sweep.cells import Cell, Measured
from experiments.bandwidth_sweep.cuts import Survey
from experiments.emulation.shape import Shape
from splitnn.planner.plan import Plan

_FILE = "cells.jsonl"
MAY_DIFFER = ("models",)  # between the runs of one sweep; links decide the static cut and what the planner expects


class Store:
    """The cells of the sweep in one folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE

    @property
    def exists(self) -> bool:
        """Whether a sweep has begun here."""
        return self._path.is_file()

    def load(self, setup: Mapping[str, Any]) -> list[Cell]:
        """The cells of earlier runs, in their order; none when there were none. A last line that was cut off is none.

        Raises:
            ValueError: they were measured in another way than ``setup`` says, or a line is not one of a sweep's.
        """
        if not self.exists:
            return []
        cells = []
        for known, cell in self._lines():
            if different := [name for name, value in _fixed(setup).items() if known.get(name) != value]:
                raise ValueError(f"the cells in {self._path.parent} were measured with other {', '.join(different)}")
            cells.append(cell)
        return cells

    def setup(self) -> dict[str, Any]:
        """How the last cell was measured, by the names of a setup; nothing before there is one.

        Raises:
            ValueError: a line is not one of a sweep's.
        """
        setups = [known for known, _ in self._lines()]
        return setups[-1] if setups else {}

    def _lines(self) -> Iterator[tuple[dict[str, Any], Cell]]:
        for number, line in enumerate(_whole_lines(self._path.read_bytes()), 1):
            try:
                written = json.loads(line)
                yield dict(written["setup"]), _cell(written)
            except (ValueError, KeyError, TypeError) as wrong:
                raise ValueError(f"{self._path}, line {number}: not a cell of a sweep ({wrong!r})") from wrong

    def add(self, cell: Cell, setup: Mapping[str, Any]) -> None:
        """Write one more, in the place of a line that was cut off."""
        written = {
            "setup": _as_json(setup),
            "about": dict(cell.about),
            "model": cell.model,
            "shape": asdict(cell.shape),
            "is_calibrated": cell.is_calibrated,
            "load": cell.load,
            "switches_bps": cell.switches_bps,
            "notes": cell.notes,
            "survey": _plain(cell.survey) if cell.survey else None,
            "ways": [
                {
                    "plan": way.plan.to_json(),
                    "roles": way.roles,
                    "requests": way.requests,
                    "degraded": way.degraded,
                    "failures": way.failures,
                }
                for way in cell.ways
            ],
        }
        with self._path.open("ab") as file:
            if file.tell():
                file.truncate(sum(map(len, _whole_lines(self._path.read_bytes()))))
            file.write(json.dumps(written).encode() + b"\n")


def _whole_lines(text: bytes) -> list[bytes]:
    """With their ends; without a last line that has none, since its writer was killed."""
    return [line for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


def _fixed(setup: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in _as_json(setup).items() if name not in MAY_DIFFER}


def _as_json(setup: Mapping[str, Any]) -> dict[str, Any]:
    given_back: dict[str, Any] = json.loads(json.dumps(dict(setup)))
    return given_back


def _plain(survey: Survey) -> dict[str, Any]:
    """JSON has no infinity: None stands for it."""
    return asdict(survey) | {"within": survey.within if math.isfinite(survey.within) else None}


def _survey(written: Mapping[str, Any]) -> Survey:
    return Survey(**{**written, "within": math.inf if written["within"] is None else written["within"]})


def _cell(written: Mapping[str, Any]) -> Cell:
    return Cell(
        model=written["model"],
        shape=Shape(**written["shape"]),
        is_calibrated=written["is_calibrated"],
        ways=tuple(
            Measured(
                Plan.from_json(way["plan"]),
                tuple(way["roles"]),
                tuple(way["requests"]),
                tuple(way["degraded"]),
                tuple(way["failures"]),
            )
            for way in written["ways"]
        ),
        load=written["load"],
        switches_bps=tuple(written["switches_bps"]),
        notes=tuple(written["notes"]),
        about=written["about"],
        survey=_survey(written["survey"]) if written["survey"] else None,
    )
