"""The allocator's thresholds are settable where the C library is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys


def test_glibc_takes_the_thresholds_in_a_running_process() -> None:
    code = "from splitnn.graph.allocator import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")
