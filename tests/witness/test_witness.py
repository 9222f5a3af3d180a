"""An outside client of the wire, in an environment of its own, against both programs started for real."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from splitnn import zoo

ROOT = Path(__file__).parents[2]
WITNESS_PYTHON = ROOT / ".venv-witness" / "bin" / "python"
READY_WITHIN_S = 180.0  # capture and profile of the model, on a busy machine


def test_the_witness_is_there_where_ci_says_so() -> None:
    if os.environ.get("SPLITNN_REQUIRE_WITNESS"):
        assert WITNESS_PYTHON.exists(), "make witness did not run: the outside client would be skipped"


@pytest.mark.slow
@pytest.mark.skipif(not WITNESS_PYTHON.exists(), reason="no .venv-witness: run `make witness`")
@pytest.mark.parametrize("model", ["efficientnet_lite0"])
def test_nvidias_client_is_served_by_server_and_agent_alike(model: str, tmp_path: Path) -> None:
    whole, (photo,) = zoo.load(model)
    with torch.inference_mode():
        expected = int(whole(photo).argmax())
    np.save(tmp_path / "photo.npy", photo.numpy())
    with (
        program("cloud_server", "--models", model, "--listen", free_address()) as server,
        program("device_agent", "--server", server, "--model", model, "--listen", free_address()) as agent,
    ):
        script = Path(__file__).with_name("triton_witness.py")
        command = [str(WITNESS_PYTHON), str(script), server, agent, model, str(tmp_path / "photo.npy")]
        run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    print(run.stdout)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("ok: server") > 4
    assert run.stdout.count("ok: agent") > 4
    assert f"agree on class {expected}," in run.stdout


def free_address() -> str:
    """A local address that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def program(module: str, *arguments: str) -> Iterator[str]:
    """Start one of our programs; gives the address that its ready line names, and ends it with SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, lines))
    reader.start()
    try:
        yield _address(module, lines)
        process.terminate()
        assert process.wait(timeout=30) == 0, f"{module} did not stop cleanly on SIGTERM"
    finally:
        process.kill()
        process.wait()
        reader.join()


def _read(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put(None)


def _address(module: str, lines: queue.Queue[str | None]) -> str:
    """Wait for the line that says ``ready`` and names 127.0.0.1:PORT."""
    seen: list[str] = []
    deadline = time.monotonic() + READY_WITHIN_S
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            break
        if line is None:
            pytest.fail(f"{module} ended before it was ready:\n{''.join(seen)}")
        seen.append(line)
        if "ready" in line:
            for word in line.split():
                if word.startswith("127.0.0.1:"):
                    return word.rstrip(".,:;)")
    pytest.fail(f"{module} was not ready within {READY_WITHIN_S} s:\n{''.join(seen)}")
