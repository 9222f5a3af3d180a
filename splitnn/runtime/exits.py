"""Early exits at run time: which samples of a request are answered, by which exit, and what goes on. Pure.

The rule is one for every batch: a sample is answered by the first exit that is sure of it, whatever else is in its
batch (BranchyNet, Teerapittayanon et al. 2016). Samples that are answered leave the batch where every tensor on the way
holds one row a sample; elsewhere they travel on with the others, and their answer stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from splitnn.errors import InvalidInput
from splitnn.graph.exits import Exit, Exits
from splitnn.graph.graph import Graph, TensorSpec
from splitnn.graph.model import Value
from splitnn.transport.base import Parameter


@dataclass(frozen=True, eq=False, slots=True)
class Verdict:
    """The latest answer for one sample."""

    exit: str  # its name
    confidence: float  # softmax of its largest class, calibrated; NaN when a logit is
    is_sure: bool  # it is the answer
    host: str  # that made it
    logits: torch.Tensor  # (1, classes)


@dataclass(frozen=True, eq=False, slots=True)
class Passage:
    """One request on its way past the exits."""

    tensors: Mapping[str, Value]  # from which the rest can be computed, for the samples aboard
    verdicts: tuple[Verdict | None, ...]  # of each sample the latest; None where no exit was passed yet
    aboard: tuple[int, ...]  # the samples that the tensors hold

    @property
    def open(self) -> tuple[int, ...]:
        """The samples of which no exit was sure."""
        return tuple(sample for sample, verdict in enumerate(self.verdicts) if verdict is None or not verdict.is_sure)

    @property
    def has_answers(self) -> bool:
        """Whether every sample has some answer, sure or not."""
        return all(verdict is not None for verdict in self.verdicts)

    @property
    def is_over(self) -> bool:
        """Whether every sample has its answer."""
        return not self.open

    @property
    def answers(self) -> tuple[Verdict, ...]:
        """The latest answer of each sample.

        Raises:
            ValueError: a sample has none.
        """
        found = tuple(verdict for verdict in self.verdicts if verdict is not None)
        if len(found) < len(self.verdicts):
            raise ValueError(f"{len(self.verdicts) - len(found)} of {len(self.verdicts)} samples have no answer yet")
        return found

    @property
    def logits(self) -> torch.Tensor:
        """The answers, (samples, classes). Raises ValueError: a sample has none."""
        rows = [verdict.logits for verdict in self.answers]
        return rows[0] if len(rows) == 1 else torch.cat(rows)


def begin(tensors: Mapping[str, Value], *, samples: int) -> Passage:
    """A request of so many samples before its first exit."""
    return Passage(tensors, (None,) * samples, tuple(range(samples)))


def confidences(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """The probability of the largest class of each row, float64 (N,), for ``logits`` (N, classes) over the temperature.

    Thresholds are chosen by the same numbers. On the CPU: not every accelerator has float64.
    """
    return (logits.cpu().double() / temperature).softmax(-1).amax(-1)


def judged(passage: Passage, logits: torch.Tensor, at: Exit, *, host: str) -> Passage:
    """After an exit with ``logits`` (aboard, classes): what it is sure of is answered.

    An exit whose threshold is 0 answers always; any other is never sure of a row that holds NaN.
    """
    found = confidences(logits, at.temperature).tolist()
    rows = [
        Verdict(at.name, sure, at.threshold == 0 or sure >= at.threshold, host, logits[row : row + 1])
        for row, sure in enumerate(found)
    ]
    return _heard(passage, rows)


def told(passage: Passage, logits: torch.Tensor, names: Sequence[str], exits: Exits, *, host: str) -> Passage:
    """After a host that answered for all aboard, ``logits`` (aboard, classes), and named the exit of each row.

    Names that are missing or unknown stand for the last exit.
    """
    known = {each.name: each for each in exits.exits}
    last = exits.exits[-1]
    if len(names) != len(passage.aboard):
        names = [last.name] * len(passage.aboard)
    rows = []
    for row, name in enumerate(names):
        at, of_row = known.get(name, last), logits[row : row + 1]
        rows.append(Verdict(at.name, confidences(of_row, at.temperature).item(), True, host, of_row))
    return _heard(passage, rows)


def lightened(passage: Passage, graph: Graph) -> Passage:
    """Without the samples that are answered, where each tensor holds one row a sample; else as it is."""
    unanswered = set(passage.open)
    left = [row for row, sample in enumerate(passage.aboard) if sample in unanswered]
    if not left or len(left) == len(passage.aboard) or not can_part(graph, passage.tensors):
        return passage
    rows = torch.tensor(left)
    tensors = {name: _picked(value, graph.tensors[name], rows) for name, value in passage.tensors.items()}
    return replace(passage, tensors=tensors, aboard=tuple(passage.aboard[row] for row in left))


def can_part(graph: Graph, names: Mapping[str, object]) -> bool:
    """Whether single samples can be taken out of these tensors: one dimension of each is the batch, or none of any.

    Never where a layer makes something of all samples together: what it makes of fewer would be another answer.
    """
    if not any(growth for tensor in graph.inputs for growth in graph.tensors[tensor].batch_growth):
        return False  # captured for one batch size: no other runs
    if _mixes_samples(graph):
        return False
    specs = [graph.tensors[name] for name in names]
    return all(
        spec.dtype != "int" and (not any(spec.batch_growth) or _batch_dim(spec, graph.batch) >= 0) for spec in specs
    )


def _mixes_samples(graph: Graph) -> bool:
    """Whether a layer makes of a batch a tensor without one (its mean) or with two (all samples by all samples).

    Shapes show no more: a softmax over the batch stays unseen. A tensor that only seems to mix costs no answer.
    """
    for layer in graph.layers:
        if any(any(graph.tensors[name].batch_growth) for name in layer.inputs):
            made = [graph.tensors[name] for name in layer.outputs if graph.tensors[name].dtype != "int"]
            if any(sum(growth != 0 for growth in spec.batch_growth) != 1 for spec in made):
                return True
    return False


def _batch_dim(spec: TensorSpec, batch: int) -> int:
    """The dimension along which the samples lie one by one; -1 when there is none."""
    growing = [dim for dim, growth in enumerate(spec.batch_growth) if growth]
    if len(growing) != 1 or spec.batch_growth[growing[0]] != 1 or spec.shape[growing[0]] != batch:
        return -1
    return growing[0]


def _picked(value: Value, spec: TensorSpec, rows: torch.Tensor) -> Value:
    """Some samples of a tensor, in the memory order that the graph has it in (a later ``view`` relies on it)."""
    growing = [dim for dim, growth in enumerate(spec.batch_growth) if growth]
    if not growing or not isinstance(value, torch.Tensor):
        return value
    order = list(spec.dim_order or range(value.ndim))
    inverse = sorted(range(value.ndim), key=order.__getitem__)
    return value.permute(order).index_select(order.index(growing[0]), rows.to(value.device)).permute(inverse)


def _heard(passage: Passage, rows: Sequence[Verdict]) -> Passage:
    """With the verdicts on those aboard, but for samples that were answered before."""
    open_, verdicts = set(passage.open), list(passage.verdicts)
    for sample, verdict in zip(passage.aboard, rows, strict=True):
        if sample in open_:
            verdicts[sample] = verdict
    return replace(passage, verdicts=tuple(verdicts))


def exits_asked_for(exits: Exits, asked: object) -> Exits:
    """The exits that may answer a request, by its parameter ``exits``.

    ``all`` are the model's own; ``none`` is its end alone; names, separated by commas, are those exits, of which the
    last answers always.

    Raises:
        InvalidInput: another word, or an unknown name.
    """
    if asked == "all":
        return exits
    names = [exits.exits[-1].name] if asked == "none" else [name.strip() for name in str(asked).split(",")]
    try:
        return exits.only(*names)
    except ValueError as error:
        raise InvalidInput(f"the request's parameter 'exits' is all, none or names of exits; {error}") from error


def said(answers: Sequence[Verdict]) -> dict[str, Parameter]:
    """What a response says of the exits: names and hosts, separated by commas where a batch has several.

    ``confidence`` is the least of all samples.
    """
    return {
        "exit": ",".join(answer.exit for answer in answers),
        "confidence": min(answer.confidence for answer in answers),
        "answered_by": ",".join(dict.fromkeys(answer.host for answer in answers)),
    }
