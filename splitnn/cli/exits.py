"""``splitnn exits``: give a model exits, or a small model before it, and choose their thresholds on data."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitnn.cli.progress import progress_bar
from splitnn.cli.sources import MODEL_HELP, open_model
from splitnn.cost.accuracy import parse_share, policy_drop

if TYPE_CHECKING:
    from splitnn.graph.exits import Exits
    from splitnn.graph.model import Model
    from splitnn.graph.recipe import Drop
    from splitnn.zoo.datasets import Samples

_DESCRIPTION = """\
Early exits: outputs that answer when they are sure, so that the rest of the model does not run. Thresholds are chosen
on data so that accuracy falls by no more than you allow, and what the exits did there is written with the model, so
that `splitnn plan` knows how often each part runs. What counts is the upper end of the 95 % interval of the loss: few
samples allow little, and at 0% only exits answer that gain elsewhere what they lose. Without labels in the data,
accuracy is agreement with the model.

  splitnn exits efficientnet_lite0 --at classifier._blocks.8 --data photos --max-accuracy-drop 1% -o DIR
  splitnn exits efficientnet_lite2 --cascade efficientnet_lite0 --data photos --max-accuracy-drop 1% -o DIR
  splitnn exits fashion_exits --data fashion-mnist --max-accuracy-drop 0.5% -o DIR

The first trains a small head behind each layer, by distillation from the model itself; the second lets a small model
answer first, on the same input, resized where it is an image; the third has exits and only gets other thresholds.

With `--train joint` the layers beneath learn too, so that every exit answers what the model answered before
(BranchyNet's sum of losses, without labels). That is another version of the model: what its last exit lost is measured
and written with it, and so is how often each exit is right with frozen layers and without.

MODEL answers with logits (N, classes): a map or an embedding has no answer that one exit could be sure of.
"""


def add_parser(subparsers: Any) -> None:
    """Add ``exits`` to the command line."""
    parser = subparsers.add_parser(
        "exits",
        help="give a model early exits, or other thresholds",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--at",
        metavar="LAYER",
        action="append",
        default=[],
        help="attach an exit behind this layer or module; repeat",
    )
    kind.add_argument("--cascade", metavar="SMALL", help="a model that answers first")
    parser.add_argument(
        "--answer", metavar="TENSOR", help="the output that holds the model's logits, if it has several"
    )
    parser.add_argument(
        "--data", metavar="DATA", required=True,
        help="photos, fashion-mnist, a folder of images, or a .safetensors file; heads learn on one part of it, "
        "thresholds are chosen on the other",
    )  # fmt: skip
    parser.add_argument(
        "--max-accuracy-drop", metavar="SHARE", default="1%",
        help="what early exits may cost, upper end of 95 %%, as in 0.3%% (default 1%%)",
    )  # fmt: skip
    parser.add_argument(
        "--train", choices=("frozen", "joint"), default="frozen",
        help="whether the model's own layers stay as they are (default) or learn together with the exits",
    )  # fmt: skip
    parser.add_argument("--steps", metavar="N", type=int, default=400, help="of joint training (default 400)")
    parser.add_argument("--train-samples", metavar="N", type=int, default=4000, help="for the heads (default 4000)")
    parser.add_argument("--samples", metavar="N", type=int, default=4000, help="for the thresholds (default 4000)")
    parser.add_argument("--seed", metavar="N", type=int, default=0)
    parser.add_argument("-o", "--out", metavar="DIR", required=True, help="the package; it must not exist yet")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the exits, judge them, write the package."""
    from splitnn.graph import package
    from splitnn.tuning.evaluation import check_file
    from splitnn.zoo.datasets import samples

    max_drop = parse_share(args.max_accuracy_drop)
    if args.train == "joint" and args.steps < 1:
        raise ValueError(f"--train joint takes at least one step, not --steps {args.steps}")
    if (out := Path(args.out)).exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists; give a new folder")  # before anything takes time
    model = open_model(args.model)
    held_out = samples(args.data, model, count=args.samples, part="test", seed=args.seed)
    check_file(args.data, model)
    train = held_out
    if args.at or args.train == "joint":
        train = samples(args.data, model, count=args.train_samples, part="train", seed=args.seed)
    if args.at:
        from splitnn.tuning.exit_heads import attach_exits

        made = attach_exits(
            model,
            at=args.at,
            train=train,
            held_out=held_out,
            answer=args.answer,
            max_drop=max_drop,
            seed=args.seed,
        )
    else:
        made = _calibrated(args, model, held_out, max_drop=max_drop)
    if args.train == "joint":
        made = _trained(args, made, train, held_out, base=model.digest, max_drop=max_drop)
    folder = package.save(made, args.out)
    exits = made.exits
    assert exits is not None  # both ways end in calibrate_exits
    if args.json:
        print(json.dumps({"folder": str(folder), "digest": made.digest, "exits": _json(exits), **_recipe_json(made)}))
    else:
        print("\n".join([f"{folder}: digest {made.digest[:12]}", *_report(exits), *_gains(made)]))
    return 0


def _trained(
    args: argparse.Namespace, model: Model, train: Samples, held_out: Samples, *, base: str, max_drop: float
) -> Model:
    """The model with its exits after all of it learned what its last exit answered."""
    from splitnn.tuning.joint import LESSONS, train_jointly

    lessons = replace(LESSONS, steps=args.steps, seed=args.seed)
    with progress_bar("training") as progress:
        return train_jointly(
            model, train=train, held_out=held_out, base=base, max_drop=max_drop, lessons=lessons, progress=progress
        )


def _recipe_json(model: Model) -> dict[str, Any]:
    return {} if model.recipe is None else {"recipe": model.recipe.to_json()}


def _gains(model: Model) -> list[str]:
    """What joint training did to each exit; nothing to say of a model that was not trained."""
    recipe = model.recipe
    if recipe is None or recipe.method != "joint" or model.exits is None:
        return []
    lines = ["trained jointly; right alone, before and after"]
    for each in model.exits.exits:
        before, after = (recipe.figures.get(f"{each.name}_right{which}", math.nan) for which in ("_frozen", ""))
        lines.append(f"  {each.name}  {before:.1%}  {after:.1%}")
    return [*lines, f"its last exit loses {recipe.drop} by it"]


def _calibrated(args: argparse.Namespace, model: Model, held_out: Samples, *, max_drop: float) -> Model:
    """The model with its own exits, or with a small one before it, and new thresholds."""
    from splitnn.tuning.confidence import calibrate_exits, recipe_of_exits

    if args.cascade:
        from splitnn.graph.cascade import cascade

        both, outputs = cascade(open_model(args.cascade), model)
        exits = calibrate_exits(both, outputs, held_out, max_drop=max_drop)
        return replace(both, exits=exits, recipe=recipe_of_exits(model, exits))
    if model.exits is None:
        raise ValueError(f"{args.model} has no exits: say where to attach them (--at LAYER), or give a --cascade")
    outputs = {each.name: each.output for each in model.exits.exits}
    return replace(model, exits=calibrate_exits(model, outputs, held_out, max_drop=max_drop))


def _json(exits: Exits) -> dict[str, Any]:
    return exits.to_json() | {
        "samples": exits.samples,
        "left": list(exits.left),
        "right": list(exits.right),
        "right_alone": list(exits.right_alone),
        "reach": list(exits.reach),
        "accuracy": exits.accuracy,
        "loss": asdict(_loss(exits)),
    }


def _loss(exits: Exits) -> Drop:
    return policy_drop(exits, [each.name for each in exits.exits])


def _report(exits: Exits) -> list[str]:
    """One line an exit, and what all together do."""
    judged = "right" if exits.against == "labels" else "as the model"
    width = max(len(each.name) for each in exits.exits)
    lines = [f"{exits.samples} samples of {exits.data}"]
    for each, left, right, alone in zip(exits.exits, exits.left, exits.right, exits.right_alone, strict=True):
        there = f"{right / left:.1%} of them {judged}" if left else "none"
        lines.append(
            f"  {each.name:<{width}}  answers {left / exits.samples:6.1%}, {there}; from confidence "
            f"{each.threshold:.3f} at temperature {each.temperature:.2f}; alone {alone / exits.samples:.1%} {judged}"
        )
    last = exits.right_alone[-1] / exits.samples
    lines.append(f"together {exits.accuracy:.2%} {judged}, the last exit alone {last:.2%}: loses {_loss(exits)}")
    if not any(exits.left[:-1]):
        lines.append("no exit answers early: allow more (--max-accuracy-drop), or give more --samples")
    return lines
