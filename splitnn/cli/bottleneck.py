"""``splitnn bottleneck``: versions of a model that send less at one place."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitnn.cli.progress import progress_bar
from splitnn.cli.sources import ANSWER_HELP, COSINE_HELP, MODEL_HELP, open_model
from splitnn.cost.accuracy import parse_share
from splitnn.errors import InfeasiblePlan

if TYPE_CHECKING:
    from splitnn.graph.model import Model
    from splitnn.graph.recipe import Drop

_DESCRIPTION = """\
Grow an encoder and a decoder into MODEL where it may be cut: what crosses is a small tensor of whole numbers, which
the codec `entropy` makes smaller still. No labels are needed: the answers of MODEL are the measure. What lies between
is fitted to one part of the data and judged on photos of another part; each step (of rounding) gives a version, a
folder under --out that says what it costs and is planned, served and checked like any model. The tensor at the cut is
float32: an image (N, C, H, W), tokens (N, T, C), a series (N, C, T) or features (N, C). What else crosses there, such
as the mask of the tokens, is sent as it is.

  splitnn bottleneck efficientnet_lite0 --cut classifier._blocks.4 --data photos --patch 2 --out versions
  splitnn bottleneck efficientnet_lite0 --cut classifier._blocks.7 --data photos --method learned --step 0.8 \\
      --minutes 20 --out versions

  transform   decorrelates, weighted by what the answer feels, and rounds: closed form, a minute
  learned     the same, then trained through the rest of the model, for --minutes or --batches
"""


def add_parser(subparsers: Any) -> None:
    """Add ``bottleneck`` to the command line."""
    parser = subparsers.add_parser(
        "bottleneck",
        help="make versions of a model that send less at one place",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--cut", metavar="NAME", required=True, help="a tensor, layer or module whose result crosses")
    parser.add_argument(
        "--data", metavar="DATA", required=True,
        help="folder of images, .safetensors file with the inputs, photos, or fashion-mnist",
    )  # fmt: skip
    parser.add_argument("--method", choices=("transform", "learned"), default="transform")
    parser.add_argument(
        "--step", metavar="S", action="append", type=_step, help="of rounding; repeat (default .35, .5, .7 and 1)"
    )
    parser.add_argument(
        "--patch",
        metavar="N",
        type=int,
        choices=(1, 2, 4),
        default=1,
        help="side of what is coded together, of tokens their number (default 1)",
    )
    parser.add_argument("--minutes", metavar="M", type=_step, default=10.0, help="of training a step (default 10)")
    parser.add_argument(
        "--batches", metavar="N", type=int, help="train for so many batches instead: repeatable to the last bit"
    )
    parser.add_argument("--count", metavar="N", type=int, default=800, help="samples to fit to (default 800)")
    parser.add_argument("--held-out", metavar="N", type=int, default=300, help="samples to judge by (default 300)")
    parser.add_argument("--answer", metavar="TENSOR", help=ANSWER_HELP)
    parser.add_argument("--cosine", metavar="C", type=float, help=COSINE_HELP)
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of samples and training (default 0)")
    parser.add_argument(
        "--max-accuracy-drop",
        metavar="SHARE",
        help="write only what loses at most this, such as 2%% (upper end of 95 %%)",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="where the versions' folders go")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit, judge, write."""
    limit = math.inf if args.max_accuracy_drop is None else parse_share(args.max_accuracy_drop)
    from splitnn.graph import package
    from splitnn.tuning.answers import answer_of
    from splitnn.tuning.bottleneck import cut_tensor
    from splitnn.tuning.evaluation import check_file
    from splitnn.tuning.fitting import ground, transform_versions
    from splitnn.tuning.training import by_clock, by_count, learned_versions
    from splitnn.zoo.datasets import samples

    model = open_model(args.model)
    tensor = cut_tensor(model, args.cut)
    answer = answer_of(model, args.answer, cosine=args.cosine)
    steps = args.step or [0.35, 0.5, 0.7, 1.0]
    targets = {step: args.out / f"{args.method}-{step:g}" for step in steps}
    if taken := [str(path) for path in targets.values() if path.exists()]:
        raise FileExistsError(f"{taken[0]} exists; give another --out")
    fit_to = samples(args.data, model, count=args.count, part="train", seed=args.seed)
    judge_by = samples(args.data, model, count=args.held_out, part="test", seed=args.seed)
    check_file(args.data, model)
    written: list[dict[str, Any]] = []
    missed: list[Drop] = []
    with progress_bar("running the model on the data") as progress:
        given = ground(model, tensor, fit_to=fit_to, judge_by=judge_by, answer=answer, progress=progress)
        if args.method == "transform":
            made = transform_versions(given, steps=steps, patch=args.patch, seed=args.seed, progress=progress)
        else:
            made = learned_versions(
                given,
                steps=steps,
                patch=args.patch,
                pace=lambda: by_clock(60 * args.minutes) if args.batches is None else by_count(args.batches),
                seed=args.seed,
                progress=progress,
            )
        for step, version in zip(steps, made, strict=True):
            recipe = version.recipe
            if recipe is None or recipe.drop is None:
                raise RuntimeError("defect: a version was not judged")
            if recipe.drop.high > limit:
                missed.append(recipe.drop)
                continue
            folder = package.save(version, targets[step])
            written.append({"folder": str(folder), "digest": version.digest, **_figures(version)})
            if not args.json:
                print(f"{folder}: {recipe}", flush=True)
    if args.json:
        print(json.dumps({"model": args.model, "tensor": tensor, "versions": written}))
    if missed and not written:
        nearest = min(missed, key=lambda drop: drop.high)
        raise InfeasiblePlan(
            f"no step loses at most {limit:.2%} for certain; the nearest loses {nearest}: give "
            "smaller ones (--step), or more samples to judge by (--held-out)"
        )
    return 0


def _figures(version: Model) -> dict[str, Any]:
    return {} if version.recipe is None else {"recipe": version.recipe.to_json()}


def _step(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number above 0")
    return number
