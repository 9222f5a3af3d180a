"""Nested arguments and results as values that JSON can hold: which tensor sits where. Knows no torch.

A structure is ``{"tensor": name}``, ``{"value": literal}``, ``{"list": [...]}``, ``{"tuple": [...]}`` or
``{"dict": [[key, structure], ...]}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Structure = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """A leaf of a nested object that stands for its structure."""

    structure: Structure


def structure_of(nested: Any) -> Structure:
    """The structure of a nested object whose leaves are places; other leaves are literals."""
    if isinstance(nested, Place):
        return nested.structure
    if isinstance(nested, Mapping):
        return {"dict": [[str(key), structure_of(value)] for key, value in nested.items()]}
    if isinstance(nested, (list, tuple)):
        return {"tuple" if isinstance(nested, tuple) else "list": [structure_of(item) for item in nested]}
    return {"value": nested}


def fill(structure: Structure, tensors: Mapping[str, Any]) -> Any:
    """The nested object with the tensors in their places."""
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "value":
        return content
    if kind == "dict":
        return {key: fill(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [fill(item, tensors) for item in content]
        return items if kind == "list" else tuple(items)
    raise ValueError(f"not a structure: {structure!r}")


def take(structure: Structure, nested: Any, found: dict[str, Any], path: str = "inputs") -> None:
    """Collect the tensors of a nested object by name into ``found``.

    Raises:
        TypeError: the object is nested otherwise; the message names the place.
    """
    ((kind, content),) = structure.items()
    if kind == "tensor":
        found[content] = nested
    elif kind == "dict":
        if not isinstance(nested, Mapping) or set(nested) != {key for key, _ in content}:
            keys = list(nested) if isinstance(nested, Mapping) else type(nested).__name__
            raise TypeError(f"{path}: expected a mapping with keys {[key for key, _ in content]}, got {keys}")
        for key, item in content:
            take(item, nested[key], found, f"{path}[{key!r}]")
    elif kind in ("list", "tuple"):
        if not isinstance(nested, (list, tuple)) or len(nested) != len(content):
            size = len(nested) if isinstance(nested, (list, tuple)) else type(nested).__name__
            raise TypeError(f"{path}: expected {len(content)} values, got {size}")
        for index, item in enumerate(content):
            take(item, nested[index], found, f"{path}[{index}]")
    elif nested != content:
        raise TypeError(f"{path}: the model was captured with {content!r} here, not {nested!r}")


def with_names(structure: Structure, names: Mapping[str, str]) -> Structure:
    """The structure with other names for some of its tensors."""
    ((kind, content),) = structure.items()
    if kind == "tensor":
        return {"tensor": names.get(content, content)}
    if kind == "dict":
        return {"dict": [[key, with_names(item, names)] for key, item in content]}
    if kind in ("list", "tuple"):
        return {kind: [with_names(item, names) for item in content]}
    return structure
