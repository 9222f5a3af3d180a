"""Which machine and which versions an experiment ran on: the columns that its rows carry."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PROJECT_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("splitnn", "grpcio", "protobuf", "torch", "torchvision")


def machine() -> dict[str, str]:
    """Commit (``-dirty`` with uncommitted changes), cores, load, kernel, versions; else ``unknown``."""
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    return {
        "commit": commit(),
        "cores": str(os.cpu_count()),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "kernel": platform.release(),
        "tcp": congestion.read_text().strip() if congestion.exists() else "unknown",
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }


def commit(root: Path = _PROJECT_ROOT) -> str:
    """Of the sources that are running, wherever the program was started."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said.stdout.strip() or "unknown"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
