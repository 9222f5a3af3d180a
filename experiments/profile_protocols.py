"""Where should the profile of a device with a share of a core come from?

``python -m experiments.profile_protocols --models efficientnet_lite0 --device-share 0.1`` profiles each model twice, at
full speed by CPU time (divided by the share afterwards) and inside the quota by the wall clock, and compares what both
say of the heads at some cuts with how long these take inside the quota.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch

import torch

import splitnn
from experiments.emulation.control import Lines, SteeredProgram, say
from experiments.testbed import Host
from splitnn import zoo
from splitnn.cost.bench import ModelBench
from splitnn.cost.profile import Profile
from splitnn.graph.model import Model

_CUTS, _REPEATS = 8, 9
_PROJECT_ROOT = Path(__file__).resolve().parent.parent


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line a model."""
    parser = argparse.ArgumentParser(prog="python -m experiments.profile_protocols", description=__doc__)
    parser.add_argument("--models", default="efficientnet_lite0,squeezenet1_1", metavar="A,B")
    parser.add_argument("--device-share", type=float, default=0.1, metavar="X")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--inside", nargs=2, metavar=("MODEL", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.inside:
        _measure_inside(options.inside[0], Path(options.inside[1]))
        return
    print(f"{'model':<20} {'protocol':<26} {'took':>6}  error of heads: median, worst")
    found = {name: compare(name, options.device_share) for name in options.models.split(",")}
    if options.json:
        options.json.write_text(json.dumps({"share": options.device_share, "models": found}, indent=1) + "\n")


def compare(name: str, share: float) -> dict[str, dict[str, float]]:
    """Median and worst relative error of predicted heads, by protocol."""
    model = splitnn.capture(*zoo.load(name))
    started_s = time.monotonic()
    outside = splitnn.profile(model).scaled(1 / share)
    took_s = {"full speed, CPU time": time.monotonic() - started_s}
    with tempfile.TemporaryDirectory(prefix="splitnn-profile-") as scratch, Host("device", cpu_share=share) as device:
        if device.slowdown != 1:
            raise SystemExit("this experiment needs control groups: without them there is no quota to be inside of")
        file = Path(scratch, "inside.json")
        command = [sys.executable, "-m", "experiments.profile_protocols", "--inside", name, str(file)]
        with device.full_speed():
            process = SteeredProgram(command, start=device.start, start_limit_s=120.0, cwd=_PROJECT_ROOT)
        with process:
            answer = process.ask({"do": "measure"}, limit_s=580.0)
        inside = Profile.from_json(json.loads(file.read_text()))
    took_s["inside the quota, wall time"] = answer["took_s"]
    heads_s = {int(position): seconds for position, seconds in answer["heads_s"].items()}
    errors = {}
    for (protocol, seconds), profile in zip(took_s.items(), (outside, inside), strict=True):
        each = [abs(_head_s(model, profile, at) / measured_s - 1) for at, measured_s in heads_s.items()]
        errors[protocol] = {"median": statistics.median(each), "worst": max(each), "took_s": seconds}
        print(
            f"{name:<20} {protocol:<26} {seconds:4.0f} s  {statistics.median(each):6.1%} {max(each):6.1%}", flush=True
        )
    return errors


def _head_s(model: Model, profile: Profile, position: int) -> float:
    return sum(profile.seconds(layer.name) for layer in model.graph.layers[:position])


def _measure_inside(name: str, file: Path) -> None:
    """Be ready at full speed, then measure when told to: by then the quota holds."""
    model = splitnn.capture(*zoo.load(name))
    say({"ready": True})
    lines = Lines()
    while piece := os.read(0, 4096):
        for _ in lines.feed(piece):
            started_s = time.monotonic()
            file.write_text(json.dumps(splitnn.profile(model, clock="wall").to_json()))
            took_s = time.monotonic() - started_s
            bench, layers = ModelBench(model), len(model.graph)
            cuts = sorted({max(1, round(layers * cut / _CUTS)) for cut in range(1, _CUTS + 1)})
            heads_s = {cut: statistics.median(bench.head(cut).wall_s for _ in range(_REPEATS)) for cut in cuts}
            say({"took_s": took_s, "heads_s": heads_s})


if __name__ == "__main__":
    main()
