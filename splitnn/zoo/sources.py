"""A model as a user names it: one of the zoo, a factory, or a folder that ``splitnn pack`` wrote."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from splitnn.zoo.catalogue import models, policy, recipe
from splitnn.zoo.reference import resolve

if TYPE_CHECKING:
    from splitnn.graph.model import Model


def open_model(text: str) -> Model:
    """The model that a user named, captured or loaded, with its exits and its recipe where it has them.

    A folder that is called like a model of the zoo needs a ``./`` in front.

    Raises:
        UnknownModel: no such model, module or factory.
        CaptureError: the module cannot be exported.
        PackageError: the folder holds no complete model.
    """
    if Path(text).is_dir() and text not in {entry.name for entry in models()}:
        from splitnn.graph import package

        return package.load(Path(text))
    return capture_model(text)


def name_of(text: str) -> str:
    """What a server calls the model that a user named: a folder or a factory by its own name."""
    with contextlib.suppress(OSError):  # a name may be too long for a path
        if Path(text).is_dir():
            return Path(text).resolve().name
    return text.rpartition(":")[2]


def capture_model(text: str) -> Model:
    """The model of the zoo, or of the factory ``package.module:factory``, that a user named.

    Raises:
        UnknownModel: no such model, module or factory.
        CaptureError: the module cannot be exported.
    """
    from splitnn.graph.capture import capture

    module, example = resolve(text)
    return replace(capture(module, example), exits=policy(text), recipe=recipe(text))
