"""A process of ours that another one steers: one JSON object a line in, one answer a line out. Both ends.

The first line that the process prints says that it is ready. It ends when its standard input ends, so that nothing
outlives a parent that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

_LONGEST_LINE = 65536


class Lines:
    """Cuts a stream of bytes into JSON objects."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """The objects that are complete now.

        Raises:
            ValueError: a line is no JSON object, or longer than 64 KiB.
        """
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            raise ValueError(f"a line of more than {_LONGEST_LINE} bytes")
        messages = [json.loads(line) for line in lines if line.strip()]
        for message in messages:
            if not isinstance(message, dict):
                raise ValueError(f"expected a JSON object a line, got {message!r}")
        return messages


def say(message: dict[str, Any]) -> None:
    """Print one answer."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class SteeredProgram:
    """Starts such a process and asks it things. A context manager; ``close`` ends the process.

    ``start`` starts it elsewhere than here: ``Host.start``, for one.

    Raises:
        RuntimeError: it did not become ready, or it answered with an error or not at all.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        start: Callable[..., subprocess.Popen[bytes]] | None = None,
        start_limit_s: float = 20.0,
        **popen: Any,
    ) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as we; a pipe would fill up, unread
        popen |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._stderr}
        self._process = (start or _start_here)(command, **popen)
        self._lines = Lines()
        self._turn = threading.Lock()
        self._name = " ".join(command)
        try:
            self.ready = self._answer(start_limit_s)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, message: dict[str, Any], *, limit_s: float = 10.0) -> dict[str, Any]:
        """Send one command and wait for its answer; from any thread."""
        assert self._process.stdin is not None
        with self._turn:
            try:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                raise RuntimeError(self._last_words()) from None
            return self._answer(limit_s)

    def _answer(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        until_s = time.monotonic() + limit_s
        while True:
            if not select.select([pipe], [], [], max(0.0, until_s - time.monotonic()))[0]:
                self._process.kill()  # a late answer would be taken for that to the next command
                raise RuntimeError(f"no answer within {limit_s:g} s from: {self._name}")
            piece = os.read(pipe, 4096)
            if not piece:
                raise RuntimeError(self._last_words())
            messages = self._lines.feed(piece)
            if messages:
                break
        if "error" in messages[0]:
            raise RuntimeError(f"{messages[0]['error']} (from: {self._name})")
        return messages[0]

    def _last_words(self) -> str:
        try:
            status = self._process.wait(2)
        except subprocess.TimeoutExpired:
            return f"it closed its output, yet runs: {self._name}"
        self._stderr.seek(0)
        words = self._stderr.read(4096).decode(errors="replace").strip()
        return f"it ended with status {status}: {self._name}: {words}"

    def close(self) -> None:
        """End the process: by the end of its input, and by SIGKILL when that does not help within 2 s."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._stderr.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start_here(command: Sequence[str], **popen: Any) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C is for whoever steers, who then ends it in order."""
    return subprocess.Popen(command, start_new_session=True, **popen)
