"""The two programs as an experiment starts them: real processes that say on one line when they are ready."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from experiments.emulation.hosts import Host

_PROJECT_ROOT = Path(__file__).resolve().parents[2]
_ADDRESS = re.compile(r"ready on (\S+?:\d+)")


class Program:
    """``python -m MODULE ARGUMENTS`` on a host, from its ready line on. The host ends it.

    Raises:
        RuntimeError: it ended, or was not ready within ``start_limit_s``; the message has its last lines.
    """

    def __init__(self, host: Host, module: str, *arguments: str, start_limit_s: float = 120.0) -> None:
        self.process = host.start(
            [sys.executable, "-m", module, *arguments],
            cwd=_PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        until_s = time.monotonic() + start_limit_s
        while not self._ready.wait(0.05):
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(f"{module} did not become ready:\n" + "\n".join(self.lines[-10:]))
        self.address = self._address()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            line = raw.decode(errors="replace").rstrip()
            self.lines.append(line)
            if _ADDRESS.search(line):
                self._ready.set()

    def _address(self) -> str:
        found = next(match for line in self.lines if (match := _ADDRESS.search(line)))
        return found[1]
