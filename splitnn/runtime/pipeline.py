"""A plan at work: one request through all hosts of a chain, the first stage here, the others over transports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from splitnn.errors import CodecError, InvalidInput
from splitnn.graph.model import Model, Value
from splitnn.instrument import Instrument
from splitnn.planner.plan import Plan
from splitnn.runtime.engine import Engine
from splitnn.runtime.inputs import admit, samples_of
from splitnn.runtime.stage import Stage, split
from splitnn.runtime.stages import run_request
from splitnn.transport.base import Answer, Clock, Request, Transport


@dataclass(frozen=True)
class Progress:
    """A request on its way: what is known so far, and what it took. Any host's part can follow from here.

    ``tensors`` holds the inputs and everything that was made and is still needed, so that the rest can be computed
    on any host, this one included.
    """

    tensors: Mapping[str, Value]
    deadline_s: float  # an instant of the pipeline's clock
    request_id: str = ""
    hosts_done: int = 0
    stage_s: tuple[float, ...] = ()  # of every stage that ran here
    queue_s: float = 0.0  # waited for this host's engine
    answers: tuple[Answer, ...] = ()  # of every far host that had a part


class Pipeline:
    """A model split by a plan. Any number of requests may be under way at once, in one event loop.

    ``transports[i]`` leads from here to host i + 1, which serves the model as ``name``; a host without layers is
    never asked. Tensors that a host makes come back here and go on to the next one: what a host does not read never
    visits it. ``Plan.predicted`` prices hops from host to host instead, so that with three hosts and more a request
    takes longer than predicted: each later hop's tensors pass this host's links too. All stages are compiled here too,
    so that a request can be finished without the others.
    The transports and a given engine stay their owner's; ``close`` ends an engine of the pipeline's own.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        transports: Sequence[Transport] = (),
        *,
        name: str = "model",
        engine: Engine | None = None,
        instrument: Instrument | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Compiles all stages (some 60 ms).

        Raises:
            ProfileMismatch: the plan is of another model.
            ValueError: a host that has layers has no transport.
        """
        if not plan.is_local and len(transports) != len(plan.hosts) - 1:
            raise ValueError(f"a plan for {len(plan.hosts)} hosts needs a transport a hop, not {len(transports)}")
        self.plan = plan
        self.stages = split(model, plan)
        self._graph = model.graph
        self._digest = model.digest
        self._outputs = tuple(dict.fromkeys(model.graph.outputs))
        self._inputs = tuple(model.graph.inputs)
        self._transports = tuple(transports)
        self._name = name
        self._own_engine = Engine("pipeline", clock=clock) if engine is None else None
        self._engine = engine or self._own_engine or Engine()
        self._instrument = instrument or Instrument()
        self._clock = clock

    async def run(self, inputs: Mapping[str, Value], *, timeout_s: float = 30.0) -> dict[str, Value]:
        """The model's outputs by name, for inputs by name (``Model.name_inputs`` names them).

        Raises:
            ValueError: an input is missing, or is none of the model's.
            RequestError, TransportError, CodecError: of the first far host that fails.
        """
        progress = await self.start(inputs, deadline_s=self._clock() + timeout_s)
        while progress.hosts_done < len(self.stages):
            progress = await self.advance(progress)
        return self.outputs(progress)

    async def start(self, inputs: Mapping[str, Value], *, deadline_s: float, request_id: str = "") -> Progress:
        """Run this host's own stage. ``deadline_s`` is an instant of the clock.

        Raises:
            ValueError: an input is missing, or is none of the model's.
            InvalidInput: an operator fails on the inputs' values.
            TransportError: this host's engine is overloaded, or cannot run the stage before the deadline.
        """
        if set(inputs) != set(self._inputs):
            raise ValueError(f"the model's inputs are {list(self._inputs)}, not {sorted(inputs)}")
        return await self._run_here(Progress(dict(inputs), deadline_s, request_id))

    async def advance(self, progress: Progress, *, until_s: float | None = None) -> Progress:
        """Let the next host do its part, until ``until_s`` at the latest (an instant; the deadline by default).

        Raises:
            RequestError, TransportError, CodecError: the host did not, or answered with other tensors than it was asked
                for; ``progress`` is as good as before.
        """
        part = self.stages[progress.hosts_done]
        if not part.layers:
            return replace(progress, hosts_done=progress.hosts_done + 1)
        hop = progress.hosts_done - 1
        request = Request(
            model=self._name,
            tensors={tensor: progress.tensors[tensor] for tensor in part.inputs},
            deadline_s=progress.deadline_s if until_s is None else min(until_s, progress.deadline_s),
            digest=self._digest,
            request_id=progress.request_id,
            codecs={tensor: self.plan.hops[hop].get(tensor, "raw") for tensor in part.inputs},
            wanted=part.outputs,
        )
        answer = await self._transports[hop].infer(request)
        made = self._checked(part, request.tensors, answer.tensors)
        return self._after(replace(progress, answers=(*progress.answers, answer)), made)

    async def finish_here(self, progress: Progress) -> Progress:
        """Run the stages of all hosts that have not done their part on this host, from the tensors that are here.

        Raises:
            TransportError: this host's engine is overloaded, or cannot run them before the deadline.
        """
        while progress.hosts_done < len(self.stages):
            progress = await self._run_here(progress)
        return progress

    def outputs(self, progress: Progress) -> dict[str, Value]:
        """The model's outputs, once every host is done."""
        return {name: progress.tensors[name] for name in self._outputs}

    def close(self) -> None:
        """End the engine that this pipeline started; requests under way fail with ``Unavailable``."""
        if self._own_engine is not None:
            self._own_engine.close()

    async def _run_here(self, progress: Progress) -> Progress:
        part = self.stages[progress.hosts_done]
        if not part.layers:
            return replace(progress, hosts_done=progress.hosts_done + 1)
        moment = {"request_id": progress.request_id, "host": part.host}
        self._instrument.stage_started(**moment, layers=len(part.layers))
        held_bytes = sum(value.nbytes for value in progress.tensors.values() if isinstance(value, torch.Tensor))
        executed = await self._engine.run(
            _call(part, progress.tensors), deadline_s=progress.deadline_s, size_bytes=held_bytes
        )
        self._instrument.stage_finished(**moment, seconds=executed.compute_s)
        timed = replace(
            progress,
            stage_s=(*progress.stage_s, executed.compute_s),
            queue_s=progress.queue_s + executed.queue_s,
        )
        return self._after(timed, executed.result)

    def _checked(self, part: Stage, sent: Mapping[str, Value], came: Mapping[str, Value]) -> dict[str, Value]:
        """A far host's answer as the graph has these tensors. Raises CodecError: it is something else."""
        if set(came) != set(part.outputs):
            names = sorted(set(came) ^ set(part.outputs))[:5]
            raise CodecError(f"host {part.host!r} answered with other tensors than it was asked for: {names}")
        try:
            made = admit(self._graph, came)
        except InvalidInput as error:
            raise CodecError(f"the answer of host {part.host!r}: {error}") from error
        samples = {samples_of(self._graph, of) for of in (self._growing(sent), self._growing(made)) if of}
        if len(samples) > 1:
            raise CodecError(f"host {part.host!r} answered for another batch than it was asked for")
        return made

    def _growing(self, tensors: Mapping[str, Value]) -> dict[str, Value]:
        """Those that tell the batch."""
        specs = self._graph.tensors
        return {name: v for name, v in tensors.items() if any(growth > 0 for growth in specs[name].batch_growth)}

    def _after(self, progress: Progress, made: Mapping[str, Value]) -> Progress:
        """One more host is done; tensors that no later host and no caller needs are let go."""
        done = progress.hosts_done + 1
        needed = {*self._outputs, *(tensor for part in self.stages[done:] for tensor in part.inputs)}
        held = {name: value for name, value in {**progress.tensors, **made}.items() if name in needed}
        return replace(progress, tensors=held, hosts_done=done)


def _call(part: Stage, tensors: Mapping[str, Value]) -> Callable[[], dict[str, Value]]:
    return lambda: run_request(part, tensors)
