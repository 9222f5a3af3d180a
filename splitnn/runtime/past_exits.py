"""One request past the exits of a plan: those on this host and on the hosts between, and those of the last host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from splitnn.errors import CodecError, TransportError
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model, Value
from splitnn.planner.plan import Plan
from splitnn.runtime.engine import Engine, Executed
from splitnn.runtime.exits import Passage, begin, judged, lightened, told
from splitnn.runtime.inputs import samples_of
from splitnn.runtime.legs import Leg, parts, passing
from splitnn.runtime.progress import Progress
from splitnn.transport.base import Answer, Clock, Parameter

_ANSWER_S = 0.02  # kept of a deadline for the way of an exit's answer to whoever waits for it,
_ANSWER_SHARE = 0.25  # but at most this share of it

Predict = Callable[[Sequence[str]], float]
"""Seconds of some layers on this host."""


class PastExits:
    """What ``Pipeline`` does where exits may answer: its steps, from one ``Progress`` to the next."""

    def __init__(
        self, model: Model, plan: Plan, exits: Exits, *, engine: Engine, predict: Predict, clock: Clock
    ) -> None:
        """Compiles the legs of all hosts, so that this one can finish without the others."""
        self.output = (model.exits or exits).exits[-1].output  # all answer under this name, whichever are used
        self._graph = model.graph
        self._plan = plan
        self._exits = exits
        self._parts = parts(model, plan, exits)
        self._engine = engine
        self._predict = predict
        self._clock = clock

    def begin(self, progress: Progress) -> Progress:
        """A request of which only the model's inputs are known."""
        passage = begin(progress.tensors, samples=samples_of(self._graph, progress.tensors))
        kept_s = min(_ANSWER_S, _ANSWER_SHARE * max(0.0, progress.deadline_s - self._clock()))
        return replace(progress, passage=passage, answer_by_s=progress.deadline_s - kept_s)

    def has_part(self, host: int) -> bool:
        """Whether a host of the plan has anything to do."""
        return bool(self._parts[host].legs)

    async def run_here(self, progress: Progress) -> Progress:
        """The next host's part on this host, in one piece of work for the engine, cut short where time is.

        Raises:
            InvalidInput: an operator fails on the inputs' values.
            TransportError: the engine cannot run it in time, and no exit has said anything yet.
        """
        way = self._parts[progress.hosts_done].legs
        latest, ran = [_passage(progress)], list[str]()

        def goes_on(leg: Leg, at: Passage) -> bool:
            if not at.has_answers:
                return True
            needed_s = self._predict(leg.part.layers) * len(at.aboard) / self._graph.batch
            return self._clock() + needed_s <= progress.answer_by_s

        def work() -> bool:
            done = 0
            for after in passing(way, latest[0], graph=self._graph, host=self._plan.hosts[0], goes_on=goes_on):
                ran.extend(way[done].part.layers)
                latest[0], done = after, done + 1
            return done == len(way)

        began_s = self._clock()
        running = asyncio.ensure_future(
            self._engine.run(work, deadline_s=progress.deadline_s, size_bytes=progress.held_bytes)
        )
        try:
            await asyncio.wait((running,), timeout=max(0.0, progress.answer_by_s - self._clock()))
            if not running.done() and latest[0].has_answers:
                cut_short = Executed(False, 0.0, self._clock() - began_s)  # of no layers: it teaches no pace
                return self.settled(_at(progress.timed(cut_short, ()), latest[0]))
            executed = await running
        except TransportError:
            if not latest[0].has_answers:
                raise
            return self.settled(_at(progress, latest[0]))
        finally:
            running.cancel()
        after = _at(progress.timed(executed, tuple(ran)), latest[0])
        if latest[0].is_over or not executed.result:
            return self.settled(after)
        return replace(after, hosts_done=progress.hosts_done + 1)

    def sends(self, progress: Progress) -> dict[str, Value]:
        """What the next host needs of what is held: that which it is asked for is computed from all of it."""
        held = _passage(progress).tensors
        read = {name for leg in self._parts[progress.hosts_done].legs for name in leg.part.inputs}
        return {name: value for name, value in held.items() if name in read}

    def wants(self, progress: Progress) -> tuple[tuple[str, ...], dict[str, Parameter]]:
        """The tensors that the next host is to return, and the request's parameters.

        Only the last host answers from exits. One before it returns what the hosts behind it read, beside its exits'
        logits, of which this host judges.
        """
        part = self._parts[progress.hosts_done]
        if part.frontier:
            held = _passage(progress).tensors
            made = [*part.frontier, *(each.output for each in part.exits)]
            return tuple(dict.fromkeys(name for name in made if name not in held)), {"exits": "none"}
        return (self.output,), {"exits": ",".join(each.name for each in part.exits)}

    def heard(self, progress: Progress, answer: Answer, made: Mapping[str, Value]) -> Progress:
        """After the next host's answer, with the tensors that it made.

        Raises:
            CodecError: it is for another batch.
        """
        passage, at = _passage(progress), progress.hosts_done
        after = replace(progress, answers=(*progress.answers, answer), hosts_done=at + 1)
        if frontier := self._parts[at].frontier:
            there = {**passage.tensors, **made}
            for each in self._parts[at].exits:
                logits = self._logits(there[each.output], passage, host=self._plan.hosts[at])
                passage = judged(passage, logits, each, host=self._plan.hosts[at])
            passage = lightened(replace(passage, tensors={name: there[name] for name in frontier}), self._graph)
            return self.settled(_at(after, passage)) if passage.is_over else _at(after, passage)
        logits = self._logits(made[self.output], passage, host=self._plan.hosts[at])
        names = str(answer.parameters.get("exit", "")).split(",")
        return self.settled(_at(after, told(passage, logits, names, self._exits, host=self._plan.hosts[at])))

    def _logits(self, value: Value, passage: Passage, *, host: str) -> torch.Tensor:
        """An exit's, a row for each sample aboard. Raises CodecError: the host answered for another batch."""
        if not isinstance(value, torch.Tensor) or len(value) != len(passage.aboard):
            raise CodecError(f"host {host!r} answered for another batch than it was asked for")
        return value

    def layers_to_an_answer(self, progress: Progress) -> tuple[str, ...]:
        """What this host would have to run until every sample has some answer; () when it has one."""
        way = self._parts[progress.hosts_done].legs if progress.hosts_done < len(self._parts) else ()
        if _passage(progress).has_answers:
            return ()
        first = next((at for at, leg in enumerate(way) if leg.exit is not None), len(way) - 1)
        return tuple(layer for leg in way[: first + 1] for layer in leg.part.layers)

    def settled(self, progress: Progress) -> Progress:
        """The request as the exits have left it, whether they were sure or not.

        Raises:
            ValueError: of a sample no exit has said anything.
        """
        passage = _passage(progress)
        if not passage.has_answers:
            raise ValueError("no exit has answered yet")
        return replace(progress, hosts_done=len(self._parts), is_short=not passage.is_over)

    def outputs(self, progress: Progress) -> dict[str, Value]:
        """The answers under the last exit's name, whichever gave them."""
        return {self.output: _passage(progress).logits}


def _passage(progress: Progress) -> Passage:
    if progress.passage is None:
        raise ValueError("this request did not begin with exits")
    return progress.passage


def _at(progress: Progress, passage: Passage) -> Progress:
    return replace(progress, passage=passage, tensors=passage.tensors)
