"""Programs as Python code: one call after the other, or compiled through torch.fx. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from splitnn.graph.operators import resolve
from splitnn.graph.program import Node, Program, Ref, Symbol, rewrite

Callee = Callable[..., tuple[Any, ...]]
"""A compiled piece of a program: takes the given values in order, returns the wanted ones in order."""


def _call(operator: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    return operator(*args, **kwargs)


def run_nodes(
    nodes: Sequence[Node],
    values: Mapping[str, Any],
    *,
    device: str = "cpu",
    call: Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any] = _call,
) -> Iterator[tuple[Node, Any]]:
    """Run the nodes one by one; yields each with its result. A value is let go after its last reader.

    ``call`` calls each operator: what stands around the call itself can be kept out of a measurement.
    """
    last = {name: node.name for node in nodes for name in node.reads}
    live = dict(values)
    for node in nodes:
        args, kwargs = rewrite((node.args, tuple(node.kwargs.values())), lambda leaf: _value(leaf, live, device))
        result = call(resolve(node.op), args, dict(zip(node.kwargs, kwargs, strict=True)))
        del args, kwargs
        yield node, result
        live[node.name] = result
        for name in node.reads:
            if last[name] == node.name:
                del live[name]


def _value(leaf: Any, values: Mapping[str, Any], device: str) -> Any:
    if isinstance(leaf, Ref):
        return values[leaf.name]
    if isinstance(leaf, Program):
        code = Code()
        code.write(leaf.nodes, leaf.inputs, leaf.outputs, device)
        return code.module()
    return _constant(leaf, device)


def _constant(leaf: Any, device: str) -> Any:
    if not isinstance(leaf, Symbol):
        return leaf
    if leaf.kind == "device":
        return torch.device(device)
    found = getattr(torch, leaf.name, None)
    if not isinstance(found, (torch.dtype, torch.layout, torch.memory_format)):
        raise ValueError(f"a program names the {leaf.kind} {leaf.name!r}, which torch does not have")
    return found


class Code:
    """An fx graph under construction, with what its code needs to hold."""

    def __init__(self) -> None:
        self._root = torch.nn.Module()
        self._graph = fx.Graph()
        self._values: dict[str, fx.Node] = {}
        self._kept: dict[str, str] = {}

    def keep(self, name: str, value: Any) -> None:
        """Hold a weight or constant (a tensor, an integer or a tuple of them) for the code to read."""
        attribute = f"kept_{len(self._kept)}"
        if isinstance(value, torch.Tensor):
            self._root.register_buffer(attribute, value)
        else:
            setattr(self._root, attribute, value)
        self._kept[name] = attribute

    def write(self, nodes: Sequence[Node], given: Sequence[str], wanted: Sequence[Any], device: str) -> None:
        """Write the code: arguments, kept values, calls, results."""
        for number, name in enumerate(given):  # a tensor may be called "0" or "class"; an argument may not
            self._values[name] = self._graph.placeholder(f"given_{number}")
        for name, attribute in self._kept.items():
            self._values[name] = self._graph.get_attr(attribute)

        def argument(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return self._values[leaf.name]
            if isinstance(leaf, Program):
                branch = f"branch_{len(self._root._modules)}"
                self._root.add_module(branch, _value(leaf, {}, device))
                return self._graph.get_attr(branch)
            return _constant(leaf, device)

        for node in nodes:
            args = rewrite(node.args, argument)
            kwargs = {key: rewrite(value, argument) for key, value in node.kwargs.items()}
            self._values[node.name] = self._graph.call_function(resolve(node.op), args, kwargs)
        self._graph.output(tuple(rewrite(wanted, argument)))

    def module(self) -> fx.GraphModule:
        """The compiled code with what it holds."""
        return fx.GraphModule(self._root, self._graph)

    def compiled(self) -> Callee:
        """The code alone, without ``nn.Module``'s call machinery."""
        return self.module().forward
