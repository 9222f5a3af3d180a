"""``splitnn predict``: the profile of a model on a host where only others were measured."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from splitnn.cli.sources import MODEL_HELP, open_model, open_profile
from splitnn.cost.network import Host
from splitnn.cost.profile_file import write_profile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from splitnn.cost.predict import HeldOut, Sample
    from splitnn.cost.profile import Profile

_DESCRIPTION = """\
Predict what the layers of MODEL take on a host without running it there, from profiles of other models that were
measured there: a regression of layer times on operators, products, bytes and weights. Each of those models is also
predicted from the rest; how far off that is tells what to expect, and the profile states it as its error.

  splitnn predict mobilenet_v2 --like resnet18-pi.json,squeezenet1_1-pi.json,mnasnet1_0-pi.json -o mobilenet_v2-pi.json
  splitnn predict mobilenet_v2 --like resnet18=old.json --like mnasnet1_0-pi.json --reference mobilenet_v2-cloud.json \\
      -o mobilenet_v2-pi.json

Choose models with the kinds of layers that MODEL has; three or more. Codecs are known only with --reference.
"""


def add_parser(subparsers: Any) -> None:
    """Add ``predict`` to the command line."""
    parser = subparsers.add_parser(
        "predict",
        help="predict a profile from other models' profiles of the same host",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--like", metavar="FILES", action="append", required=True,
        help="profiles of other models on that host, comma-separated; one that does not know its model's name is given "
        "as MODEL=FILE; repeat",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="where to write the profile")
    parser.add_argument("--host", metavar="NAME", help="the host's name in it (default: that of the profiles)")
    parser.add_argument(
        "--reference", metavar="FILE",
        help="a measured profile of MODEL on another host, which lends the codecs, slower by as much as the model is",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the errors of the models held out as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fit, judge, predict and write the file."""
    if args.host is not None:
        Host(args.host)  # a bad name is told before anything takes time
    files = [part for text in args.like for part in text.split(",")]
    opened = [_open(text) for text in files]
    reference = None if args.reference is None else open_profile(args.reference)
    from splitnn.cost.borrowed import borrow
    from splitnn.cost.predict import fit, held_out_error

    model = open_model(args.model)
    samples = _samples(opened, model.digest)
    held_out = held_out_error(samples) if len(samples) > 1 else []
    predicted = fit(samples).predict(model.graph, model=model.digest, host=args.host)
    if reference is not None:
        predicted = borrow(predicted, reference)
    predicted = replace(predicted, machine={**predicted.machine, "named": args.model})
    write_profile(args.output, predicted)
    names = [name for name, _ in opened]
    if args.json:
        print(json.dumps(_to_json(args, predicted, names, held_out)))
    else:
        _print(args, predicted, names, held_out)
    return 0


def _open(text: str) -> tuple[str, Profile]:
    """A profile, as FILE or MODEL=FILE, and what its model is called.

    Raises:
        OSError, ValueError: no profile, or one that does not say of which model it is.
    """
    named, equals, file = text.partition("=")
    if not equals or Path(text).is_file():
        named, file = "", text
    found = open_profile(file)
    named = named or found.machine.get("named", "")
    if not named:
        raise ValueError(f"{file} does not say what its model is called: give it as MODEL={file}")
    if "predicted" in found.machine:
        raise ValueError(f"{file} was itself predicted: a prediction is fitted on measured profiles")
    return named, found


def _samples(opened: Sequence[tuple[str, Profile]], digest: str) -> list[Sample]:
    """The graphs with their profiles.

    Raises:
        ValueError: a model is given twice, or is the one that is to be predicted.
        ProfileMismatch: a profile is of another model than its name says.
    """
    found: list[Sample] = []
    for name, profile in opened:
        if profile.model == digest:
            raise ValueError(f"the profile of {name} is of the model to be predicted: plan with it as it is")
        if any(profile.model == other.model for _, other in found):
            raise ValueError(f"two profiles are of {name}: each model counts once")
        graph = open_model(name)
        profile.check_fits(graph.graph, graph.digest)
        found.append((graph.graph, profile))
    return found


def _to_json(
    args: argparse.Namespace, predicted: Profile, names: Sequence[str], held_out: Sequence[HeldOut]
) -> dict[str, Any]:
    return {
        "file": str(args.output),
        "model": args.model,
        "digest": predicted.model,
        "host": predicted.host,
        "layers": len(predicted.layers),
        "seconds": predicted.whole.wall_s,
        "stage_s": predicted.stage_s,
        "message_s": predicted.message_s,
        "error": predicted.error,
        "held_out": [
            {"model": name, "whole": each.whole, "layers": each.layers, "heads": each.heads}
            for name, each in zip(names, held_out, strict=False)
        ],
        "machine": dict(predicted.machine),
    }


def _print(args: argparse.Namespace, predicted: Profile, names: Sequence[str], held_out: Sequence[HeldOut]) -> None:
    print(
        f"{args.model} ({predicted.model[:12]}) on {predicted.host}: {len(predicted.layers)} layers, "
        f"{predicted.whole.wall_s * 1e3:.2f} ms, predicted from {len(names)} other models and not measured"
    )
    if held_out:
        table = Table("held out of the fit", "whole", "layers", "heads", box=None, header_style="bold")
        for name, each in zip(names, held_out, strict=True):
            table.add_row(name, f"{each.whole:+.1%}", f"{each.layers:.1%}", f"{each.heads:.1%}")
        Console(width=None if Console().is_terminal else 120, highlight=False).print(table)
        heads = median(each.heads for each in held_out)
        print(f"expect to be off by {predicted.error:.1%} of the whole model, by {heads:.1%} of heads (medians)")
    else:
        print("how far off that is, is unknown: with one model none can be held out")
    if unseen := predicted.machine.get("never_seen"):
        print(f"never seen there, taken as others are: {unseen}")
    print(f"{predicted.machine['handling']}; codecs: {predicted.machine.get('codecs', 'unknown, tensors travel raw')}")
    print(f"wrote {args.output}")
