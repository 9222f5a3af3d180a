"""What the names of a program's operators mean in torch, and whether it may call them.

A model that comes from a disk or a network may call nothing else: the operators of aten that ``allowed.py`` lists, in
the overloads that write into nothing; arithmetic on sizes; torch's control flow.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from splitnn.graph.allowed import ALLOWED, ALLOWED_PRIVATE

# fmt: off
_ARITHMETIC = ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "eq", "ne", "lt", "le", "gt",
               "ge", "and_", "or_", "not_")
# fmt: on
_SYMBOLIC = ("sym_max", "sym_min", "sym_float", "sym_int", "sym_not", "sym_ite")
_SIZES: Mapping[str, Callable[..., Any]] = {
    **{f"operator.{name}": getattr(operator, name) for name in _ARITHMETIC},
    **{f"torch.{name}": getattr(torch, name) for name in _SYMBOLIC},
}
_LARGEST_SIZE = 2**63
_CONTROL: Mapping[str, Any] = {
    f"higher_order.{name}": getattr(torch.ops.higher_order, name)
    for name in ("cond", "wrap_with_set_grad_enabled", "wrap_with_autocast")
}
_ALLOWED = ALLOWED | ALLOWED_PRIVATE
_NAMES = {target: name for name, target in {**_SIZES, **_CONTROL}.items()}


def name_of(target: Any) -> str | None:
    """The operator's name in programs, ``None`` when programs may not call it."""
    if isinstance(target, torch._ops.OpOverload):
        name = f"{target.namespace}.{target._schema.name.split('::')[1]}.{target._overloadname}"
        return name if target.namespace == "aten" and _is_allowed(target) else None
    return _NAMES.get(target)


def resolve(name: str) -> Callable[..., Any]:
    """The operator of that name.

    Raises:
        ValueError: programs may not call it, or this torch does not know it.
    """
    if name == "operator.getitem":
        return operator.getitem
    if name in _SIZES:
        return _on_sizes(_SIZES[name])
    if name in _CONTROL:
        control: Callable[..., Any] = _CONTROL[name]
        return control
    parts = name.split(".")
    if len(parts) == 3 and parts[0] == "aten":
        packet = getattr(torch.ops.aten, parts[1], None)
        target = getattr(packet, parts[2], None)
        if isinstance(target, torch._ops.OpOverload) and _is_allowed(target):
            return target
    raise ValueError(f"operator {name!r} is not on the allow-list (splitnn/graph/allowed.py)")


@functools.cache
def _on_sizes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function on plain numbers alone: on others, or large ones, it could take a host's time and memory."""

    def checked(*numbers: Any) -> Any:
        if not all(isinstance(number, (bool, int, float)) and abs(number) < _LARGEST_SIZE for number in numbers):
            raise ValueError(f"{function.__name__} of {[type(number).__name__ for number in numbers]} is no size")
        return function(*numbers)

    checked.__name__ = checked.__qualname__ = f"size_{function.__name__}"
    return checked


def _is_allowed(target: torch._ops.OpOverload[..., Any]) -> bool:
    schema = target._schema
    return (
        schema.name.removeprefix("aten::") in _ALLOWED
        and not schema.is_mutable  # an allowed name has overloads that write into `out`
        and len(schema.returns) > 0
        # TorchScript's own overloads (aten::split of a str) have a schema but no kernel
        and torch._C._dispatch_has_kernel(target.name())
    )
