"""Which machine a profile was measured on, and how busy it was."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch


def describe_machine(device: str = "cpu") -> dict[str, str]:
    """Processor (or GPU), versions and the date, in words."""
    return {
        "processor": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else _processor(),
        "cores": str(os.cpu_count()),
        "system": platform.platform(terse=True),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def load_average() -> str:
    """Runnable threads over the last minute; empty where the system does not say."""
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model", "Hardware")))
    return next(names, platform.processor() or platform.machine())
