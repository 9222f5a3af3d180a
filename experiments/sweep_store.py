"""What a sweep has measured, a line for each cell, written at once: an interrupted one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.shape import Shape
from experiments.sweep_cells import Cell, Measured
from splitnn.planner.plan import Plan

_FILE = "cells.jsonl"
_MAY_DIFFER = ("models", "links")  # between the runs of one sweep: what it covers, not how it is measured


class Store:
    """The cells of the sweep in one folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE

    def load(self, setup: Mapping[str, Any]) -> list[Cell]:
        """The cells of earlier runs, in their order; none when there were none. A line that was cut off is none.

        Raises:
            ValueError: they were measured in another way than ``setup`` says.
        """
        if not self._path.exists():
            return []
        cells = []
        for line in self._path.read_text().splitlines():
            try:
                written = json.loads(line)
            except ValueError:
                continue
            if different := [name for name, value in _fixed(setup).items() if written["setup"].get(name) != value]:
                raise ValueError(f"the cells in {self._path.parent} were measured with other {', '.join(different)}")
            cells.append(_cell(written))
        return cells

    def add(self, cell: Cell, setup: Mapping[str, Any]) -> None:
        """Write one more."""
        written = {
            "setup": _fixed(setup),
            "about": dict(cell.about),
            "model": cell.model,
            "shape": asdict(cell.shape),
            "is_calibrated": cell.is_calibrated,
            "load": cell.load,
            "switches_bps": cell.switches_bps,
            "notes": cell.notes,
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
        with self._path.open("a") as file:
            file.write(json.dumps(written) + "\n")


def _fixed(setup: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    known: dict[str, Any] = json.loads(json.dumps({k: v for k, v in setup.items() if k not in _MAY_DIFFER}))
    return known


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
    )
