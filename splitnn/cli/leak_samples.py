"""Samples in the shape that a model reads, to measure on them what its tensors tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from splitnn.graph.model import Model

PHOTOS = "photos"
_COUNT = 40


def reads_picture(model: Model) -> bool:
    """Whether the model's only input is a colour image in a form that the sample photos can be given in."""
    specs = [model.graph.tensors[name] for name in model.graph.inputs]
    if len(specs) != 1 or specs[0].dtype not in ("uint8", "float32") or len(specs[0].shape) != 4:
        return False
    return 3 in (specs[0].shape[1], specs[0].shape[3])


def samples_of(source: str, model: Model) -> list[torch.Tensor]:
    """Forty samples (of a small source fewer) of what ``splitnn.zoo.datasets`` knows, always the same ones.

    Raises:
        InvalidInput, FileNotFoundError, ValueError: as ``splitnn.zoo.datasets.samples``.
    """
    from splitnn.zoo.datasets import samples

    batch = model.graph.batch
    found = samples(source, model, count=_COUNT * batch, part="train")
    name = model.graph.inputs[0]
    return [found.batch(start, batch)[name] for start in range(0, len(found) - batch + 1, batch)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes in one thread: on small matrices more threads take many times the processor's time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
