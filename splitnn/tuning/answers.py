"""What a model answers, and when two answers are the same: what everything that costs accuracy is measured by.

Most models answer with the class of the largest logit. A map (N, C, H, W), or logits of tokens (N, T, C), answers at
each of its places, and what counts of a sample is the share of them. An embedding points somewhere: two are the same
answer from a cosine on. Each of the three has a likelihood, which is what bottlenecks are fitted and trained by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from splitnn.errors import InvalidInput
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.tuning.planes import channel_axis

ALIKE = 0.99
"""The cosine from which embeddings count as the same, where nobody says another."""

_UNIT = 1e-3  # how far from 1 the length of a row may be that was normalised


@dataclass(frozen=True)
class Answer:
    """The output that a model is judged by, and how; its values are (N, ...), samples first."""

    output: str
    axis: int = 1  # of the classes, or of an embedding's numbers; all others but the first are places
    cosine: float | None = None  # from which two embeddings are the same; None: the largest entry is the answer

    def __post_init__(self) -> None:
        if self.cosine is not None and not 0 < self.cosine < 1:
            raise ValueError(f"a cosine that is to be reached lies between 0 and 1, not {self.cosine}")

    def __str__(self) -> str:
        return f"{self.output!r}, by {'its largest entries' if self.cosine is None else f'a cosine of {self.cosine:g}'}"

    def truth(self, values: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """What is right: the labels, else what these values answer (for an embedding they themselves)."""
        if labels is not None:
            return labels
        return values.argmax(self.axis) if self.cosine is None else values

    def right(self, values: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Of each sample the share of its places that are right, float64 (N,)."""
        if self.cosine is None:
            same = values.argmax(self.axis) == truth
        else:
            same = functional.cosine_similarity(values.double(), truth.double(), dim=self.axis) >= self.cosine
        return same.double().flatten(1).mean(1) if same.dim() > 1 else same.double()

    def changes(self, whole: torch.Tensor, other: torch.Tensor, labels: torch.Tensor | None) -> list[float]:
        """Of each sample what ``other`` loses of what ``whole`` has right: 1, below 0 where it gains, parts for places.

        Right is the label; without labels it is what ``whole`` answers.
        """
        truth = self.truth(whole, labels)
        found: list[float] = (self.right(whole, truth) - self.right(other, truth)).tolist()
        return found

    def divergence(self, teacher: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """How far values are from the teacher's, the mean over samples and places.

        Nats (Kullback-Leibler) of classes; of embeddings 1 - cosine, the nats between directions with a spread of 1.
        """
        if self.cosine is not None:
            return (1 - functional.cosine_similarity(values, teacher, dim=self.axis)).mean()
        said, wanted = (each.log_softmax(self.axis) for each in (values, teacher))
        places = values.numel() / values.shape[self.axis]
        return functional.kl_div(said, wanted, reduction="sum", log_target=True) / places

    def drawn(self, values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Minus the log-likelihood of an answer that the values themselves draw, summed over samples.

        The second moment of its gradient is the Fisher information: a disturbance d of what the values depend on makes
        a divergence of about d' F d / 2.
        """
        rows = values.movedim(self.axis, -1).flatten(0, -2)  # (samples * places, classes)
        if self.cosine is None:
            chosen = torch.multinomial(rows.detach().softmax(1), 1, generator=generator).squeeze(1)
            loss = functional.cross_entropy(rows, chosen, reduction="sum")
        else:
            loss = -(functional.normalize(rows, dim=1) * torch.randn(rows.shape, generator=generator)).sum()
        return loss / math.sqrt(len(rows) / len(values))  # a divergence is a mean over places


def answer_of(model: Model, output: str | None = None, *, cosine: float | None = None) -> Answer:
    """The model's answer: this output, else that of its last exit, the only (N, classes), or the only one it can be.

    (N, D) of which every row of the model's example has length 1 is taken for an embedding, others when a cosine is
    given; classes of a map (N, C, H, W) lie along C, those of tokens (N, T, C) last (see ``channel_axis``).

    Raises:
        InvalidInput: there is no such output, or none that can be judged; or it is unclear which.
    """
    outputs = list(dict.fromkeys(model.graph.outputs))
    if model.exits is not None:
        last = model.exits.exits[-1].output
        if output not in (None, last) or cosine is not None:
            raise InvalidInput(f"the model has exits: its answer is the largest entry of the last one's, {last!r}")
        return Answer(last)
    if output is not None and output not in outputs:
        raise InvalidInput(f"{output!r} is no output of the model; these are: {outputs}")
    fit = [each for each in outputs if _can_be_judged(model, each)]
    rows = [each for each in fit if len(model.graph.tensors[each].shape) == 2]
    chosen = [output] if output is not None else rows or fit
    if len(chosen) > 1:
        raise InvalidInput(
            f"accuracy needs one output of logits or one embedding; the model has {_shapes(model, outputs)}: say which "
            "holds its answer (--answer)"
        )
    if not chosen or chosen[0] not in fit:
        raise InvalidInput(
            f"accuracy needs an output of floats (N, classes), (N, C, H, W) or (N, T, C), two classes or more, or an "
            f"embedding (N, D); the model has {_shapes(model, chosen or outputs)}, of which nobody can say when it has "
            "changed: wrap the model in one that returns such an output"
        )
    (found,) = chosen
    axis = _axis(model, found)
    if cosine is None and len(model.graph.tensors[found].shape) == 2 and _is_unit(model, found):
        cosine = ALIKE
    return Answer(found, axis, cosine)


def _can_be_judged(model: Model, output: str) -> bool:
    spec = model.graph.tensors[output]
    floats = spec.dtype.startswith(("float", "bfloat"))
    return floats and len(spec.shape) in (2, 3, 4) and spec.shape[_axis(model, output)] > 1


def _axis(model: Model, output: str) -> int:
    return channel_axis(model.graph, output) if len(model.graph.tensors[output].shape) == 3 else 1


def _is_unit(model: Model, output: str) -> bool:
    """Whether the rows of the example have length 1, and are no probabilities of one class."""
    rows = tensor_values(model, [output])[output]
    if not isinstance(rows, torch.Tensor):
        return False
    return bool(((rows.float().norm(dim=1) - 1).abs() < _UNIT).all()) and bool((rows < 0).any())


def _shapes(model: Model, outputs: list[str]) -> str:
    specs = {output: model.graph.tensors[output] for output in outputs}
    return ", ".join(f"{name!r} {spec.dtype} {list(spec.shape)}" for name, spec in specs.items())
