"""``splitnn plan``: find the best cut of a model for the link at hand."""

from __future__ import annotations

import argparse
from typing import Any

from splitnn.cli.sources import MODEL_HELP


def add_parser(subparsers: Any) -> None:
    """Add ``plan`` to the command line."""
    parser = subparsers.add_parser("plan", help="find the best cut of a model for the link at hand")
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decide and print."""
    raise ValueError("not there yet")
