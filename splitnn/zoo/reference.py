"""How what a user typed becomes a model: a name of the zoo, or ``package.module:factory``."""

from __future__ import annotations

import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from splitnn.errors import UnknownModel
from splitnn.zoo.catalogue import load

if TYPE_CHECKING:
    from torch import nn

    Example: TypeAlias = tuple[nn.Module, tuple[Any, ...] | Mapping[str, Any]]
else:
    Example = tuple  # a module in eval mode, and arguments that it takes


def resolve(text: str) -> Example:
    """Make the model that a user named: a name of the zoo, or ``package.module:factory``.

    The factory takes no argument and returns ``(module, example_inputs)``. Modules are looked for in the working
    directory too, as ``python -m`` does. The module is put into eval mode.

    Raises:
        UnknownModel: no such name, module or factory, or the factory failed.
        ValueError: the factory returned something else than a module and its arguments.
    """
    if ":" not in text:
        return load(text)
    module_name, _, factory_name = text.partition(":")
    factory = _find(module_name, factory_name, text)
    try:
        returned = factory()
    except Exception as error:  # a user's code may raise anything
        raise UnknownModel(f"{text} failed{_place(error)}: {type(error).__name__}: {error}") from error
    return _checked(returned, text)


def _find(module_name: str, factory_name: str, text: str) -> Callable[[], Any]:
    if not all(part.isidentifier() for part in [*module_name.split("."), factory_name]):
        hint = "; the module is named as in an import, not as a file" if module_name.endswith(".py") else ""
        raise UnknownModel(f"{text}: expected package.module:factory{hint}")
    working_directory = str(Path.cwd())
    if working_directory not in sys.path and "" not in sys.path:
        sys.path.insert(0, working_directory)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UnknownModel(f"{text}: cannot import {module_name!r}: {error}") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        functions = sorted(name for name, value in vars(module).items() if callable(value) and name[0] != "_")
        near = difflib.get_close_matches(factory_name, functions, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise UnknownModel(f"{text}: {module_name} has no function {factory_name!r}{hint}")
    return factory  # type: ignore[no-any-return]


def _checked(returned: object, text: str) -> Example:
    from torch import Tensor, nn
    from torch.utils._pytree import tree_leaves

    expected = (
        f"{text} must return (module, example_inputs): a torch.nn.Module and its arguments, "
        "a tuple of them or a mapping by keyword, with tensors in it"
    )
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise ValueError(f"{expected}; it returned {_described(returned)}")
    module, inputs = returned
    if not isinstance(module, nn.Module):
        raise ValueError(f"{expected}; the first of the pair is {_described(module)}")
    if isinstance(inputs, list):
        inputs = tuple(inputs)
    if not isinstance(inputs, (tuple, Mapping)) or not any(isinstance(leaf, Tensor) for leaf in tree_leaves(inputs)):
        raise ValueError(f"{expected}; the second of the pair is {_described(inputs)}")
    return module.eval(), inputs


def _place(error: Exception) -> str:
    """The user's line that raised, as " in FILE:LINE"."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" in {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _described(value: object) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}: ({', '.join(type(item).__name__ for item in value)})"
    return f"a {type(value).__name__}"
