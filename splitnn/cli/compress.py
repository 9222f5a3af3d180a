"""``splitnn compress``: a smaller or faster version of a model, with what it costs in accuracy."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from splitnn.cli.sources import ANSWER_HELP, COSINE_HELP, MODEL_HELP, open_model
from splitnn.errors import EngineMismatch

_DESCRIPTION = """\
Make a version of MODEL that is smaller or faster, measure on held-out data what that costs in accuracy (without labels:
in agreement with MODEL), and write it as a package that is checked, profiled, planned and served like any other.

int8      weights and tensors in eight bits, on ranges taken from the data: --engine onnxruntime or openvino computes
          in int8, at any cut; torch computes the same in floats, slower than MODEL; recurrent layers (LSTM, GRU) and
          embeddings have their weights in eight bits and compute in floats on every engine
int8-weights  weights only: a quarter of the bytes, at the speed of floats, on every engine
prune     whole channels are taken out until --flops of the operations are left, then --steps of distillation
distill   the model --into learns MODEL's answers, in its place: images are resized for it where it wants another size

With --until the layers before that tensor are compressed only, and the tail keeps its weights. The version is a model
of its own all the same: a head never meets a tail of another version. Exits keep their thresholds, and what they do in
the version is counted again on the held-out data.

  splitnn compress efficientnet_lite0 --data photos --method int8 --out models/efficientnet_lite0/2
  splitnn compress my.models:net --data fashion-mnist --method prune --flops 0.5 --out models/net/2
  splitnn compress efficientnet_lite2 --data photos --method distill --into efficientnet_lite0 --out models/small
"""
_RATE, _RATE_OF_STUDENTS = 3e-4, 3e-5  # at 3e-4 EfficientNet-Lite0 forgot more than it learned of its larger sister
_TO_LEARN_FROM, _FOR_RANGES = 512, 32  # more photos changed no ranges


def add_parser(subparsers: Any) -> None:
    """Add ``compress`` to the command line."""
    parser = subparsers.add_parser(
        "compress",
        help="make a smaller or faster version of a model",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--data", metavar="DIR|NAME", required=True, help="photos, fashion-mnist, a folder of images, or .safetensors"
    )
    parser.add_argument("--method", choices=("int8", "int8-weights", "prune", "distill"), required=True)
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the package; it must not exist yet")
    parser.add_argument("--until", metavar="TENSOR", default="", help="compress the layers before this tensor only")
    parser.add_argument("--flops", metavar="SHARE", type=_share, default=0.7, help="prune: to keep (default 0.7)")
    parser.add_argument("--into", metavar="MODEL", help="distill: the smaller model that learns")
    parser.add_argument("--steps", metavar="N", type=_count, default=200, help="of learning (default 200)")
    parser.add_argument(
        "--rate", metavar="R", type=float,
        help="of learning, at first (default 3e-4; distill: 3e-5, for a student that knows much already)",
    )  # fmt: skip
    parser.add_argument("--budget", metavar="SECONDS", type=float, default=600.0, help="learning ends then (600)")
    parser.add_argument(
        "--samples",
        metavar="N",
        type=_count,
        help="to learn from (default 512), or int8: to take ranges from (default 32)",
    )
    parser.add_argument("--held-out", metavar="N", type=_count, default=256, help="to judge by (default 256)")
    parser.add_argument("--answer", metavar="TENSOR", help=ANSWER_HELP)
    parser.add_argument("--cosine", metavar="C", type=float, help=COSINE_HELP)
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the recipe as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make it, measure it, write it."""
    from splitnn.graph import package
    from splitnn.tuning.answers import answer_of
    from splitnn.tuning.compress import (
        Judged,
        distilled_version,
        int8_version,
        int8_weights_version,
        logits_on,
        pruned_version,
        student_of,
        with_recipe,
    )
    from splitnn.tuning.drops import drop_figures
    from splitnn.tuning.evaluation import check_file
    from splitnn.tuning.int8 import left_in_floats
    from splitnn.tuning.learning import Lessons
    from splitnn.tuning.speed import in_onnxruntime, seconds_of
    from splitnn.zoo.datasets import samples

    if (args.method == "distill") != bool(args.into):
        raise ValueError("--method distill needs --into MODEL, and --into is for distill only")
    if args.until and args.method == "distill":
        raise ValueError("--until: a model that learns another one's answers shares no layer with it")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise FileExistsError(f"{args.out} exists; give a new folder")
    base = open_model(args.model)
    answer = answer_of(base, args.answer, cosine=args.cosine)
    student = student_of(base, open_model(args.into), answer) if args.into else None
    usual = _FOR_RANGES if args.method.startswith("int8") else _TO_LEARN_FROM
    count = usual if args.samples is None else args.samples
    train = samples(args.data, base, count=count, part="train", seed=args.seed)
    held_out = samples(args.data, base, count=args.held_out, part="test", seed=args.seed)
    check_file(args.data, base)
    rate = (_RATE_OF_STUDENTS if args.into else _RATE) if args.rate is None else args.rate
    lessons = Lessons(steps=args.steps, rate=rate, seed=args.seed, budget_s=args.budget)
    settings: dict[str, str | int | float] = {"data": args.data, "seed": args.seed}
    settings |= {"until": args.until} if args.until else {}
    figures: dict[str, float] = {}
    unmeasured: dict[str, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing", total=1.0)

        def progress(done: float, what: str) -> None:
            bar.update(task, completed=done, description=what)

        judged = Judged.by(base, held_out, answer=answer, progress=progress)
        if args.method == "int8":
            version = int8_version(base, train, until=args.until, progress=progress)
            settings |= {"samples": len(train)}
        elif args.method == "int8-weights":
            version = int8_weights_version(base, until=args.until)
        elif args.method == "prune":
            version = pruned_version(
                base,
                train,
                answer=answer,
                flops=args.flops,
                until=args.until,
                lessons=lessons,
                progress=progress,
            )
            settings |= {"flops": args.flops, "steps": args.steps, "rate": rate, "samples": len(train)}
        else:
            assert student is not None
            figures |= drop_figures("untaught", judged.drop(logits_on(student, held_out, answer, progress=progress)))
            version = distilled_version(base, student, train, answer=answer, lessons=lessons, progress=progress)
            settings |= {"into": student.digest, "steps": args.steps, "rate": rate, "samples": len(train)}
        progress(1.0, "measuring")
        figures |= seconds_of({"base_latency_s": base, "latency_s": version})
        try:
            figures |= in_onnxruntime(base, version, judged)
        except (ModuleNotFoundError, EngineMismatch) as error:
            unmeasured = {"onnxruntime": str(error)}
        made = with_recipe(version, base, judged, method=args.method, settings=settings, figures=figures)
    floats = left_in_floats(made) if args.method.startswith("int8") and not args.until else {}
    package.save(made, args.out)
    assert made.recipe is not None
    if args.json:
        print(
            json.dumps(
                {
                    "folder": str(args.out),
                    "digest": made.digest,
                    "recipe": made.recipe.to_json(),
                    "unmeasured": unmeasured,
                    "left_in_floats": floats,
                }
            )
        )
    else:
        print(f"{args.out}: {made.digest[:12]}\n  {made.recipe}")
        for layer, why in floats.items():
            print(f"  in floats as before: {layer} ({why})")
        for engine, why in unmeasured.items():
            print(f"  no figures of {engine}: {why}")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share between 0 and 1")
    return number
