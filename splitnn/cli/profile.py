"""``splitnn profile``: measure every layer of a model on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from splitnn.cli.sources import MODEL_HELP


def add_parser(subparsers: Any) -> None:
    """Add ``profile`` to the command line."""
    parser = subparsers.add_parser("profile", help="measure every layer of a model on this machine")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and write the file."""
    raise ValueError("not there yet")
