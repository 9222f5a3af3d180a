"""What do early exits win, and against whom?

``python -m experiments.exits --quick --json FILE --plot FILE``. The network with three exits on Fashion-MNIST, between
a slow device and a server: accuracy against mean latency and bytes, over links and deadlines, for

ours       any of the exits, sample by sample, any cut, any codec that is accurate enough; chosen on held-out images
planned    what our planner says for each link and aim from the profile alone, its exits chosen as ours
no exits   the last exit for all samples, at the best cut with the best codec, the whole input as a file included
edgent     one exit for all samples, float32 tensors: Edgent's static map (Li et al. 2018)
spinn      one threshold for all exits, tensors of 8 bits through zstd (Laskaridis et al. 2020)
cascade    a small model on the device, unsure images go to the cloud as files (as axonmesh ended up)

Confidences, sizes, codec and stage times are measured, sample by sample; the link is a formula, and the device is this
machine slowed down. Rivals have the choice of cut that serves them best in the replay. One condition is run for real:
both programs, hosts with a share of a core, an emulated link (``--no-run`` leaves it out).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.exits.replay import Fixed, Outcome, Wire, best_in_time, in_time, late_share, replay
from experiments.exits.ways import DROP, KINDS, SLOWDOWN, Rival, Subject, planned, prepare, ways
from splitnn.cost.network import parse_link

LINKS = ("0.25Mbps/20ms", "1Mbps/20ms", "5Mbps/20ms", "50Mbps/10ms")
MORE_LINKS = ("0.1Mbps/40ms", "2Mbps/40ms", "20Mbps/5ms", "200Mbps/2ms")
DEADLINES_MS = (10, 12, 14, 16, 18, 20, 25, 30, 50, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{len(LINKS)} links instead of {len(LINKS + MORE_LINKS)}")
    parser.add_argument("--no-run", action="store_true", help="the replay alone, without starting the programs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the picture there, as PNG or SVG")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    say("measuring stages and codecs")
    subject = prepare()
    rivals = list(ways(subject))
    say(f"{len(rivals)} ways measured on {subject.data}")
    links = LINKS if arguments.quick else LINKS + MORE_LINKS
    known: dict[Hashable, Rival] = {}
    cells = [cell_of(subject, rivals, link, known) for link in links]
    found = report(subject, cells)
    print_cells(cells)
    print_headline(found)
    write(found, arguments.json)
    if arguments.plot:
        from experiments.exits.plot import draw

        draw(arguments.plot, found)
    if not arguments.no_run:
        found |= run(subject, cells)
        print_runs(found["runs"])
        write(found, arguments.json)


def run(subject: Subject, cells: Sequence[Cell]) -> dict[str, Any]:
    """What both programs do over real links; a machine that cannot keep one to what it is set to does not run."""
    from experiments.emulation.calibration import LinkOffTarget
    from experiments.exits.run import run_for_real

    try:
        runs = run_for_real(subject.model, subject.profile, subject.test, chosen_for_run(cells), slowdown=SLOWDOWN)
    except LinkOffTarget as error:
        say(f"not run for real: {error}")
        return {"runs": [], "not_run": str(error)}
    return {"runs": runs}


def write(found: Mapping[str, Any], file: Path | None) -> None:
    """The figures as JSON, which knows no infinity."""
    if file is not None:
        file.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Cell:
    """One link: of each kind what is chosen for latency, throughput and bytes, and for each deadline."""

    link: str
    alone: float  # accuracy of the last exit for all test images
    chosen: Mapping[str, Mapping[str, Outcome]]  # kind -> mean latency, throughput, the same with handling, or bytes
    deadlines: Mapping[int, Mapping[str, Outcome | None]]  # milliseconds -> kind
    followed: Outcome  # what the agent does by itself


def cell_of(subject: Subject, rivals: Sequence[Rival], link: str, known: dict[Hashable, Rival]) -> Cell:
    """Choose by held-out images, judge by test images."""
    up, down = parse_link(link)
    wire = Wire(up.bandwidth_bps, up.latency_s + down.latency_s)
    alone = next(float(r.held_out.right[-1].mean()) for r in rivals if r.kind == "no exits")  # the first is lossless
    by_kind: dict[str, list[tuple[Outcome, Outcome]]] = {kind: [] for kind in KINDS}
    for rival in (*rivals, *planned(subject, link, known)):
        pair = replay(rival.held_out, wire, subject.fixed), replay(rival.test, wire, subject.fixed)
        by_kind[rival.kind].append(pair)
    aims: dict[str, Callable[[Outcome], Any]] = {
        "latency": lambda each: each.mean_s,
        "throughput": lambda each: -each.throughput_rps,
        "served": lambda each: -each.served_rps,
        "bytes": lambda each: (each.track.is_local, each.mean_bytes, each.mean_s),
    }
    chosen: dict[str, dict[str, Outcome]] = {}
    for kind, pairs in by_kind.items():
        accurate = [pair for pair in pairs if pair[0].accuracy >= alone - DROP - 1e-12] or [
            max(pairs, key=lambda pair: pair[0].accuracy)
        ]
        chosen[kind] = {aim: min(accurate, key=lambda pair: worth(pair[0]))[1] for aim, worth in aims.items()}
    deadlines: dict[int, dict[str, Outcome | None]] = {}
    for deadline_ms in DEADLINES_MS:
        deadlines[deadline_ms] = {
            kind: for_deadline(kind, pairs, subject.fixed, deadline_s=deadline_ms * 1e-3)
            for kind, pairs in by_kind.items()
        }
    test_alone = next(float(r.test.right[-1].mean()) for r in rivals if r.kind == "no exits")
    return Cell(link, test_alone, chosen, deadlines, followed=by_kind["planned"][0][1])


def for_deadline(
    kind: str, pairs: Sequence[tuple[Outcome, Outcome]], fixed: Fixed, *, deadline_s: float
) -> Outcome | None:
    """The most accurate in time on held-out images; where that one is late on a test image it is late.

    Ours, and the planner's, answer from the last exit that was passed instead. They are chosen by what that gives.
    """
    if kind in ("ours", "planned"):
        pairs = [(in_time(a, fixed, deadline_s=deadline_s), in_time(b, fixed, deadline_s=deadline_s)) for a, b in pairs]
    best = best_in_time([held for held, _ in pairs], deadline_s=deadline_s)
    return None if best is None else next(test for held, test in pairs if held is best)


def chosen_for_run(cells: Sequence[Cell]) -> dict[str, float]:
    """Links on which both programs run, with the replay's mean seconds of the plan that the agent follows there."""
    return {cell.link: cell.followed.mean_s for cell in cells[1:2]}


def report(subject: Subject, cells: Sequence[Cell]) -> dict[str, Any]:
    """All figures, and the headline."""
    gains = {cell.link: gain_of(cell) for cell in cells}
    served = {kind: {cell.link: gain_of(cell, kind, served=True) for cell in cells} for kind in ("ours", "planned")}
    bytes_saved = {cell.link: saved_of(cell) for cell in cells}
    late = [
        late_share(each["ours"], deadline_s=ms * 1e-3)
        for cell in cells
        for ms, each in cell.deadlines.items()
        if any(late_share(other, deadline_s=ms * 1e-3) == 0 for other in each.values())
    ]
    aims = [(kind, aim) for kind in ("ours", "planned") for aim in ("throughput", "served")]
    drops = [cell.alone - cell.chosen[kind][aim].accuracy for cell in cells for kind, aim in aims]
    return {
        "throughput_gain": float(np.median(list(gains.values()))),
        "accuracy_drop_points": 100 * max(drops),
        "deadlines_missed_needlessly": round(sum(late) * len(subject.test)),
        "bytes_vs_cascade": float(np.median(list(bytes_saved.values()))),
        "throughput_gain_by_link": gains,
        "served_gain": float(np.median(list(served["ours"].values()))),
        "served_gain_by_link": served["ours"],
        "planned_served_gain": float(np.median(list(served["planned"].values()))),
        "planned_served_gain_by_link": served["planned"],
        "bytes_vs_cascade_by_link": bytes_saved,
        "deadlines_that_can_be_met": len(late),
        "data": subject.data,
        "slowdown": SLOWDOWN,
        "cells": [cell_to_json(cell) for cell in cells],
    }


def gain_of(cell: Cell, kind: str = "ours", *, served: bool = False) -> float:
    """In requests a second against the best without exits: of layers, codecs and bytes, or all of what is served."""
    if served:
        return cell.chosen[kind]["served"].served_rps / cell.chosen["no exits"]["served"].served_rps
    return cell.chosen[kind]["throughput"].throughput_rps / cell.chosen["no exits"]["throughput"].throughput_rps


def saved_of(cell: Cell) -> float:
    """The cascade's bytes over ours, the fewest of each where the last exit is in the cloud: a device without room."""
    ours, cascade = (cell.chosen[kind]["bytes"].mean_bytes for kind in ("ours", "cascade"))
    return cascade / ours


def cell_to_json(cell: Cell) -> dict[str, Any]:
    return {
        "link": cell.link,
        "accuracy_without_exits": cell.alone,
        "chosen": {kind: {aim: outcome_to_json(o) for aim, o in aims.items()} for kind, aims in cell.chosen.items()},
        "deadlines": {
            str(ms): {
                kind: {"accuracy": o.accuracy, "late": late_share(o, deadline_s=ms * 1e-3)} if o else None
                for kind, o in kinds.items()
            }
            for ms, kinds in cell.deadlines.items()
        },
    }


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    exits = len(outcome.track.thresholds)
    return {
        "way": outcome.track.name,
        "accuracy": outcome.accuracy,
        "mean_s": outcome.mean_s,
        "worst_s": outcome.worst_s,
        "throughput_rps": outcome.throughput_rps,
        "served_rps": outcome.served_rps,
        "mean_bytes": outcome.mean_bytes,
        "busy_s": list(outcome.busy_s),
        "left": [float((outcome.exit == at).mean()) for at in range(exits)],
    }


def print_cells(cells: Sequence[Cell]) -> None:
    for cell in cells:
        print(f"\n{cell.link}: the last exit alone {cell.alone:.2%}")
        print(f"  {'':9} {'accuracy':>8} {'mean ms':>8} {'worst':>7} {'bytes':>7}   {'req/s':>6} {'accuracy':>8}")
        for kind in KINDS:
            quick, many = cell.chosen[kind]["latency"], cell.chosen[kind]["throughput"]
            print(
                f"  {kind:9} {quick.accuracy:8.2%} {quick.mean_s * 1e3:8.2f} {quick.worst_s * 1e3:7.2f} "
                f"{quick.mean_bytes:7.0f}   {many.throughput_rps:6.0f} {many.accuracy:8.2%}  {quick.track.name}"
            )
        print(f"  in time within: {'  '.join(f'{ms:>6} ms' for ms in cell.deadlines)}")
        for kind in KINDS:
            row = [cell.deadlines[ms][kind] for ms in cell.deadlines]
            print(f"  {kind:13}   {'  '.join(f'{o.accuracy:9.2%}' if o else f'{chr(45):>9}' for o in row)}")


def print_runs(runs: Sequence[Mapping[str, Any]]) -> None:
    for run in runs:
        print(
            f"\nrun for real over {run['link']} ({run['method']}): {run['requests']} requests, accuracy "
            f"{run['accuracy']:.2%}, median {run['p50_s'] * 1e3:.1f} ms, mean {run['mean_s'] * 1e3:.1f} ms; "
            f"replayed {run['replayed_s'] * 1e3:.1f} ms; {run['other_exits']} took another exit"
        )


def print_headline(found: Mapping[str, Any]) -> None:
    keys = ("throughput_gain", "accuracy_drop_points", "deadlines_missed_needlessly", "bytes_vs_cascade")
    print("\n" + ", ".join(f"{key} {found[key]:.3g}" for key in (*keys, "served_gain", "planned_served_gain")))


def say(words: str) -> None:
    """Progress, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
