"""``splitnn pack``: write a model as a folder that the two programs load."""

from __future__ import annotations

import argparse
import json
from typing import Any

from splitnn.cli.sources import MODEL_HELP, open_model

_DESCRIPTION = """\
Capture MODEL and write it as a package: a graph in JSON whose operators are on an allow-list, the weights as
safetensors, and a manifest with digests. A package holds data only; loading one runs no code of its author.

  splitnn pack efficientnet_lite0 -o models/efficientnet_lite0
  splitnn-server --models models --listen 127.0.0.1:8001
"""


def add_parser(subparsers: Any) -> None:
    """Add ``pack`` to the command line."""
    parser = subparsers.add_parser(
        "pack",
        help="write a model as a folder that the two programs load",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the folder; it must not exist yet")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the folder."""
    from splitnn.graph import package

    model = open_model(args.model)
    folder = package.save(model, args.output)
    size = sum(file.stat().st_size for file in folder.iterdir())
    if args.json:
        print(json.dumps({"folder": str(folder), "digest": model.digest, "layers": len(model.graph), "bytes": size}))
    else:
        print(f"{folder}: {len(model.graph)} layers, {size / 1e6:.1f} MB, digest {model.digest[:12]}")
    return 0
