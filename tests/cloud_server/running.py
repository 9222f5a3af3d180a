"""The real server as a process of ours."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
LIMIT_S = 120.0


class Server:
    """A started server. ``wait_ready`` gives its address; ``stop`` asks it to end and gives its exit status."""

    def __init__(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        self.process = process
        self._log = log
        self.address = ""
        self.ready_line = ""

    def wait_ready(self) -> str:
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        found = re.search(r"ready on (\S+:\d+): ", self.ready_line)
        assert found, f"not ready: {self.ready_line!r}\n{self.log()}"
        self.address = found[1]
        return self.address

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(LIMIT_S)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()


@contextmanager
def server(log_file: Path, *arguments: str, folder: Path = ROOT) -> Iterator[Server]:
    """Start the program in ``folder``; it is killed at the end if it still runs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (
        log_file.open("w+") as log,
        subprocess.Popen(
            [sys.executable, "-m", "cloud_server", *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield Server(process, log)
        finally:
            process.kill()


def run(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Start the program where it is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "cloud_server", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def free_address() -> str:
    """A local address that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
