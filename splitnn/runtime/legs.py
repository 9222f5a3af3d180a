"""A host's part of a model with early exits, at work: leg by leg, each with the tensors that the one before it left."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from splitnn.errors import InvalidInput
from splitnn.graph.exits import Exit, Exits
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model
from splitnn.graph.segments import Segments, segments
from splitnn.planner.plan import Plan
from splitnn.runtime.exits import Passage, judged, lightened
from splitnn.runtime.stage import Stage, stage
from splitnn.runtime.stages import Stages, run_request

_KEPT = 128

Compile = Callable[[Collection[str], Collection[str]], Stage]
"""The stage that turns the tensors of the first collection into those of the second."""
GoesOn = Callable[["Leg", Passage], bool]
"""Whether there is time for a leg, for a request that stands there."""


@dataclass(frozen=True, slots=True)
class Leg:
    """A stage, the exit that reads its logits at its end (if it ends at one), and what must be kept behind it."""

    part: Stage
    exit: Exit | None
    kept: tuple[str, ...]


def legs(found: Segments, compile: Compile) -> tuple[Leg, ...]:
    """The segments with their stages; nothing is computed in two of them."""
    made: list[Leg] = []
    kept = set(found.frontier)
    for step in reversed(found.steps):
        made.append(Leg(compile(step.given, step.wanted), step.exit, tuple(sorted(kept))))
        kept = (kept - set(step.wanted)) | set(step.given)
    return tuple(reversed(made))


def passing(
    way: Iterable[Leg], passage: Passage, *, graph: Graph, host: str, goes_on: GoesOn | None = None
) -> Iterator[Passage]:
    """Run the legs one by one, and say after each where the request stands.

    Ends when every sample is answered, or before a leg that ``goes_on`` refuses.

    Raises:
        InvalidInput: an operator fails on the values.
    """
    for leg in way:
        if goes_on is not None and not goes_on(leg, passage):
            return
        there = {**passage.tensors, **run_request(leg.part, passage.tensors)}
        passage = replace(passage, tensors={name: there[name] for name in leg.kept})
        if leg.exit is not None:
            logits = there[leg.exit.output]
            assert isinstance(logits, torch.Tensor)  # logits are floats
            passage = lightened(judged(passage, logits, leg.exit, host=host), graph)
        yield passage
        if passage.is_over:
            return


@dataclass(frozen=True, slots=True)
class Part:
    """What one host of a plan does with a request."""

    legs: tuple[Leg, ...]
    frontier: tuple[str, ...]  # tensors for the next host; () when all ends here
    exits: tuple[Exit, ...]  # that answer here


def parts(model: Model, plan: Plan, exits: Exits) -> tuple[Part, ...]:
    """One part for each host of the plan. An exit answers where its logits are made.

    An exit further from the device than a deeper one is not used: its answer would come too late.
    """
    tiers = dict(zip(plan.order, plan.tiers, strict=True))
    at = [tiers[model.graph.producer[each.output]] for each in exits.exits]
    exits = exits.only(*(each.name for i, each in enumerate(exits.exits) if at[i] == min(at[i:])))
    found: list[Part] = []
    given, first = tuple(model.graph.inputs), 0
    for host, layers in zip(plan.hosts, plan.layers, strict=True):
        if first == len(exits.exits):
            found.append(Part((), (), ()))
            continue
        own = segments(model.graph, exits, given, layers=layers, first=first)
        decided = tuple(step.exit for step in own.steps if step.exit is not None)
        way = legs(own, lambda given, wanted, host=host: stage(model, given, wanted, host=host))  # type: ignore[misc]
        found.append(Part(way, own.frontier, decided))
        given, first = own.frontier, first + len(decided)
    return tuple(found)


class Ways:
    """From the tensors that a request brings, by the exits that may answer it, to the end: compiled once each.

    Not thread-safe, as ``Stages`` is not.
    """

    def __init__(self, stages: Stages) -> None:
        self._graph = stages.model.graph
        self._stages = stages
        self._found: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], Segments] = OrderedDict()

    def get(self, given: Iterable[str], exits: Exits, *, samples: int) -> tuple[Leg, ...]:
        """The legs for a batch of ``samples``. Exits that cannot be computed from the given tensors lie behind them.

        Raises:
            InvalidInput: the tensors are no cut of the model, or some of them are not needed.
            PayloadTooLarge: the largest layer needs more than the working bytes for that batch.
        """
        key = tuple(sorted(given)), tuple(each.name for each in exits.exits)
        if key not in self._found:
            self._found[key] = _from_here(self._graph, key[0], exits)
        self._found.move_to_end(key)
        while len(self._found) > _KEPT:
            self._found.popitem(last=False)
        return legs(self._found[key], lambda given, wanted: self._stages.get(given, wanted, samples=samples))


def _from_here(graph: Graph, given: Collection[str], exits: Exits) -> Segments:
    """The segments behind these tensors, from the first exit on from which all the others can be computed too."""
    for first in range(len(exits.exits)):
        try:
            found = segments(graph, exits, given, first=first)
        except ValueError:
            continue
        read = {tensor for step in found.steps for tensor in step.given}
        if (useless := sorted(set(given) - read)) and set(given) != set(graph.inputs):
            raise InvalidInput(f"the tensors {sorted(given)} are no cut of the model: {useless} are not needed")
        return found
    graph.between(given, [exits.exits[-1].output])  # says what is wrong with them
    raise InvalidInput(f"no exit can be computed from the tensors {sorted(given)}")
