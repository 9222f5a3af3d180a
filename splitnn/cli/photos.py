"""Sample photos in the shape that a model reads, to measure on them what its tensors tell."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from splitnn.graph.model import Model

_COUNT = 40
_MARGIN = 2  # crops are taken from photos of so many times the side


def reads_photo(model: Model) -> bool:
    """Whether the model's only input is a uint8 image (1, side, side, 3)."""
    specs = [model.graph.tensors[name] for name in model.graph.inputs]
    return len(specs) == 1 and specs[0].dtype == "uint8" and len(specs[0].shape) == 4 and specs[0].shape[3] == 3


def crops(model: Model) -> list[torch.Tensor]:
    """Crops of the zoo's photos for a model whose only input is a uint8 image (1, side, side, 3); always the same ones.

    Raises:
        ValueError: the model reads something else.
        RuntimeError: the packages that hold the photos are not installed.
    """
    import numpy as np
    import torch

    from splitnn import zoo

    if not reads_photo(model):
        read = ", ".join(f"{name} {model.graph.tensors[name].shape}" for name in model.graph.inputs)
        raise ValueError(f"leakage is measured on photos: the model must read one uint8 image (1, h, w, 3), not {read}")
    height, width = model.graph.tensors[model.graph.inputs[0]].shape[1:3]
    large = list(zoo.photos(_MARGIN * max(height, width)).values())
    rng = random.Random(0)
    found = []
    for number in range(_COUNT):
        photo = large[number % len(large)]
        top, left = rng.randrange(photo.shape[0] - height + 1), rng.randrange(photo.shape[1] - width + 1)
        crop = np.ascontiguousarray(photo[top : top + height, left : left + width])
        found.append(torch.from_numpy(crop)[None])
    return found
