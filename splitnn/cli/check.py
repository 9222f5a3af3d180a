"""``splitnn check``: prove that a model can be cut."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from splitnn.cli.sources import MODEL_HELP, open_model

if TYPE_CHECKING:
    from splitnn.runtime.verify import Verdict

_DESCRIPTION = """\
Capture MODEL, then run head and tail as separate stages at every cut of one topological order, and at random
closed cuts of its graph, and compare with the whole model bit for bit. Cuts of the order are sampled evenly where
all of them would take longer than --budget. Exit status 1 when any cut differs.

  splitnn check resnet18
  splitnn check my_package.my_module:make_model --cuts 100 --json
"""


def add_parser(subparsers: Any) -> None:
    """Add ``check`` to the command line."""
    parser = subparsers.add_parser(
        "check",
        help="prove that a model can be cut",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--cuts", metavar="N", type=_count, default=20, help="random closed cuts (default 20)")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the random cuts (default 0)")
    parser.add_argument(
        "--budget", metavar="SECONDS", type=_seconds, default=120.0, help="for the cuts, not the capture (default 120)"
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 when every cut is bit-identical, else 1."""
    import torch

    from splitnn.graph.program import is_random
    from splitnn.runtime.verify import check

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what a cut must not change includes the number of threads
    try:
        model = open_model(args.model)
        columns = (TextColumn("checking cuts"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(file=sys.stderr)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("cuts", total=None)
            verdict = check(
                model,
                random_cuts=args.cuts,
                seed=args.seed,
                budget_s=args.budget,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    finally:
        torch.set_num_threads(threads)
    if args.json:
        found = asdict(verdict) | {"model": args.model, "digest": model.digest, "passed": verdict.passed}
        recipe = model.recipe.to_json() if model.recipe else None
        print(json.dumps(found | {"eager_difference": model.eager_difference, "recipe": recipe}))
    else:
        print(_report(args.model, model.digest, model.eager_difference, verdict))
        if model.recipe is not None:
            print(f"made by {model.recipe}")
        drawn = [layer.name for layer in model.graph.layers if is_random(layer.op)]
        if drawn and not verdict.passed:
            print(f"the model draws random numbers ({', '.join(drawn[:5])}): no two runs of it agree")
    return 0 if verdict.passed else 1


def _report(name: str, digest: str, eager_difference: float, verdict: Verdict) -> str:
    order = f"all {verdict.prefix_cuts}" if verdict.all_prefix_cuts else f"{verdict.prefix_cuts}, sampled evenly,"
    tried = f"{order} of the topological order and {verdict.random_cuts} random (seed {verdict.seed})"
    lines = [
        f"{name} ({digest[:12]}): {verdict.layers} layers",
        f"  cuts tried          {tried}",
        f"  crossing tensors    {verdict.most_crossing} at most",
        f"  worst difference    {verdict.worst_difference:g} (head + tail against the whole)",
        f"  capture             differs from the module by {eager_difference:g}",
        f"  seconds             {verdict.seconds:.1f}",
    ]
    if verdict.passed:
        lines.append("every cut is bit-identical to the whole model")
    else:
        places = ", ".join(verdict.different[:5]) + (" ..." if len(verdict.different) > 5 else "")
        lines.append(f"{len(verdict.different)} cuts DIFFER: after {places}")
    return "\n".join(lines)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return seconds


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number
