"""``splitnn calibrate``: measure on data what codecs cost in accuracy."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from splitnn.cli.progress import progress_bar
from splitnn.cli.sources import ANSWER_HELP, COSINE_HELP, MODEL_HELP, open_model, open_profile
from splitnn.cost.accuracy import Calibration
from splitnn.cost.exit_drops import Asked, ExitDrops
from splitnn.cost.profile_file import write_profile

if TYPE_CHECKING:
    from splitnn.transport.codec import Codec

_USUAL = (
    "raw", "entropy", "fp16", "int8", "int8+zstd", "int6t+entropy", "int4t+entropy", "int3t+entropy",
    "even6", "even4", "even3", "even2", "jpeg95f", "jpeg95", "jpeg90", "webp95", "webp90",
)  # fmt: skip

_DESCRIPTION = """\
Encode and decode tensors of MODEL with each codec, run the rest of the model on the result, and compare the answers:
with the labels where the data have them, else with the model's own. What that costs, with its interval of 95 %, and
the bytes go into the profiles; `splitnn plan --max-accuracy-drop` goes by it, and nothing lossy is used without it.
Where MODEL has early exits that is measured for every way to ask them, with the thresholds that they have: once these
are chosen anew, calibrate again.

  splitnn calibrate efficientnet_lite0 --data photos --profile device.json --profile cloud.json
  splitnn calibrate my_package.my_module:make_model --data folder_of_images --codecs int8+zstd,even4 --count 1000 \\
      --profile device.json

DATA is a folder of images, a .safetensors file with the inputs (and labels), photos, or fashion-mnist. A quarter of the
photos or rows is for judging, and that quarter is used here. Answers are compared by their largest logit (N, classes);
of a map (N, C, H, W) or of tokens (N, T, C) at each place, and the share of places counts; embeddings by their cosine.
"""


def add_parser(subparsers: Any) -> None:
    """Add ``calibrate`` to the command line."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure on data what codecs cost in accuracy",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--data", metavar="DATA", required=True, help="what to measure on; see above")
    parser.add_argument(
        "--profile", metavar="FILE", action="append", required=True, type=Path,
        help="a profile of MODEL that gets the result; repeat for that of the other host",
    )  # fmt: skip
    parser.add_argument(
        "--codecs", metavar="NAMES", default=",".join(_USUAL), help="comma-separated, or all (default: a usual choice)"
    )
    parser.add_argument(
        "--tensors", metavar="NAMES", help="comma-separated (default: at most ten that a cut may pay at)"
    )
    parser.add_argument("--count", metavar="N", type=int, default=200, help="samples (default 200)")
    parser.add_argument("--answer", metavar="TENSOR", help=ANSWER_HELP)
    parser.add_argument("--cosine", metavar="C", type=float, help=COSINE_HELP)
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of the choice of samples (default 0)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, and write it into the profiles."""
    codecs = _codecs(args.codecs)
    profiles = {path: open_profile(path) for path in args.profile}
    from splitnn.tuning.answers import answer_of
    from splitnn.tuning.calibration import calibrate
    from splitnn.tuning.evaluation import check_file
    from splitnn.zoo.datasets import samples

    model = open_model(args.model)
    answer = answer_of(model, args.answer, cosine=args.cosine)
    for found in profiles.values():
        found.check_fits(model.graph, model.digest)
    data = samples(args.data, model, count=args.count, part="test", seed=args.seed)
    check_file(args.data, model)
    left_out: dict[str, dict[str, str]] = defaultdict(dict)

    def refused(tensor: str, codec: str, reason: str) -> None:
        left_out[tensor][codec] = reason

    tensors = None if args.tensors is None else args.tensors.split(",")
    with progress_bar("calibrating") as progress:
        calibration = calibrate(
            model, data, codecs=codecs, tensors=tensors, answer=answer, progress=progress, refused=refused
        )
    if not any(calibration.tensors.values()):
        why = next(iter(reason for reasons in left_out.values() for reason in reasons.values()), "")
        raise ValueError(
            f"none of the codecs {', '.join(codecs)} takes any of the tensors {', '.join(calibration.tensors)}"
            f"{f' ({why})' if why else ''}: the profiles stay as they are; name others (--codecs, --tensors)"
        )
    for path, found in profiles.items():
        write_profile(path, found.calibrated(calibration))
    if args.json:
        print(json.dumps({"model": args.model, "digest": model.digest, **calibration.to_json()}))
    else:
        _print(args.model, calibration, [str(path) for path in profiles])
    for tensor, reasons in left_out.items():
        print(f"{tensor}: {', '.join(reasons)} could not encode its values here, and are left out", file=sys.stderr)
        for reason in dict.fromkeys(reasons.values()):
            print(f"  {reason}", file=sys.stderr)
    return 0


def _codecs(names: str) -> dict[str, Codec]:
    from splitnn.transport.codec import CODECS, codec

    return dict(CODECS) if names == "all" else {name: codec(name) for name in names.split(",")}


def _print(name: str, calibration: Calibration, written: list[str]) -> None:
    lost = "accuracy" if calibration.against == "labels" else "agreement"
    table = Table("tensor", "codec", "bytes", "95th", f"{lost} lost", "95 % interval", box=None, header_style="bold")
    for tensor, codecs in calibration.tensors.items():
        for i, (codec, found) in enumerate(sorted(codecs.items(), key=lambda each: -each[1].median_bytes)):
            interval = f"{found.drop.low:.2%} to {found.drop.high:.2%}"
            table.add_row(
                "" if i else tensor, codec, f"{found.median_bytes}", f"{found.p95_bytes}", f"{found.drop.estimate:.2%}",
                interval,
            )  # fmt: skip
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    if calibration.exits is not None:
        console.print(f"{lost} lost at most, by the exits that are asked")
        console.print(_by_exits(calibration.exits))
    print(f"{name}: {calibration.samples} samples of {calibration.data}; wrote {', '.join(written)}")


def _by_exits(drops: ExitDrops) -> Table:
    """The upper ends of what lossy codecs cost each exit alone, and all together."""
    ways: list[Asked] = [(each.name,) for each in drops.exits]
    ways += [tuple(each.name for each in drops.exits)] if len(ways) > 1 else []
    table = Table("tensor", "codec", *(" ".join(asked) for asked in ways), box=None, header_style="bold")
    for tensor, codecs in drops.drops.items():
        lossy = {codec: found for codec, found in codecs.items() if any(drop.high > 0 for drop in found.values())}
        for i, (codec, found) in enumerate(lossy.items()):
            ends = (f"{found[asked].high:.2%}" if asked in found else "" for asked in ways)
            table.add_row("" if i else tensor, codec, *ends)
    return table
