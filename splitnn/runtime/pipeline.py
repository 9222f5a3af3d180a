"""A plan at work: one request through all hosts of a chain, the first stage here, the others over transports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from splitnn.errors import CodecError, InvalidInput
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model, Value
from splitnn.instrument import Instrument
from splitnn.planner.plan import Plan
from splitnn.runtime.engine import Engine
from splitnn.runtime.engines.serving import Prepare, as_it_is
from splitnn.runtime.inputs import admit, samples_of
from splitnn.runtime.past_exits import PastExits, Predict
from splitnn.runtime.progress import Progress as Progress
from splitnn.runtime.stage import Stage, split
from splitnn.runtime.stages import run_request
from splitnn.transport.base import Clock, Parameter, Request, Transport


class Pipeline:
    """A model split by a plan. Any number of requests may be under way at once, in one event loop.

    ``transports[i]`` leads from here to host i + 1, which serves the model as ``name``; a host without layers is
    never asked. Tensors that a host makes come back here and go on to the next one: what a host does not read never
    visits it. ``Plan.predicted`` prices hops from host to host instead, so that with three hosts and more a request
    takes longer than predicted: each later hop's tensors pass this host's links too. All stages are compiled here too,
    so that a request can be finished without the others.
    The transports and a given engine stay their owner's; ``close`` ends an engine of the pipeline's own.

    With ``exits`` a request is over as soon as one of them is sure: here after each exit whose logits are made here,
    at the last host by its own account. A host between them runs its whole part and sends its exits' logits along,
    which are judged here: where they are sure no further host is asked. The one output is then the last exit's,
    whichever answered. Where the way to the next exit would take longer than the deadline allows, by ``predict`` or in
    fact, what the exits before it have said is the answer (SPINN), and ``Progress.is_short``.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        transports: Sequence[Transport] = (),
        *,
        name: str = "model",
        exits: Exits | None = None,
        predict: Predict = lambda layers: 0.0,
        prepare: Prepare = as_it_is,
        engine: Engine | None = None,
        instrument: Instrument | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Compiles all stages (some 60 ms). ``prepare`` puts this host's own stage on another engine.

        Raises:
            ProfileMismatch: the plan is of another model.
            ValueError: a host that has layers has no transport.
        """
        if not plan.is_local and len(transports) != len(plan.hosts) - 1:
            raise ValueError(f"a plan for {len(plan.hosts)} hosts needs a transport a hop, not {len(transports)}")
        self.plan = plan
        own, *others = split(model, plan)
        self.stages = (prepare(own), *others)
        self._graph = model.graph
        self._digest = model.digest
        # The last host answers with what it is asked for, unless it is told to use its exits.
        self._parameters: dict[str, Parameter] = {} if model.exits is None else {"exits": "none"}
        self._outputs = tuple(dict.fromkeys(model.graph.outputs))
        self._inputs = tuple(model.graph.inputs)
        self._transports = tuple(transports)
        self._name = name
        self._own_engine = Engine("pipeline", clock=clock) if engine is None else None
        self._engine = engine or self._own_engine or Engine()
        self._instrument = instrument or Instrument()
        self._clock = clock
        self._past: PastExits | None = None
        if exits is not None:
            self._past = PastExits(model, plan, exits, engine=self._engine, predict=predict, clock=clock)

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
        progress = Progress(dict(inputs), deadline_s, request_id)
        return await self._run_here(self._past.begin(progress) if self._past else progress)

    async def advance(self, progress: Progress, *, until_s: float | None = None) -> Progress:
        """Let the next host do its part, until ``until_s`` at the latest (an instant; the deadline by default).

        Raises:
            RequestError, TransportError, CodecError: the host did not, or answered with other tensors than it was asked
                for; ``progress`` is as good as before.
        """
        if not self._has_part(progress.hosts_done):
            return replace(progress, hosts_done=progress.hosts_done + 1)
        part, hop = self.stages[progress.hosts_done], progress.hosts_done - 1
        if self._past:
            sent, (wanted, parameters) = self._past.sends(progress), self._past.wants(progress)
        else:
            sent = {tensor: progress.tensors[tensor] for tensor in part.inputs}
            wanted, parameters = part.outputs, self._parameters
        request = Request(
            model=self._name,
            tensors=sent,
            deadline_s=progress.deadline_s if until_s is None else min(until_s, progress.deadline_s),
            digest=self._digest,
            request_id=progress.request_id,
            codecs={tensor: self.plan.hops[hop].get(tensor, "raw") for tensor in sent},
            wanted=wanted,
            parameters=parameters,
        )
        answer = await self._transports[hop].infer(request)
        made = self._checked(part.host, request, answer.tensors)
        if self._past:
            return self._past.heard(progress, answer, made)
        return self._after(replace(progress, answers=(*progress.answers, answer)), made)

    async def finish_here(self, progress: Progress) -> Progress:
        """Run the stages of all hosts that have not done their part on this host, from the tensors that are here.

        Raises:
            TransportError: this host's engine is overloaded, or cannot run them before the deadline, and no exit has
                said anything.
        """
        while progress.hosts_done < len(self.stages):
            progress = await self._run_here(progress)
        return progress

    def settle(self, progress: Progress) -> Progress:
        """The request as the exits have left it, whether they were sure or not.

        Raises:
            ValueError: no exit has said anything.
        """
        if self._past is None:
            raise ValueError("this pipeline has no exits")
        return self._past.settled(progress)

    def layers_to_an_answer(self, progress: Progress) -> tuple[str, ...]:
        """What must run on this host until there is some answer: all that is left, or what leads to the next exit."""
        if self._past:
            return self._past.layers_to_an_answer(progress)
        return tuple(layer for part in self.stages[progress.hosts_done :] for layer in part.layers)

    def outputs(self, progress: Progress) -> dict[str, Value]:
        """The model's outputs, once every host is done; with exits the last one's, which all answer under."""
        if self._past:
            return self._past.outputs(progress)
        return {name: progress.tensors[name] for name in self._outputs}

    def close(self) -> None:
        """End the engine that this pipeline started; requests under way fail with ``Unavailable``."""
        if self._own_engine is not None:
            self._own_engine.close()

    def _has_part(self, host: int) -> bool:
        return self._past.has_part(host) if self._past else bool(self.stages[host].layers)

    async def _run_here(self, progress: Progress) -> Progress:
        if not self._has_part(progress.hosts_done):
            return replace(progress, hosts_done=progress.hosts_done + 1)
        part = self.stages[progress.hosts_done]
        moment = {"request_id": progress.request_id, "host": part.host}
        self._instrument.stage_started(**moment, layers=len(part.layers))
        if self._past:
            after = await self._past.run_here(progress)
        else:
            executed = await self._engine.run(
                _call(part, progress.tensors), deadline_s=progress.deadline_s, size_bytes=progress.held_bytes
            )
            after = self._after(progress.timed(executed, part.layers), executed.result)
        seconds = sum(after.stage_s) - sum(progress.stage_s)
        self._instrument.stage_finished(**moment, seconds=seconds)
        return after

    def _checked(self, host: str, request: Request, came: Mapping[str, Value]) -> dict[str, Value]:
        """A far host's answer as the graph has these tensors. Raises CodecError: it is something else."""
        if set(came) != set(request.wanted):
            names = sorted(set(came) ^ set(request.wanted))[:5]
            raise CodecError(f"host {host!r} answered with other tensors than it was asked for: {names}")
        try:
            made = admit(self._graph, came)
        except InvalidInput as error:
            raise CodecError(f"the answer of host {host!r}: {error}") from error
        samples = {samples_of(self._graph, of) for of in (self._growing(request.tensors), self._growing(made)) if of}
        if len(samples) > 1:
            raise CodecError(f"host {host!r} answered for another batch than it was asked for")
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
