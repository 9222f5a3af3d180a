"""In which order one host runs its part of a model with early exits: up to each exit's logits, then to what it sends.

A pure function of the graph; the caller keeps the tensors, runs the segments, and stops at the first sure exit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from splitnn.graph.exits import Exit, Exits
from splitnn.graph.graph import Graph


@dataclass(frozen=True, slots=True)
class Segment:
    """Layers that run together: ``wanted`` from ``given``, both in graph order, for ``Graph.between`` or a stage."""

    exit: Exit | None  # whose logits are among the wanted; None for what is left to run before the frontier is sent
    given: tuple[str, ...]
    wanted: tuple[str, ...]  # the exit's logits, and what later segments or the next host read


@dataclass(frozen=True, slots=True)
class Segments:
    """What a host does with a request. When no exit was sure and none of its own is the last, it sends the frontier."""

    steps: tuple[Segment, ...]
    frontier: tuple[str, ...]  # tensors for the next host, among the given and the wanted ones; () when all end here


def segments(
    graph: Graph, exits: Exits, given: Iterable[str], *, layers: Collection[str] | None = None, first: int = 0
) -> Segments:
    """The segments of a host that holds the tensors ``given`` and runs ``layers`` (all that is left, unless named).

    ``first`` is the number of exits that hosts before it have decided. An exit is decided here when all the layers that
    its logits still need are this host's; the first that is not, and all behind it, are for the next host.

    Raises:
        ValueError: an exit is no output of the graph, or ``given`` and ``layers`` do not suffice for anything.
    """
    exits.check_fits(graph)
    order = {tensor: at for at, tensor in enumerate([*graph.inputs, *(t for y in graph.layers for t in y.outputs)])}
    held = set(given)
    if unknown := sorted(held - graph.tensors.keys()):
        raise ValueError(f"no tensor is called {unknown[0]!r} in this model")
    own = graph.index.keys() if layers is None else set(layers)
    decided: list[tuple[Exit, set[str]]] = []
    for each in exits.exits[first:]:
        needed = _needed(graph, held, [each.output])
        if not needed <= own:
            break
        decided.append((each, needed))
    beyond = _needed(graph, held, [each.output for each in exits.exits[first + len(decided) :]])
    elsewhere = beyond - own
    frontier = {tensor for name in elsewhere for tensor in graph.layer(name).inputs}
    frontier = {tensor for tensor in frontier if tensor in held or graph.producer.get(tensor) in own}
    parts: list[tuple[Exit | None, set[str]]] = [*decided]
    if remaining := _needed(graph, held, frontier):
        if back := sorted(remaining - set(own)):
            raise ValueError(f"layer {back[0]!r} is another host's, but this host's layers read from it")
        if not remaining <= set().union(*(needed for _, needed in decided)):
            parts.append((None, remaining))
    done: set[str] = set()
    steps = []
    for at, (here, needed) in enumerate(parts):
        new = needed - done
        done |= new
        read_later = {t for _, later in parts[at + 1 :] for name in later - done for t in graph.layer(name).inputs}
        read_later |= {later.output for later, _ in parts[at + 1 :] if later is not None}
        made = {tensor for name in new for tensor in graph.layer(name).outputs}
        wanted = made & (read_later | frontier) | ({here.output} if here is not None else set())
        read = {t for name in new for t in graph.layer(name).inputs} - made
        if here is not None and here.output not in made:  # there already
            read.add(here.output)
        steps.append(Segment(here, _sorted(read, order), _sorted(wanted, order)))
    return Segments(tuple(steps), _sorted(frontier, order))


def _needed(graph: Graph, held: Collection[str], wanted: Iterable[str]) -> set[str]:
    """The layers that make these tensors from those that are held. Raises ValueError: something is missing."""
    found: set[str] = set()
    waiting = list(wanted)
    while waiting:
        tensor = waiting.pop()
        if tensor in held:
            continue
        if tensor not in graph.producer:
            raise ValueError(f"{sorted(held)} do not suffice: {tensor!r} is needed too")
        name = graph.producer[tensor]
        if name not in found:
            found.add(name)
            waiting.extend(graph.layer(name).inputs)
    return found


def _sorted(tensors: Iterable[str], order: dict[str, int]) -> tuple[str, ...]:
    return tuple(sorted(tensors, key=lambda tensor: order[tensor]))
