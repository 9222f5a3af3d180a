"""Becomes a command inside a network namespace and control groups, and dies with whoever started it.

Run by its path as a program of its own, instead of code between fork and exec of a parent that has threads. Imports
nothing of ours, so that it starts in the caller's folder.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1


def enter_namespace(path: str | Path) -> None:
    """Move this thread into the network namespace at ``path``, such as ``/run/netns/NAME``.

    Raises:
        OSError: no such namespace, or not root.
    """
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    namespace = os.open(path, os.O_RDONLY)
    try:
        if libc.setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {path}")
    finally:
        os.close(namespace)


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process, through later ``exec`` too, when the thread that started it ends. Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True, help="process whose death ends this one")
    parser.add_argument("--namespace", help="name of a network namespace")
    parser.add_argument("--join", action="append", default=[], metavar="FILE", help="a cgroup.procs file")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    die_with_parent(options.parent)
    for procs in options.join:
        Path(procs).write_text(str(os.getpid()))
    if options.namespace:
        enter_namespace(f"/run/netns/{options.namespace}")
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main()
