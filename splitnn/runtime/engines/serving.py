"""Stages on another engine in a program that serves: where the engine cannot run one it runs in torch, and says so."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import torch

from splitnn.errors import EngineMismatch, ProfileMismatch
from splitnn.graph.code import Callee
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.runtime.compiled import Compile, compiled, compiled_call, installed
from splitnn.runtime.stage import Stage

if TYPE_CHECKING:
    from splitnn.cost.profile import Profile

_log = logging.getLogger(__name__)
_MOST_WAITING = 16

Prepare: TypeAlias = Callable[[Stage], Stage]
"""Makes of a stage in torch the one that runs."""


def as_it_is(stage: Stage) -> Stage:
    """The stage in torch."""
    return stage


def stages_on(engine: str, model: Model) -> Prepare:
    """What puts stages of the model on an engine, after a check on the model's own example; takes seconds a stage.

    Raises:
        ValueError: no such engine.
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    installed(engine)
    if engine == "torch":
        return as_it_is

    def prepare(stage: Stage) -> Stage:
        if not stage.layers:
            return stage
        try:
            return compiled(stage, engine, tensor_values(model, stage.inputs))
        except EngineMismatch as error:
            _log.warning("%r runs in torch: %s", stage, error)
            return stage

    return prepare


def compile_on(engine: str) -> Compile:
    """The same for a stage's bare function; for profiles.

    Raises:
        ValueError, ModuleNotFoundError: as ``stages_on`` does.
    """
    installed(engine)

    def compile(call: Callee, example: Sequence[torch.Tensor]) -> Callee:
        try:
            return compiled_call(call, engine, example)
        except EngineMismatch as error:
            _log.warning("a stage runs in torch: %s", error)
            return call

    return compile


def check_engine(profile: Profile, engine: str) -> None:
    """Whether the profile was measured on the engine that will run.

    Raises:
        ProfileMismatch: it was not; says what to do.
    """
    if profile.engine != engine:
        raise ProfileMismatch(
            f"the profile of {profile.host!r} was measured on the engine {profile.engine!r}, and {engine!r} will run: "
            f"measure again with `splitnn profile --engine {engine}`, or run with --engine {profile.engine}"
        )


def require(engine: str) -> None:
    """Raises ValueError unless the engine is installed, so that a program says so in one line."""
    try:
        installed(engine)
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error


class Background:
    """Prepares stages one after the other on a thread of its own, so that requests go on in torch meanwhile."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare
        self._asked: queue.Queue[tuple[Stage, Callable[[Stage], None]] | None] = queue.Queue(_MOST_WAITING)
        self._thread = threading.Thread(target=self._run, name="engines", daemon=True)
        self._thread.start()

    def submit(self, stage: Stage, done: Callable[[Stage], None]) -> None:
        """Prepare the stage some time, or never when many wait; ``done`` gets it on the other thread."""
        with contextlib.suppress(queue.Full):
            self._asked.put_nowait((stage, done))

    def close(self) -> None:
        """No more; the stage under way is finished first."""
        with contextlib.suppress(queue.Full):
            self._asked.put_nowait(None)

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            stage, done = asked
            try:
                prepared = self._prepare(stage)
                done(prepared)
                if prepared is not stage:
                    _log.info("%r leaves torch", stage)
            except Exception:  # noqa: BLE001 - an engine's own errors must not end the thread
                _log.exception("%r stays in torch", stage)
