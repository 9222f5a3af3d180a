"""What a graph's layers do: the functional program, as values that JSON can hold. Knows no torch.

A value is a model input, a weight, or the result of a node. Tensors of ``Graph`` are values of the same name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from keyword import iskeyword
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Ref:
    """The value of that name, as an argument."""

    name: str


@dataclass(frozen=True, slots=True)
class Symbol:
    """A torch constant that JSON has no word for, as an argument: ``Symbol("dtype", "float32")``."""

    kind: Literal["dtype", "device", "layout", "memory_format"]
    name: str


@dataclass(frozen=True, slots=True)
class Node:
    """One call: ``name = op(*args, **kwargs)``. Arguments nest lists, tuples, ``Ref``, ``Symbol`` and ``Program``."""

    name: str
    op: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the values among the arguments, each once, in order."""
        return tuple(dict.fromkeys(_refs((self.args, *self.kwargs.values()))))


@dataclass(frozen=True)
class Program:
    """Calls in an order in which they can run. ``outputs`` nests like a node's arguments."""

    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Any, ...]

    def __post_init__(self) -> None:
        known = {*self.inputs, *self.weights}
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"program: two values are called {node.name!r}")
            if odd := [key for key in node.kwargs if not key.isidentifier() or iskeyword(key)]:
                raise ValueError(f"program: {node.name!r} has arguments called {odd}")  # they become Python code
            if unknown := [name for name in node.reads if name not in known]:
                raise ValueError(f"program: {node.name!r} reads {unknown} before anything makes it")
            known.add(node.name)
        if unknown := [name for name in _refs(self.outputs) if name not in known]:
            raise ValueError(f"program: outputs {unknown} are never made")

    @cached_property
    def node(self) -> Mapping[str, Node]:
        """Node by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def constants(self) -> frozenset[str]:
        """Nodes that depend on weights and literals only: every host computes them once, nobody sends them.

        A node that makes an output is no constant, so that somebody is asked for it.
        """
        returned = set(_refs(self.outputs))
        found: set[str] = set()
        for node in self.nodes:
            fixed = all(name in found or name in self.weights for name in node.reads)
            if fixed and node.name not in returned and not is_random(node.op):
                found.add(node.name)
        return frozenset(found)

    def needed(self, given: Collection[str], wanted: Sequence[str]) -> tuple[Node, ...]:
        """The nodes that turn the values ``given`` into ``wanted``, constants included, in order.

        Raises:
            ValueError: a model input is needed that is not given.
        """
        stack = [name for name in wanted if name not in given]
        needed: set[str] = set()
        while stack:
            name = stack.pop()
            if name in needed or name in self.weights:
                continue
            if name in self.inputs:
                raise ValueError(f"{sorted(given)} do not suffice for {list(wanted)}: {name!r} is needed too")
            needed.add(name)
            stack.extend(read for read in self.node[name].reads if read not in given)
        return tuple(node for node in self.nodes if node.name in needed)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal program."""
        return {
            "inputs": list(self.inputs),
            "weights": list(self.weights),
            "nodes": [
                [n.name, n.op, _dump(list(n.args)), {key: _dump(value) for key, value in n.kwargs.items()}]
                for n in self.nodes
            ],
            "outputs": _dump(list(self.outputs)),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Program:
        """The program that ``to_json`` wrote.

        Raises:
            ValueError: the object is not such a program.
        """
        try:
            return cls(
                inputs=tuple(data["inputs"]),
                weights=tuple(data["weights"]),
                nodes=tuple(
                    Node(str(name), str(op), tuple(_load(args)), {str(k): _load(v) for k, v in kwargs.items()})
                    for name, op, args, kwargs in data["nodes"]
                ),
                outputs=tuple(_load(data["outputs"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a program: {error!r}") from error


def rewrite(value: Any, change: Callable[[Any], Any]) -> Any:
    """The nested argument with every leaf replaced by ``change(leaf)``."""
    if isinstance(value, list):
        return [rewrite(item, change) for item in value]
    if isinstance(value, tuple):
        return tuple(rewrite(item, change) for item in value)
    return change(value)


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _refs(item)


def is_random(op: str) -> bool:
    """Whether two runs of the operator differ by design."""
    name = op.split(".")[1]
    return "rand" in name or "dropout" in name or name in {"bernoulli", "multinomial", "normal", "poisson"}


def _dump(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list):
        return [_dump(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_dump(item) for item in value]}
    if isinstance(value, Ref):
        return {"ref": value.name}
    if isinstance(value, Symbol):
        return {value.kind: value.name}
    if isinstance(value, Program):
        return {"program": value.to_json()}
    raise TypeError(f"a program cannot hold {value!r} as an argument")


def _load(value: Any) -> Any:
    if isinstance(value, list):
        return [_load(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "float":
        return float(content)
    if kind == "tuple":
        return tuple(_load(item) for item in content)
    if kind == "ref":
        return Ref(str(content))
    if kind == "program":
        return Program.from_json(content)
    if kind in ("dtype", "device", "layout", "memory_format"):
        return Symbol(kind, str(content))
    raise ValueError(f"not an argument of a program: {value!r}")
