"""What may not leave the device because it tells the input, as options of a command, and how that is found."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitnn.planner.privacy import copies_of_inputs

if TYPE_CHECKING:
    import torch

    from splitnn.graph.model import Model

_TOO_MUCH = 0.9  # of what there is to tell: most of a photo can be made out
_PHOTOS = "photos"
_COUNT = 40


@dataclass(frozen=True, slots=True)
class Leak:
    """What stays on the device because it tells the input, and how that was found."""

    copies: int  # tensors that are the input in another form
    threshold: float
    scores: dict[str, float] | None  # tensor: 0 nothing, 1 everything; None where it was not measured
    data: str  # what it was measured on

    def describe(self, crossing: list[str]) -> list[str]:
        """What is kept and why, and the scores of what crosses, as lines."""
        if self.scores is None:
            return [
                f"private: not measured; only the input and what it can be computed back from exactly stay, "
                f"{self.copies} tensors. What crosses may tell as much: --data measures it"
            ]
        kept = sum(score > self.threshold for score in self.scores.values())
        told = ", ".join(f"{name} {self.scores[name]:.2f}" for name in crossing if name in self.scores)
        first = (
            f"private: {kept} of {len(self.scores)} tensors tell more than {self.threshold:g} about the input, "
            f"measured on {self.data}"
        )
        return [f"{first}; what crosses: {told}" if told else f"{first}; nothing of it crosses"]


def add_privacy(group: Any) -> None:
    """Add the options that ``private_tensors`` reads."""
    group.add_argument(
        "--private", metavar="TENSOR", nargs="*",
        help="tensors that stay on the first host, with all that they are made from; without a name the model's "
        "inputs, what they or parts of them can be computed back from exactly and, where the input is a colour image "
        "or --data is given, every tensor that tells too much about it, as measured; a module stands for its tensors",
    )  # fmt: skip
    group.add_argument(
        "--max-leakage", metavar="SCORE", type=float,
        help="tensors that tell more about the input than that (0 nothing, 1 everything) are private; measured, which "
        f"takes up to a minute ({_TOO_MUCH} with --private alone)",
    )  # fmt: skip
    group.add_argument(
        "--data", metavar="DATA",
        help="what to measure that on: a folder of images, a .safetensors file with the input, photos (default) or "
        "fashion-mnist",
    )  # fmt: skip


def private_tensors(args: argparse.Namespace, model: Model) -> tuple[tuple[str, ...], Leak | None]:
    """The tensors that stay on the device, and what was measured to find them.

    A model that reads no colour image is measured only on data of the user's; a threshold without any is refused.
    """
    named = tuple(args.private or ())
    if args.max_leakage is None and (args.private is None or named):
        if args.data is not None:
            raise ValueError("--data is what --private without names, or --max-leakage, measures on: give one of them")
        return named, None
    from splitnn.cost.leakage import measure_leakage, too_revealing

    copies = copies_of_inputs(model.graph) if args.private == [] else ()
    threshold = _TOO_MUCH if args.max_leakage is None else args.max_leakage
    if args.max_leakage is None and args.data is None and not _reads_picture(model):
        return (*named, *copies), Leak(len(copies), threshold, None, "nothing")
    too_revealing({}, threshold=threshold)  # a threshold that is none is said before anything takes time
    source = args.data or _PHOTOS
    with _one_thread():
        found = measure_leakage(model, _samples_of(source, model), enough=threshold)
    private = dict.fromkeys((*named, *copies, *too_revealing(found, threshold=threshold)))
    scores = {name: leakage.score for name, leakage in found.items()}
    return tuple(private), Leak(len(copies), threshold, scores, source)


def _reads_picture(model: Model) -> bool:
    """Whether the model's only input is a colour image in a form that the sample photos can be given in."""
    specs = [model.graph.tensors[name] for name in model.graph.inputs]
    if len(specs) != 1 or specs[0].dtype not in ("uint8", "float32") or len(specs[0].shape) != 4:
        return False
    return 3 in (specs[0].shape[1], specs[0].shape[3])


def _samples_of(source: str, model: Model) -> list[torch.Tensor]:
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
def _one_thread() -> Iterator[None]:
    """Torch computes in one thread: on small matrices more threads take many times the processor's time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
