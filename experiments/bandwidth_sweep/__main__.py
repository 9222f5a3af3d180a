"""Is the cut that we choose the best one, what does splitting win or lose, and how far off are predictions?

``python -m experiments.bandwidth_sweep`` runs the real agent and the real server as separate processes over an
emulated, calibrated link, for every model and link, and measures the agent's own choice beside baselines and the
candidate cuts, all in turns. Under ``experiments/results/`` it leaves rows.csv (a row for each model, link and way),
requests.csv, a picture a model, summary.txt and summary.json. See experiments/README.md.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.bandwidth_sweep.setup import Setup

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a share of a core is a share of one thread

_RESULTS = Path(__file__).parents[1] / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep; 0 when at least one cell was measured, 130 on Ctrl-C, 143 on SIGTERM."""
    try:
        return _run(argv)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130


def _run(argv: Sequence[str] | None) -> int:
    # Importing torch takes seconds, in which Ctrl-C and SIGTERM are obeyed in order already.
    import contextlib
    import logging
    from datetime import UTC, datetime

    import torch

    from experiments.bandwidth_sweep.setup import parse

    setup, options = parse(argv, description=(__doc__ or "").split("\n")[0])
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    folder = options.resume or options.output or _RESULTS / f"sweep-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _sweep(setup, folder, figures_file=options.json)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty: something was measured
                folder.rmdir()


def _sweep(setup: Setup, folder: Path, *, figures_file: Path | None) -> int:
    import contextlib

    from experiments.bandwidth_sweep.run import Sweep, say
    from experiments.bandwidth_sweep.store import Store
    from experiments.leftovers import scratch_folder
    from experiments.machine import machine

    try:
        known = Store(folder).load(vars(setup))
    except ValueError as wrong:
        say(f"cannot go on: {wrong}")
        return 2
    there = sum(cell.model in setup.models for cell in known)
    say(
        f"{len(setup.models)} models x {len(setup.links)} links = {len(setup.models) * len(setup.links)} cells, about "
        f"{setup.minutes(known=there):.0f} minutes; device {setup.device_share:g} and server {setup.server_share:g} of "
        f"a core where this machine can limit them; results in {folder}"
        + (f"; {len(known)} cells are there already" if known else "")
    )
    if others := sorted({cell.about.get("commit", "unknown") for cell in known} - {machine()["commit"]}):
        say(f"these sources are {machine()['commit']}; cells that are there were measured at {', '.join(others)}")
    try:
        with scratch_folder("sweep") as scratch, contextlib.ExitStack() as stack:
            cells = Sweep(setup, folder, scratch, stack, known=known).run()
    except (KeyboardInterrupt, SystemExit) as end:
        say(f"interrupted; --resume {folder} goes on" if Store(folder).exists else "interrupted")
        if isinstance(end, SystemExit):
            raise
        return 130
    say("\n" + (folder / "summary.txt").read_text())
    if figures_file is not None:
        figures_file.write_text((folder / "summary.json").read_text())
    return 0 if any(cell.chosen for cell in cells) else 1


def _end(*_: object) -> None:
    raise SystemExit(143)  # so that everything is cleaned up


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
