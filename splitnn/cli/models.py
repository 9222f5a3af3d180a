"""``splitnn models``: what the zoo holds."""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

_DESCRIPTION = """\
The models that come with splitnn or with packages that it knows. Random weights serve for structure, sizes and
timing; their answers mean nothing. Any model of your own is package.module:factory, where the factory returns
(module, example_inputs).
"""


def add_parser(subparsers: Any) -> None:
    """Add ``models`` to the command line."""
    parser = subparsers.add_parser(
        "models",
        help="what the zoo holds",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    from splitnn import zoo

    entries = zoo.models()
    if args.json:
        print(json.dumps([asdict(entry) | {"input": entry.input, "output": entry.output} for entry in entries]))
        return 0
    table = Table("model", "weights", "input", "source", "licence", box=None, header_style="bold")
    for entry in entries:
        table.add_row(entry.name, entry.weights, entry.input, entry.source, entry.licence)
    Console(width=None if Console().is_terminal else 200).print(table)
    if importlib.util.find_spec("torchvision") is None:
        print('most need: pip install "splitnn[models]"')
    return 0
