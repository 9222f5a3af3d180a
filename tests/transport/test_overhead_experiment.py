"""The overhead experiment runs as documented and writes what it printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_overhead_experiment_measures_every_way_at_every_size(tmp_path: Path) -> None:
    file = tmp_path / "overhead.json"
    command = [sys.executable, "-m", "experiments.overhead", "--quick", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    report = json.loads(file.read_text())
    assert [row["size_bytes"] for row in report["rows"]] == [2**10, 2**16, 2**20, 2**22, 2**24]
    for row in report["rows"]:
        for way in ("socket", "field_sync", "field", "message", "unary", "stream"):
            assert row[f"{way}_ms"] > 0
            assert row[f"{way}_cpu_ms"] > 0
    assert report["machine"]["grpcio"] in done.stdout
