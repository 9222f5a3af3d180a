"""A place of an experiment: processes with one thread, a share of a core and a memory limit, on one side of a link."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from experiments.emulation import launch
from experiments.emulation.cgroups import LEAST_CPU_SHARE, Cgroup, cgroup
from experiments.emulation.shape import EmulatedLink, Side

logger = logging.getLogger(__name__)

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_NAME = re.compile(r"[A-Za-z0-9._-]+")  # as what a dead experiment left is recognised by
_SECONDS_TO_STOP = 5.0


class Host:
    """Starts processes with the speed and memory of a smaller machine; a context manager that ends them.

    ``cpu_share`` is a share of one core, by a CFS quota. Where control groups can't be had it is replaced by time
    scaling: pass ``slowdown`` on to the program (its ``--slowdown``), which sleeps in proportion. That is a simulation:
    it slows neither serialisation, gRPC nor Python; label results with ``method``. Keep all shares, the server's
    included, within three quarters of the machine's cores.

    Raises:
        ValueError: a share below the kernel's least, a memory limit that is no whole number above 0, or a name with
            other characters than letters, digits and ``._-``.
    """

    def __init__(
        self,
        name: str,
        *,
        link: EmulatedLink | None = None,
        side: Side = "device",
        cpu_share: float | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"a host's name is part of a folder's: letters, digits and ._- only, not {name!r}")
        if cpu_share is not None and not LEAST_CPU_SHARE <= cpu_share < math.inf:
            raise ValueError(f"host {name}: a CPU share must be above 0, {LEAST_CPU_SHARE:g} at least, not {cpu_share}")
        if memory_bytes is not None and not (isinstance(memory_bytes, int) and memory_bytes > 0):
            raise ValueError(f"host {name}: a memory limit must be above 0, in whole bytes, not {memory_bytes}")
        self.name = name
        self.slowdown = 1.0  # to be simulated by the program
        self.method = "at full speed"
        self._namespace = link.namespace(side) if link else None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()
        self._cgroup: Cgroup | None = None
        if cpu_share is None and memory_bytes is None:
            return
        limits = ([f"{cpu_share:g} of a core"] if cpu_share else []) + (
            [f"{memory_bytes} bytes"] if memory_bytes else []
        )
        try:
            self._cgroup = self._stack.enter_context(cgroup(name, cpu_share=cpu_share, memory_bytes=memory_bytes))
            self.method = "control group: " + ", ".join(limits)
        except OSError as missing:
            self.slowdown = 1 / cpu_share if cpu_share else 1.0
            self.method = f"scaled: times multiplied by {self.slowdown:g} in the program, no memory limit"
            logger.warning("host %s: no control group (%s); %s", name, missing, self.method)

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str] | None = None, **popen: Any
    ) -> subprocess.Popen[bytes]:
        """Start a process here; ``env`` is added to this process's environment. ``popen`` goes to ``subprocess.Popen``.

        It runs one thread of arithmetic, is not reached by Ctrl-C, and is killed when the thread that called this ends,
        however that happens.
        """
        prefix = [sys.executable, "-I", str(Path(launch.__file__)), "--parent", str(os.getpid())]
        if self._namespace:
            prefix += ["--namespace", self._namespace]
        for file in self._cgroup.join_files if self._cgroup else ():
            prefix += ["--join", str(file)]
        process = subprocess.Popen(
            [*prefix, "--", *command],
            env={**os.environ, **_ONE_THREAD, **(env or {})},
            start_new_session=True,
            **popen,
        )
        self._processes.append(process)
        return process

    @property
    def is_limited(self) -> bool:
        """Whether a control group keeps the limits; without any limit it is not."""
        return self._cgroup is not None

    def full_speed(self) -> contextlib.AbstractContextManager[None]:
        """Without the CPU limit meanwhile: for the start of a program, which is not what is measured."""
        return self._cgroup.full_speed() if self._cgroup else contextlib.nullcontext()

    def oom_kills(self) -> int:
        """Processes killed here for want of memory, as the kernel counts them."""
        return self._cgroup.oom_kills() if self._cgroup else 0

    def close(self) -> None:
        """SIGTERM to every process, SIGKILL to what is left after 5 s and to their children, then remove the limits.

        A control group holds whatever was started here; without one, children that left their parent's session stay.
        """
        try:
            for process in self._processes:
                process.terminate()
            until_s = time.monotonic() + _SECONDS_TO_STOP
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until_s - time.monotonic()))
        finally:
            for process in self._processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
