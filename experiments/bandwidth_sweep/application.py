"""An application on the device's side of a link that asks the agent what it is told to ask. Both ends of the telling.

It lives in the device's namespace, where the agent listens, and outside of the device's share of a core: what is
measured is the agent, not who asks it.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.emulation.control import Lines, SteeredProgram, say
from experiments.testbed import Host

_PROJECT_ROOT = Path(__file__).resolve().parents[2]
_INPUT, _OUTPUT = "input:", "output:"


class Application:
    """Steers such a process, which runs on ``host``; a context manager."""

    def __init__(self, host: Host) -> None:
        command = [sys.executable, "-m", "experiments.bandwidth_sweep.application"]
        self._process = SteeredProgram(command, start=host.start, start_limit_s=120.0, cwd=_PROJECT_ROOT)

    def ask(self, agent: str, model: str, *, example: Path, plan: str, deadline_s: float) -> dict[str, Any]:
        """One request, by the plan's line or ``auto``.

        The answer's parameters; ``seen_s``, what the application waited; ``same_label`` and ``cosine``, how the first
        output compares with the unsplit model's. ``failed`` alone when there was no answer.

        Raises:
            RuntimeError: the process is gone.
        """
        message = {"agent": agent, "model": model, "example": str(example), "plan": plan, "deadline_s": deadline_s}
        return self._process.ask(message, limit_s=deadline_s + 20.0)

    def close(self) -> None:
        """End it."""
        self._process.close()

    def __enter__(self) -> Application:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def save_example(path: Path, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Tensors by name of one request and of what the unsplit model answers to it."""
    from safetensors.torch import save_file

    named = {_INPUT + name: value for name, value in inputs.items()}
    named |= {_OUTPUT + name: value for name, value in outputs.items()}
    save_file({name: value.contiguous().clone() for name, value in named.items()}, path)


@functools.cache
def _example(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors.torch import load_file

    named = load_file(path)
    return (
        {name.removeprefix(_INPUT): value for name, value in named.items() if name.startswith(_INPUT)},
        {name.removeprefix(_OUTPUT): value for name, value in named.items() if name.startswith(_OUTPUT)},
    )


class _Asker:
    def __init__(self) -> None:
        self._agents: dict[str, Any] = {}

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        from splitnn.errors import SplitnnError
        from splitnn.transport.base import Request
        from splitnn.transport.open_inference import GrpcTransport

        inputs, expected = _example(message["example"])
        if (address := message["agent"]) not in self._agents:
            self._agents[address] = GrpcTransport(address)
        started_s = time.monotonic()
        request = Request(
            message["model"],
            inputs,
            deadline_s=started_s + message["deadline_s"],
            parameters={"plan": message["plan"]},
        )
        try:
            answer = await self._agents[address].infer(request)
        except SplitnnError as error:
            return {"failed": f"{type(error).__name__}: {error}"}
        seen_s = time.monotonic() - started_s
        name, wanted = next(iter(expected.items()))
        given = torch.as_tensor(answer.tensors[name]).flatten().double()
        wanted = wanted.flatten().double()
        return {
            **answer.parameters,
            "seen_s": seen_s,
            "same_label": bool(given.argmax() == wanted.argmax()),
            "cosine": float(torch.nn.functional.cosine_similarity(given, wanted, dim=0)),
        }


async def _obey() -> None:
    import torch

    torch.set_num_threads(1)
    asker, lines = _Asker(), Lines()
    say({"ready": True})
    loop = asyncio.get_running_loop()
    while piece := await loop.run_in_executor(None, os.read, 0, 65536):
        for message in lines.feed(piece):
            say(await asker.ask(message))


if __name__ == "__main__":
    asyncio.run(_obey())
