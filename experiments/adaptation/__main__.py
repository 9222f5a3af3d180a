"""Does the agent keep up with a link that changes, and what is that worth beside a plan that stays?

``python -m experiments.adaptation`` runs the real agent and the real server as separate processes over an emulated
link that follows a bandwidth trace, a recording or a synthetic one, once for each way: the agent's own choice, both
ends, the best plan for the mean rate, and those that are best for longest. Every way meets the trace from its start.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.adaptation.passes import Pass
    from experiments.adaptation.setup import Setup

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: a share of a core is a share of one thread

_RESULTS = Path(__file__).parents[1] / "results"


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every trace was followed, 1 when one could not be, 130 on Ctrl-C, 143 on SIGTERM."""
    try:
        from experiments.adaptation.setup import parse  # importing torch takes seconds

        setup, options = parse(argv, description=(__doc__ or "").split("\n")[0])
        return _run(setup, output=options.output, file=options.json)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return 130


def _run(setup: Setup, *, output: Path | None, file: Path | None) -> int:
    from datetime import UTC, datetime

    import torch

    from experiments.adaptation.figures import figures_of, headline, table
    from experiments.adaptation.follow import follow, plans_of
    from experiments.adaptation.picture import draw_trace
    from experiments.bandwidth_sweep.deployment import prepare
    from experiments.leftovers import remove_leftovers, scratch_folder
    from experiments.machine import machine
    from splitnn.errors import SplitnnError

    torch.set_num_threads(1)
    folder = output or _RESULTS / f"adaptation-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    for name in remove_leftovers():
        _say(f"removed what a dead experiment left: {name}")
    _say(f"{len(setup.traces)} traces, about {setup.minutes:.0f} minutes; results in {folder}")
    by_trace: dict[str, dict[str, float | None]] = {}
    left_out: dict[str, str] = {}
    about = machine()
    with scratch_folder("adaptation") as scratch:
        _say(f"{setup.model}: capturing and profiling")
        subject = prepare(setup.model, scratch, codecs=setup.codecs, profiling_s=setup.profiling_s)
        for number, path in enumerate(setup.traces, 1):
            name, trace = Path(path).name, setup.trace(path)
            _say(f"{number}/{len(setup.traces)} {name}: mean {trace.mean_bps() / 1e6:.2f} Mbit/s")
            try:
                followed = follow(trace, subject, setup, say=_say)
            except (SplitnnError, RuntimeError, OSError, ValueError) as failure:
                left_out[name] = " ".join(str(failure).split())
                _say(f"left out: {name}: {left_out[name]}")
                continue
            by_trace[name] = figures_of(followed.passes, duration_s=setup.seconds)
            about["hosts_and_link"] = followed.method
            _write_requests(folder / f"{name}.csv", followed.passes)
            title = (
                f"{setup.model} ({subject.weights} weights) over {name}, commit {about['commit']}\n{followed.method}"
            )
            draw_trace(folder / f"{name}.png", trace, followed.passes, duration_s=setup.seconds, title=title)
            _say("\n".join(["", *table(followed.passes, plans_of(followed)), ""]))
    report = {
        "about": about,
        "setup": dataclasses.asdict(setup),
        "headline": headline(by_trace),
        "traces": by_trace,
        "left_out": left_out,
    }
    for destination in (folder / "summary.json", *([file] if file else ())):
        destination.write_text(json.dumps(report, indent=1) + "\n")
    for key, value in headline(by_trace).items():
        _say(f"{key:<29} {'-' if value is None else f'{value:.4g}'}")
    return 1 if left_out else 0


def _write_requests(path: Path, passes: Sequence[Pass]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["way", "sent_s", "latency_s", "held_s", "plan", "sent_bytes", "degraded", "lost"])
        rows.writerows([each.way, *dataclasses.astuple(asked)] for each in passes for asked in each.asked)


def _say(text: str) -> None:
    print(text, flush=True)


def _end(*_: object) -> None:
    raise SystemExit(143)  # so that everything is cleaned up


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
