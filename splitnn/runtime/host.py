"""One model on this host, in-process: a ``Service`` that runs whatever part of the model a request asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakSet

import torch

from splitnn.errors import DigestMismatch, UnknownModel
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model, Value
from splitnn.runtime.engine import Engine, Executed
from splitnn.runtime.engines.serving import Background
from splitnn.runtime.exits import Passage, begin, exits_asked_for, said
from splitnn.runtime.inputs import admit, check_codecs, check_described, samples_of
from splitnn.runtime.legs import Ways, passing
from splitnn.runtime.stage import Stage
from splitnn.runtime.stages import Stages, run_request
from splitnn.transport.base import Announcement, Answer, Clock, Description, Request, Timings

_T = TypeVar("_T")

Observe = Callable[[Stage, int, float], None]
"""Told of every run of a stage but its first, which is slower: the stage, the samples in the batch, the seconds.

Called on the engine's thread.
"""

WORKING_BYTES = 2 * 2**30
"""What one request may need for its largest layer, unless somebody says otherwise."""


def _unobserved(stage: Stage, samples: int, seconds: float) -> None:
    """Nobody wants to know."""


class ModelHost:
    """Serves one model at any cut, on an engine. The far side of a ``LocalTransport``, and a device's own part.

    Compiled stages are kept, those that were used last. A given engine stays its owner's; ``close`` ends one of the
    host's own. A request whose largest layer would need more than ``working_bytes`` is refused.

    A model that has exits may answer from one of them: a request that names no outputs, or no other than that of the
    last exit, is answered under that name by the first exit that is sure. The answer's parameters say which
    (``exits.said``), the request's parameter ``exits`` says which may (``exits.exits_asked_for``). Other outputs are to
    be had for the asking; then the whole model runs.
    """

    def __init__(
        self,
        model: Model,
        *,
        name: str = "model",
        version: str = "1",
        host: str = "here",
        engine: Engine | None = None,
        working_bytes: int = WORKING_BYTES,
        background: Background | None = None,
        observe: Observe = _unobserved,
        clock: Clock = time.monotonic,
    ) -> None:
        """``host`` is what answers call this one; ``background`` puts stages on another engine."""
        self.model = model
        self.name = name
        self._host = host
        self.version = version
        self._own_engine = Engine(f"host {name}", clock=clock) if engine is None else None
        self._engine = engine or self._own_engine or Engine()
        self._stages = Stages(model, working_bytes=working_bytes, background=background)
        self._ways = Ways(self._stages)
        self._ran: WeakSet[Stage] = WeakSet()
        self._observe = observe
        self._clock = clock

    def expect(self, announced: Announcement) -> None:
        """See ``Service``. Also refuses answers in codecs that do not take the tensors that are wanted."""
        self._check_model(announced.model, announced.version, announced.digest)
        graph = self.model.graph
        check_described(graph, announced.tensors)
        check_codecs(graph, announced.wanted or graph.outputs, announced.codecs)

    async def infer(self, request: Request) -> Answer:
        """Run the layers between the tensors that are given and those that are wanted.

        Time to compile a stage that was never asked for counts as waiting.

        Raises:
            UnknownModel, DigestMismatch, InvalidInput: the request is wrong; the message says what was expected.
            PayloadTooLarge: its batch needs more memory than this host spends on one request.
            Overloaded, DeadlineExceeded, Unavailable: the engine's state.
        """
        self._check_model(request.model, request.version, request.digest)
        tensors = admit(self.model.graph, request.tensors)
        samples = samples_of(self.model.graph, tensors)
        if self.model.exits is not None and set(request.wanted) <= {self.model.exits.exits[-1].output}:
            return await self._pass_exits(request, tensors, self.model.exits, samples=samples)
        wanted = tuple(dict.fromkeys(request.wanted or self.model.graph.outputs))

        def work() -> tuple[dict[str, Value], float]:
            part = self._stages.get(tensors, wanted, samples=samples)
            started_s = self._clock()
            made = run_request(part, tensors)
            return made, self._told(part, samples, started_s)

        executed = await self._execute(request, tensors, work)
        made, compute_s = executed.result
        return Answer({name: made[name] for name in wanted}, self.version, _timings(executed, compute_s))

    async def _pass_exits(
        self, request: Request, tensors: Mapping[str, Value], exits: Exits, *, samples: int
    ) -> Answer:
        asked = exits_asked_for(exits, request.parameters.get("exits", "all"))

        def work() -> tuple[Passage, float]:
            way = self._ways.get(tensors, asked, samples=samples)
            passage, compute_s = begin(tensors, samples=samples), 0.0
            aboard, since_s = samples, self._clock()
            for leg, after in zip(way, passing(way, passage, graph=self.model.graph, host=self._host), strict=False):
                compute_s += self._told(leg.part, aboard, since_s)
                passage, aboard, since_s = after, len(after.aboard), self._clock()
            return passage, compute_s

        executed = await self._execute(request, tensors, work)
        passage, compute_s = executed.result
        return Answer(
            tensors={exits.exits[-1].output: passage.logits},
            version=self.version,
            timings=_timings(executed, compute_s),
            parameters=said(passage.answers),
        )

    async def _execute(self, request: Request, tensors: Mapping[str, Value], work: Callable[[], _T]) -> Executed[_T]:
        held_bytes = sum(value.nbytes for value in tensors.values() if isinstance(value, torch.Tensor))
        return await self._engine.run(work, deadline_s=request.deadline_s, size_bytes=held_bytes)

    def _told(self, part: Stage, samples: int, started_s: float) -> float:
        """The seconds of a run that has just ended; whoever observes is told, but for a stage's first run."""
        took_s = self._clock() - started_s
        if part in self._ran:
            self._observe(part, samples, took_s)
        self._ran.add(part)
        return took_s

    async def describe(self, model: str, version: str = "") -> Description:
        """This model. Raises UnknownModel: another one is asked for."""
        self._check_name(model, version)
        return Description(self.name, self.model.digest, self.model.graph, versions=(self.version,))

    def is_ready(self, model: str = "", version: str = "") -> bool:
        """Always, for this model; its digest is another name of its version."""
        return model in ("", self.name) and version in ("", self.version, self.model.digest)

    def close(self) -> None:
        """End the engine that this host started."""
        if self._own_engine is not None:
            self._own_engine.close()

    def _check_model(self, model: str, version: str, digest: str) -> None:
        self._check_name(model, version)
        if digest and digest != self.model.digest:
            raise DigestMismatch(
                f"the request is for model {digest[:12]}; {self.name!r} here is {self.model.digest[:12]}"
            )

    def _check_name(self, model: str, version: str) -> None:
        if not self.is_ready(model, version) or not model:
            raise UnknownModel(
                f"no model {model[:64]!r} version {version[:64]!r} here; there is {self.name!r} version "
                f"{self.version!r}"
            )


def _timings(executed: Executed[Any], compute_s: float) -> Timings:
    """Everything but computing is waiting: a stage that is compiled first, for one."""
    return Timings(queue_s=executed.queue_s + executed.compute_s - compute_s, compute_s=compute_s)
