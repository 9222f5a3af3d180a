"""Names that say whose they are, and the removal of what dead owners left: namespaces, control groups, files.

``python -m experiments.leftovers`` removes them by hand; every link and host does at its start.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_NAMESPACES = Path("/run/netns")
_CGROUPS = Path("/sys/fs/cgroup")
_SCRATCH = Path(tempfile.gettempdir())
_OURS = re.compile(r"splitnn-([0-9]+)-[0-9a-f]{6}-[A-Za-z0-9._-]+")


def owned_name(what: str) -> str:
    """A random name that carries the pid of this process: ``splitnn-PID-RANDOM-what``."""
    return f"splitnn-{os.getpid()}-{secrets.token_hex(3)}-{what}"


@contextlib.contextmanager
def scratch_folder(what: str) -> Iterator[Path]:
    """A fresh folder for files that are not worth keeping, removed at the end."""
    folder = _SCRATCH / owned_name(what)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> list[str]:
    """End the processes of, and remove, every namespace, group and scratch folder of a dead owner; what was removed.

    Leaves alone what belongs to living processes and what it may not remove.
    """
    removed = []
    for namespace in _abandoned(_NAMESPACES.iterdir() if _NAMESPACES.is_dir() else iter(())):
        if remove_namespace(namespace.name):
            removed.append(namespace.name)
    for group in _abandoned(_folders(_CGROUPS)):
        if remove_cgroup(group):
            removed.append(str(group))
    for folder in _abandoned(path for path in _SCRATCH.iterdir() if _is_our_folder(path)):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            removed.append(str(folder))
    return removed


def remove_namespace(name: str) -> bool:
    """Kill what runs in a network namespace, then delete it; False when that is not possible."""
    inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    for pid in inside.stdout.split():
        _kill(int(pid))
    return subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False).returncode == 0


def remove_cgroup(group: Path) -> bool:
    """Kill what runs in a control group, then remove it; False when that is not possible within 2 s."""

    def emptied() -> bool:
        try:
            for pid in (group / "cgroup.procs").read_text().split():
                _kill(int(pid))
            group.rmdir()
        except FileNotFoundError:
            return True
        except OSError:  # busy until the kernel has let go of the processes
            return False
        return True

    return wait_until(emptied, limit_s=2.0)


def is_dead(pid: int) -> bool:
    """Gone, or a zombie that its parent has not asked about."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


def wait_until(claim: Callable[[], bool], *, limit_s: float) -> bool:
    """Ask every 10 ms until it is so; False when it is not within the limit. For what the kernel can't announce."""
    until_s = time.monotonic() + limit_s
    while not claim():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)
    return True


def _abandoned(paths: Iterator[Path]) -> list[Path]:
    named = ((path, _OURS.fullmatch(path.name)) for path in paths)
    return [path for path, match in named if match and is_dead(int(match[1]))]


def _is_our_folder(path: Path) -> bool:
    """Not a link to one, and not another user's."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _folders(top: Path) -> Iterator[Path]:
    for folder, names, _ in os.walk(top):
        yield from (Path(folder, name) for name in names)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    for name in remove_leftovers():
        print("removed", name)
