"""``splitnn export``: write the head of a cut model for devices where our agent does not run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitnn.cli.sources import MODEL_HELP, open_model

if TYPE_CHECKING:
    from collections.abc import Mapping

    from splitnn.graph.model import Model
    from splitnn.planner.plan import Plan
    from splitnn.runtime.head import Head

_DESCRIPTION = """\
Write the head of MODEL (everything before the cut) as a file for another runtime, with a manifest.json that says what
to feed to it, and what to send to a cloud server that serves the same model: any client of the Open Inference Protocol
can then be the device. The head is run once beside torch before it is written.

  splitnn export efficientnet_lite0 --cut classifier._blocks.4 --format onnx --out head
  splitnn export efficientnet_lite0 --cut classifier._blocks.4 --codec int8 --out head
  splitnn export models/efficientnet_lite0 --plan plan.txt --format executorch --out head

What crosses travels raw, or as --codec or the plan says: the manifest describes every byte of raw, fp16, bf16 and int8,
bare or in zstd or LZ4.

FORMAT is onnx, executorch (a .pte file), litert (a .tflite file), or coreml (an .mlpackage). What Core ML makes runs on
macOS only: elsewhere the head is converted and its names, shapes and types are checked, and it is not run.
"""


def add_parser(subparsers: Any) -> None:
    """Add ``export`` to the command line."""
    parser = subparsers.add_parser(
        "export",
        help="write the head of a cut model for devices where our agent does not run",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--stage", choices=("head",), default="head", help="which part (the head)")
    cut = parser.add_mutually_exclusive_group(required=True)
    cut.add_argument("--cut", metavar="TENSORS", help="the head ends with these tensors, comma-separated")
    cut.add_argument("--plan", metavar="FILE", type=Path, help="the head is what this plan puts on its first host")
    parser.add_argument(
        "--format", choices=("onnx", "executorch", "litert", "coreml"), default="onnx", help="default onnx"
    )
    parser.add_argument(
        "--codec", metavar="NAME", help="of what crosses, where it takes it; raw by default, or what the plan says"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder; it must not exist yet")
    parser.add_argument("--name", help="what the server calls the model; the model's own name by default")
    parser.add_argument("--json", action="store_true", help="print the manifest")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the folder."""
    from splitnn.cost.codec_names import check_codec_names
    from splitnn.runtime.export import export
    from splitnn.runtime.head import head_before, head_of
    from splitnn.transport.codec import CODECS
    from splitnn.zoo.sources import name_of

    if args.codec is not None:
        check_codec_names([args.codec])
    model = open_model(args.model)
    if args.cut is None:
        plan = _plan_in(args.plan, model)
        head = head_of(model, plan.layers[0])
        codecs = _planned_codecs(head, plan.hops[0])
    else:
        head, codecs = head_before(model, args.cut.split(",")), {}
    if args.codec is not None:
        codecs = _codecs_of(head, args.codec, model)
    name = args.name or name_of(args.model)
    try:
        manifest = export(model, head, args.out, format=args.format, name=name, codecs=codecs)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    written = json.loads(manifest.read_text())
    sent = written["server"]["request"]["inputs"]
    if lossy := [f"{each['name']} as {each['codec']}" for each in sent if not each["lossless"]]:
        asked = "--codec" if args.codec is not None else str(args.plan)
        print(f"lossy, as {asked} asks: {', '.join(lossy)}", file=sys.stderr)
    if args.json:
        print(json.dumps(written))
        return 0
    file = manifest.with_name(written["head"]["file"])
    size_bytes = sum(CODECS[each["codec"]].encoded_bytes(model.graph.tensors[each["name"]]) for each in sent)
    share = written["head"]["difference_to_torch"]
    checked = (
        "not run: only its names, shapes and types were checked" if share is None else f"{share:.1g} away from torch"
    )
    print(
        f"{file}: {len(head.stage.layers)} of {len(model.graph)} layers, {written['head']['size_bytes'] / 1e6:.1f} MB, "
        f"{checked}\n"
        f"{manifest}: sends {', '.join(head.crossing)} ({size_bytes / 1e3:.1f} kB) to model {name!r}"
    )
    return 0


def _plan_in(path: Path, model: Model) -> Plan:
    """The plan in a file: its line, its JSON, or what ``splitnn plan --json`` printed."""
    from splitnn.planner.plan import Plan

    text = path.read_text(encoding="utf-8").strip()
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    if isinstance(found, dict) and "plan" in found:
        found = found["plan"]
    if isinstance(found, dict) and "format" not in found:
        found = found.get("line", "")
    if not isinstance(found, (dict, str)):
        raise ValueError(f"{path} holds no plan")
    plan = (
        Plan.parse(found, model.graph, model=model.digest)
        if isinstance(found, str)
        else Plan.from_json(found)
    )  # fmt: skip
    if plan.model != model.digest:
        raise ValueError(f"{path} is a plan of model {plan.model[:12]}, not {model.digest[:12]}")
    return plan


def _planned_codecs(head: Head, hop: Mapping[str, str]) -> dict[str, str]:
    """Those of a plan's first hop that an outside client can write; of the others it says that they travel raw."""
    from splitnn.transport.instructions import WRITABLE

    chosen = {tensor: hop[tensor] for tensor in head.crossing if hop.get(tensor, "raw") != "raw"}
    for tensor, codec in chosen.items():
        if codec not in WRITABLE:
            print(
                f"the plan sends {tensor} as {codec}, which an outside client cannot be told to write; the manifest "
                f"says raw, which takes longer than was planned (these can be written: {', '.join(WRITABLE)})",
                file=sys.stderr,
            )
    return {tensor: codec for tensor, codec in chosen.items() if codec in WRITABLE}


def _codecs_of(head: Head, codec: str, model: Model) -> dict[str, str]:
    """The codec for everything that crosses and that it takes.

    Raises:
        ValueError: it takes nothing that crosses, or an outside client cannot be told to write it.
    """
    from splitnn.transport.instructions import instructions

    chosen: dict[str, str] = {}
    refusals: list[str] = []
    for tensor in head.crossing:
        try:
            instructions(codec, model.graph.tensors[tensor])
        except ValueError as error:
            refusals.append(f"{tensor}: {error}")
        else:
            chosen[tensor] = codec
    if not chosen:
        raise ValueError(f"--codec {codec}: {refusals[0]}")
    return chosen
