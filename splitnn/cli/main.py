"""The ``splitnn`` command. Each subcommand is a module of this folder with ``add_parser`` and ``run``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from splitnn.cli import (
    bottleneck,
    calibrate,
    check,
    compress,
    envelope,
    exits,
    explain,
    export,
    layers,
    models,
    pack,
    plan,
    predict,
    profile,
)
from splitnn.errors import SplitnnError
from splitnn.runtime.settings import BAD_INPUT as BAD_INPUT


class Command(Protocol):
    """What a module of this folder offers. It imports torch, and whatever imports torch, only when it runs."""

    def add_parser(self, subparsers: Any) -> None:
        """Add the command's parser to what ``add_subparsers`` returned, with ``set_defaults(run=run)``."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit status."""
        ...


COMMANDS: tuple[Command, ...] = (
    models,
    layers,
    check,
    pack,
    profile,
    predict,
    calibrate,
    bottleneck,
    plan,
    explain,
    envelope,
    exits,
    export,
    compress,
)
"""In the order of the help."""

INTERRUPTED = 130
BROKEN_PIPE = 141

_EPILOG = """\
a first tour:
  splitnn check efficientnet_lite0
  splitnn profile efficientnet_lite0 -o device.json --host device --slowdown 8
  splitnn profile efficientnet_lite0 -o cloud.json --host cloud
  splitnn plan efficientnet_lite0 --device device.json --cloud cloud.json --link 10Mbps/20ms
  splitnn explain efficientnet_lite0 --device device.json --cloud cloud.json --link 10Mbps/20ms
  splitnn envelope efficientnet_lite0 --device device.json --cloud cloud.json --html envelope.html

MODEL is a name from the zoo, package.module:factory, or a folder that `splitnn pack` wrote.
Exit status: 0 all well, 1 the answer is no, 2 bad input (one line on stderr says what).
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status. Bad input is one line on stderr and status 2."""
    parser = _Parser(
        prog="splitnn",
        description="Cut a trained PyTorch model between a device and a server, and move the cut with the network.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output left (`| head`): nothing to say, and nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"{parser.prog} {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (SplitnnError, ValueError, OSError) as error:
        print(f"{parser.prog} {args.command}: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
