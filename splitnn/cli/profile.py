"""``splitnn profile``: measure every layer of a model on this machine."""

from __future__ import annotations

import argparse
import errno
import json
import math
import os
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from splitnn.cli.blocks import blocks_of
from splitnn.cli.sources import MODEL_HELP, open_model
from splitnn.cost.network import Host
from splitnn.cost.profile import Profile
from splitnn.cost.profile_file import write_profile
from splitnn.runtime.settings import SERVING_ENGINES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from splitnn.graph.graph import Graph
    from splitnn.transport.codec import Codec

_SLOWEST = 10
_BUSY = 0.1

_DESCRIPTION = """\
Measure how long every layer of MODEL takes on this machine, and every codec on every tensor, and write it to FILE
for `splitnn plan`. Takes about ten seconds, up to a minute for large models. Layer times alone do not add up, so whole
heads are measured too, and the error at cuts that were not used is printed and kept.

  splitnn profile efficientnet_lite0 -o cloud.json --host cloud
  splitnn profile efficientnet_lite0 -o device.json --host device --slowdown 8    (a simulated slow device)
"""


def add_parser(subparsers: Any) -> None:
    """Add ``profile`` to the command line."""
    parser = subparsers.add_parser(
        "profile",
        help="measure every layer of a model on this machine",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the profile, as JSON")
    parser.add_argument("--host", metavar="NAME", default="device", help="name of this machine (default device)")
    parser.add_argument("--threads", metavar="N", type=_count, default=1, help="torch's threads (default 1)")
    parser.add_argument(
        "--repeats", metavar="N", type=_count, default=15, help="readings of each stage, at most (default 15)"
    )
    parser.add_argument(
        "--budget", metavar="SECONDS", type=_positive, default=10.0,
        help="large models get fewer readings, so that they take about so long (default 10)",
    )  # fmt: skip
    parser.add_argument(
        "--slowdown", metavar="X", type=_positive, default=1.0,
        help="multiply every time, to stand for a slower host; an agent emulates it if told the same --slowdown",
    )  # fmt: skip
    parser.add_argument(
        "--clock", choices=("cpu", "wall"),
        help="what plans use: CPU time (default for one thread: it repeats on a busy machine) or wall time",
    )  # fmt: skip
    parser.add_argument(
        "--torch-device", metavar="DEVICE", type=_torch_device, default="cpu", help="cpu (default), cuda or cuda:N"
    )
    parser.add_argument(
        "--engine", choices=SERVING_ENGINES, default="torch",
        help="what will run the stages (default torch); with another one plans are not bit-exact: their mode is fast",
    )  # fmt: skip
    parser.add_argument(
        "--codecs",
        metavar="NAMES",
        default="usual",
        help="codecs to measure, comma-separated (usual,even2); usual (default), all (slow) or none",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and write the file."""
    Host(args.host)  # a bad name is told before anything is measured, and so is a file that cannot be written
    if not args.output.absolute().parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(args.output.parent))
    if args.output.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(args.output))
    codecs = _codecs(args.codecs)
    from splitnn.cost.profiler import profile
    from splitnn.runtime.engines.serving import compile_on
    from splitnn.runtime.handling import with_handling

    if args.engine != "torch" and args.torch_device != "cpu":
        raise ValueError(f"--engine {args.engine} computes on the CPU; --torch-device is {args.torch_device}")
    compile = compile_on(args.engine)

    model = open_model(args.model)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=1.0)
        found = profile(
            model,
            host=args.host,
            codecs=codecs,
            repeats=args.repeats,
            budget_s=args.budget,
            threads=args.threads,
            device=args.torch_device,
            clock=args.clock,
            slowdown=args.slowdown,
            engine=args.engine,
            compile=compile,
            progress=lambda done, what: bar.update(task, completed=done, description=what),
        )
        found = with_handling(found)
        found = replace(found, machine={**found.machine, "named": args.model})  # which `splitnn predict` opens again
    write_profile(args.output, found)
    blocks = _block_seconds(found, model.graph)
    if args.json:
        print(json.dumps(_summary(found, args, blocks)))
    else:
        print(_report(found, args, blocks))
    if found.drift > _BUSY:
        print(
            f"warning: the machine was busy; its speed changed by {found.drift:.0%} during every attempt. "
            "Measure again when it is calm.",
            file=sys.stderr,
        )
    return 0


def _codecs(names: str) -> dict[str, Codec]:
    from splitnn.transport.codec import CODECS, USUAL, codec

    several: dict[str, Mapping[str, Codec]] = {"all": CODECS, "usual": USUAL, "none": {}}
    found: dict[str, Codec] = {}
    for name in names.split(","):
        found |= several[name] if name in several else {name: codec(name)}
    return found


def _block_seconds(found: Profile, graph: Graph) -> list[tuple[str, float, int]]:
    """Name, seconds and layers of each block, the slowest first."""
    blocks = blocks_of(graph)
    seconds: Counter[str] = Counter()
    for layer, block in blocks.items():
        seconds[block] += found.seconds(layer)  # type: ignore[assignment]  # a Counter adds floats as well
    layers = Counter(blocks.values())
    return [(block, time, layers[block]) for block, time in seconds.most_common()]


def _summary(found: Profile, args: argparse.Namespace, blocks: list[tuple[str, float, int]]) -> dict[str, Any]:
    return {
        "file": str(args.output),
        "model": args.model,
        "digest": found.model,
        "host": found.host,
        "clock": found.clock,
        "engine": found.engine,
        "layers": len(found.layers),
        "whole": {"wall_s": found.whole.wall_s, "cpu_s": found.whole.cpu_s, "spread_s": found.whole.spread_s},
        "error": found.error,
        "tail_error": found.tail_error,
        "drift": found.drift,
        "machine": dict(found.machine),
        "blocks": [{"name": name, "seconds": seconds, "layers": layers} for name, seconds, layers in blocks],
    }


def _report(found: Profile, args: argparse.Namespace, blocks: list[tuple[str, float, int]]) -> str:
    planned = found.whole.cpu_s if found.clock == "cpu" else found.whole.wall_s
    simulated = found.machine.get("simulated_slowdown")
    lines = [
        f"{args.model} ({found.model[:12]}) on {found.host}: {len(found.layers)} layers in {found.engine}, "
        f"{'one thread' if found.threads == 1 else f'{found.threads} threads'}, {found.machine['repeats']} rounds",
        f"  whole model         {planned * 1e3:.2f} ms {found.clock} time, spread {found.whole.spread_s * 1e3:.2f} ms"
        + (f", simulated {simulated} times slower than this machine" if simulated else ""),
        f"  prediction error    {_percent(found.error)} of heads, {_percent(found.tail_error)} of tails, "
        "at cuts that were not used",
        f"  drift               {found.drift:.1%} from before to after",
        f"slowest blocks of {len(blocks)}",
    ]
    width = max(len(name) for name, _, _ in blocks[:_SLOWEST]) if blocks else 0
    lines += [
        f"  {name:<{width}}  {seconds * 1e3:9.3f} ms  {seconds / planned if planned else 0:6.1%}  {_layers(layers)}"
        for name, seconds, layers in blocks[:_SLOWEST]
    ]
    return "\n".join([*lines, f"wrote {args.output}"])


def _layers(count: int) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _percent(error: float | None) -> str:
    return "unknown (too few layers)" if error is None else f"{error:.1%}"


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _torch_device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,3})?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither cpu nor cuda nor cuda:N")
    return text


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number above 0")
    return number
