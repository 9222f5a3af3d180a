"""Early exits: outputs of a model that may answer for it, when they are sure, and how often they were on held-out data.

An exit is an output that holds logits. A request runs up to the first exit's logits; when that is confident enough its
answer is the answer, else the request runs on to the next (BranchyNet; Edgent; SPINN). A cascade is the same thing with
a trunk of its own for the first exit. Where the exits' layers run is the planner's business: they are ordinary layers,
and an exit acts where its logits are made. Knows no torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, Protocol, get_args

from splitnn.graph.graph import Graph

Against = Literal["labels", "model"]
"""What an answer was judged by: labels, or agreement with the answer of the model's own output."""

_FORMAT = "splitnn-exits-1"
_WORDS = ("", "all", "none")  # what a request says in place of names
_MOST_EXITS, _MOST_SAMPLES = 16, 2**48


@dataclass(frozen=True, slots=True)
class Exit:
    """One output that may answer. It does when the largest ``softmax(logits / temperature)`` reaches ``threshold``."""

    name: str
    output: str  # the tensor of its logits, (N, classes), among the graph's outputs
    temperature: float = 1.0
    threshold: float = 0.0  # 0 answers always

    def __post_init__(self) -> None:
        if self.name in _WORDS or "," in self.name or self.name != self.name.strip():
            raise ValueError(f"no request can ask for an exit {self.name!r}: it is empty, a word of its own or a list")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"exit {self.name!r}: a temperature is a finite number above 0, not {self.temperature}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"exit {self.name!r}: a threshold is a probability, not {self.threshold}")


@dataclass(frozen=True, slots=True)
class Tally:
    """How many held-out samples were alike: of each exit whether it was sure, and whether it was right."""

    sure: tuple[bool, ...]
    right: tuple[bool, ...]
    samples: int


@dataclass(frozen=True)
class Exits:
    """The exits that a model uses, in order of depth, with thresholds and what those did on held-out data.

    The last one answers whatever arrives there. Which samples were sure and right at which exit is kept jointly, so
    that shares and accuracies of any choice among the exits (``only``) follow by counting. It is a policy: not part of
    a model's digest.

    Raises:
        ValueError: no exit, a name twice, a last exit that may refuse, or tallies that do not fit.
    """

    exits: tuple[Exit, ...]
    tallies: tuple[Tally, ...]
    against: Against
    data: str  # name of the held-out data
    design_effect: float = 1.0  # variance of what is counted, over that of as many samples of separate origins

    def __post_init__(self) -> None:
        names = [each.name for each in self.exits]
        if not 1 <= len(names) <= _MOST_EXITS:
            raise ValueError(f"a model has 1 to {_MOST_EXITS} exits, not {len(names)}")
        if len(set(names)) < len(names) or len({each.output for each in self.exits}) < len(names):
            raise ValueError(f"two exits have one name or one output: {names}")
        if self.exits[-1].threshold != 0:
            raise ValueError(f"exit {names[-1]!r} is the last: it answers always, its threshold is 0")
        if self.against not in get_args(Against):
            raise ValueError(f"exits are judged against {' or '.join(get_args(Against))}, not {self.against!r}")
        if not (math.isfinite(self.design_effect) and self.design_effect >= 1):
            raise ValueError(f"a design effect is a finite number from 1, not {self.design_effect}")
        for tally in self.tallies:
            if not len(tally.sure) == len(tally.right) == len(names):
                raise ValueError(f"{len(names)} exits, but a tally of {len(tally.sure)} and {len(tally.right)}")
            if type(tally.samples) is not int or not 0 < tally.samples <= _MOST_SAMPLES:
                raise ValueError(f"a tally counts samples, 1 or more, not {tally.samples!r}")
        if not self.tallies:
            raise ValueError("exits without a single held-out sample: nobody knows what they do")

    @classmethod
    def counted(
        cls,
        exits: Iterable[Exit],
        outcomes: Iterable[tuple[Sequence[bool], Sequence[bool]]],
        *,
        against: Against,
        data: str,
        design_effect: float = 1.0,
    ) -> Exits:
        """From the outcome of each sample: of each exit whether it was sure, and whether it was right."""
        found = tuple(exits)
        last = len(found) - 1
        alike = Counter(
            (tuple(bool(each) or at == last for at, each in enumerate(sure)), tuple(bool(each) for each in right))
            for sure, right in outcomes
        )
        return cls(found, tuple(Tally(*key, alike[key]) for key in sorted(alike)), against, data, design_effect)

    @cached_property
    def samples(self) -> int:
        """Held-out samples."""
        return sum(tally.samples for tally in self.tallies)

    @cached_property
    def left(self) -> tuple[int, ...]:
        """Of each exit the samples that leave there."""
        return self._count(lambda tally, leaves, at: leaves == at)

    @cached_property
    def right(self) -> tuple[int, ...]:
        """Of each exit the samples that leave there with the right answer."""
        return self._count(lambda tally, leaves, at: leaves == at and tally.right[at])

    @cached_property
    def right_alone(self) -> tuple[int, ...]:
        """Of each exit the samples that it would answer rightly if it answered all."""
        return self._count(lambda tally, leaves, at: tally.right[at])

    @cached_property
    def arrived(self) -> tuple[int, ...]:
        """Of each exit the samples that arrive there."""
        return tuple(accumulate(reversed(self.left)))[::-1]

    @cached_property
    def reach(self) -> tuple[float, ...]:
        """Of each exit the share of samples that arrive there; 1 for the first."""
        return tuple(arrived / self.samples for arrived in self.arrived)

    @property
    def accuracy(self) -> float:
        """Share of right answers of all together."""
        return sum(self.right) / self.samples

    def _count(self, holds: _Holds) -> tuple[int, ...]:
        found = [0] * len(self.exits)
        for tally in self.tallies:
            leaves = _leaves(tally)
            for at in range(len(found)):
                if holds(tally, leaves, at):
                    found[at] += tally.samples
        return tuple(found)

    def only(self, *names: str) -> Exits:
        """The policy that uses these exits, in order of depth; the last of them answers always.

        One name is a model cut off there (Edgent's exit for all samples).

        Raises:
            ValueError: an unknown name, or none.
        """
        if unknown := sorted(set(names) - {each.name for each in self.exits}):
            raise ValueError(f"no exit is called {unknown[0]!r}; there are {[each.name for each in self.exits]}")
        kept = [at for at, each in enumerate(self.exits) if each.name in names]
        exits = [self.exits[at] for at in kept]
        alike: Counter[tuple[tuple[bool, ...], tuple[bool, ...]]] = Counter()
        for tally in self.tallies:
            sure = (*(tally.sure[at] for at in kept[:-1]), True)
            alike[sure, tuple(tally.right[at] for at in kept)] += tally.samples
        return Exits(
            exits=(*exits[:-1], *(replace(each, threshold=0.0) for each in exits[-1:])),
            tallies=tuple(Tally(*key, alike[key]) for key in sorted(alike)),
            against=self.against,
            data=self.data,
            design_effect=self.design_effect,
        )

    def at_worst(self) -> Exits:
        """As if no exit but the last were ever sure: what a request costs at most."""
        flags = tuple(each is self.exits[-1] for each in self.exits)
        return replace(self, tallies=(Tally(flags, flags, 1),))

    def check_fits(self, graph: Graph) -> None:
        """Raises ValueError when an exit is no output that could be logits, or their numbers of classes differ."""
        for each in self.exits:
            if each.output not in graph.outputs or each.output not in graph.producer:
                raise ValueError(
                    f"exit {each.name!r}: {each.output!r} is no output that the model computes; these are: "
                    f"{[tensor for tensor in graph.outputs if tensor in graph.producer]}"
                )
            spec = graph.tensors[each.output]
            if len(spec.shape) != 2 or not spec.dtype.startswith(("float", "bfloat")):
                raise ValueError(f"exit {each.name!r}: logits are (N, classes) floats, not {spec.dtype} {spec.shape}")
        classes = {each.name: graph.tensors[each.output].shape[1] for each in self.exits}
        if len(set(classes.values())) > 1:
            raise ValueError(f"exits answer one question, but these tell different numbers of classes apart: {classes}")

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to equal exits."""
        return {
            "format": _FORMAT,
            "exits": [
                {"name": e.name, "output": e.output, "temperature": e.temperature, "threshold": e.threshold}
                for e in self.exits
            ],
            "against": self.against,
            "data": self.data,
            "design_effect": self.design_effect,
            "tallies": [[_bits(tally.sure), _bits(tally.right), tally.samples] for tally in self.tallies],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Exits:
        """The exits that ``to_json`` wrote.

        Raises:
            ValueError: the object is no such thing.
        """
        try:
            if data["format"] != _FORMAT:
                raise ValueError(f"not exits: format {data['format']!r}")
            return cls(
                exits=tuple(
                    Exit(str(e["name"]), str(e["output"]), float(e["temperature"]), float(e["threshold"]))
                    for e in data["exits"]
                ),
                tallies=tuple(Tally(_flags(sure), _flags(right), count) for sure, right, count in data["tallies"]),
                against=data["against"],
                data=str(data["data"]),
                design_effect=float(data.get("design_effect", 1.0)),  # older files have none
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not exits: {error!r}") from error


def levels(graph: Graph, exits: Exits) -> dict[str, int]:
    """Of each layer the first exit that needs it, by position; layers that no exit needs are absent.

    Raises:
        ValueError: an exit is no output of the graph.
    """
    exits.check_fits(graph)
    found: dict[str, int] = {}
    for level, each in enumerate(exits.exits):
        waiting = [graph.producer[each.output]]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = level
                waiting.extend(graph.producer[t] for t in graph.layer(name).inputs if t in graph.producer)
    return found


def part_used(graph: Graph, exits: Exits) -> Graph:
    """The graph without the layers that no exit needs; its outputs are the exits' logits.

    Raises:
        ValueError: an exit is no output of the graph.
    """
    needed = levels(graph, exits)
    return replace(
        graph,
        layers=tuple(layer for layer in graph.layers if layer.name in needed),
        outputs=tuple(each.output for each in exits.exits),
    )


def survival(graph: Graph, exits: Exits) -> dict[str, float]:
    """The share of samples for which each layer runs when it waits for the exits before it; 0 where no exit needs it.

    Raises:
        ValueError: an exit is no output of the graph.
    """
    found = levels(graph, exits)
    return {layer.name: exits.reach[found[layer.name]] if layer.name in found else 0.0 for layer in graph.layers}


class _Holds(Protocol):
    def __call__(self, tally: Tally, leaves: int, at: int) -> bool: ...


def _leaves(tally: Tally) -> int:
    """The exit at which those samples leave."""
    return next((at for at, sure in enumerate(tally.sure) if sure), len(tally.sure) - 1)


def _bits(flags: Iterable[bool]) -> str:
    return "".join("1" if flag else "0" for flag in flags)


def _flags(bits: Any) -> tuple[bool, ...]:
    if not isinstance(bits, str) or set(bits) - {"0", "1"}:
        raise ValueError(f"not exits: {bits!r} where 0s and 1s belong")
    return tuple(bit == "1" for bit in bits)
