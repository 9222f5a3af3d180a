"""What every codec costs on every tensor that may be cut at: bytes, and answers that change.

Each tensor is encoded and decoded alone, the rest of the model runs on the result, and its answer is compared with the
one without the codec; where it has early exits, the answer of each way to ask them. Codecs that give the same tensor
back share one run.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Protocol

import torch

from splitnn.cost.accuracy import Calibrated, Calibration
from splitnn.cost.codec_costs import TensorCodec
from splitnn.cost.exit_drops import Asked, ExitDrops
from splitnn.errors import CodecError
from splitnn.graph.ancestors import layers_before
from splitnn.graph.code import Callee
from splitnn.graph.exits import Exit
from splitnn.graph.extract import extract
from splitnn.graph.graph import Graph, TensorSpec
from splitnn.graph.model import Model
from splitnn.graph.recipe import NO_DROP, Drop
from splitnn.tuning.answers import Answer, answer_of
from splitnn.tuning.evaluation import (
    Progress,
    Samples,
    batch_size,
    batches,
    check_data,
    check_labels,
    check_numbers,
    judged_on,
    names_of,
    silent,
)
from splitnn.tuning.outcomes import Outcomes, drop_by_policy, judges, touched
from splitnn.tuning.sensitivity import read_beside


class Codec(TensorCodec, Protocol):
    """What calibration needs of a codec; those of ``splitnn.transport.codec.CODECS`` are such."""

    @property
    def lossless(self) -> bool: ...


Refused = Callable[[str, str, str], None]
"""Told of a tensor and a codec that could not encode its values, and the codec's own reason."""

MOST_TENSORS = 10
"""How many tensors are calibrated when none are named."""


def calibrate(
    model: Model,
    data: Samples,
    *,
    codecs: Mapping[str, Codec],
    tensors: Sequence[str] | None = None,
    answer: Answer | None = None,
    progress: Progress = silent,
    refused: Refused | None = None,
) -> Calibration:
    """Codecs on tensors (``candidates`` by default), judged by labels where the data have them, else by agreement.

    Answers are compared as ``answer`` has it (``answer_of`` by default). A codec that refuses a tensor's values is left
    out for that tensor, which ``refused`` is told. Of a model with exits the drops are those of its last exit alone,
    and those of every way to ask them stand beside (``Calibration.exits``).

    Raises:
        InvalidInput: the data do not fit the model, it answers NaN, or it has no single answer.
        ValueError: a tensor does not exist or does not suffice for the answer (``read_beside``).
    """
    check_data(model, data)
    answer = answer_of(model) if answer is None else answer
    check_labels(model, data, answer)
    exits = judges(model, answer)
    chosen = tuple(tensors) if tensors is not None else candidates(model, answer)
    trials = {tensor: _trial(model, tensor, codecs, exits, answer) for tensor in chosen}
    outputs = [each.output for each in exits]
    head = extract(model, model.graph.inputs, (*trials, *outputs))
    total = max(1, len(data.origins) // batch_size(model)) * max(1, len(trials))
    done, parts = 0, []
    seen, names = 0, names_of(data)
    with torch.inference_mode():
        for batch in batches(model, data):
            found = [value.clone() for value in head(*(batch[name] for name in model.graph.inputs))]
            values, logits = found[: len(trials)], dict(zip(outputs, found[len(trials) :], strict=True))
            whole = logits[outputs[-1]]
            check_numbers(whole, f"{data.source}: what the model answers", names[seen:])
            truth = answer.truth(whole, None if data.labels is None else data.labels[seen : seen + len(whole)])
            parts.append(Outcomes.of(exits, logits, truth, answer))
            for (tensor, trial), value in zip(trials.items(), values, strict=True):
                progress(min(1.0, done / total), f"calibrating {tensor}")
                trial.add(value, logits, parts[-1], truth, batch, refused)
                done += 1
            seen += len(whole)
    before, origins = Outcomes.joined(parts), data.origins[:seen]
    measured = {tensor: trial.found(before, origins) for tensor, trial in trials.items()}
    return Calibration(
        tensors={
            tensor: {codec: each.calibrated for codec, each in codecs_of.items()}
            for tensor, codecs_of in measured.items()
        },
        against="model" if data.labels is None else "labels",
        data=judged_on(model, data, answer),
        samples=seen,
        exits=None
        if model.exits is None
        else ExitDrops(
            exits,
            {
                tensor: {codec: each.by_policy for codec, each in codecs_of.items()}
                for tensor, codecs_of in measured.items()
            },
        ),
        answer=answer.output,
    )


def candidates(model: Model, answer: Answer, *, most: int = MOST_TENSORS) -> tuple[str, ...]:
    """Tensors that suffice for the answer and have no more elements than all such before them, inputs included.

    Alone, or, where the model has several inputs that all went into them, with some of these beside (``read_beside``).
    A later and larger one is never worth a cut. Of more than ``most`` those stay that are smaller than all before, and
    of the others as many as fit, evenly.
    """
    graph = model.graph
    inputs = list(graph.inputs) if len(graph.inputs) == 1 else []
    kept = [(tensor, _elements(graph.tensors[tensor])) for tensor in inputs]
    for tensor in graph.producer:
        size = _elements(graph.tensors[tensor])
        is_small = not kept or size <= kept[-1][1]
        if (
            is_small
            and graph.consumers[tensor]
            and tensor not in graph.outputs
            and _suffices(model, tensor, answer.output)
        ):
            kept.append((tensor, size))
    if len(kept) > most:
        smaller = [each for i, each in enumerate(kept) if i == 0 or each[1] < kept[i - 1][1]][:most]
        others = [each for each in kept if each not in smaller]
        room = most - len(smaller)
        evenly = [others[(2 * i + 1) * len(others) // (2 * room)] for i in range(room)]
        kept = [each for each in kept if each in smaller or each in evenly]
    return tuple(tensor for tensor, _ in kept)


def _elements(spec: TensorSpec) -> int:
    return math.prod(spec.shape)


def _suffices(model: Model, tensor: str, answers: str) -> bool:
    try:
        beside = read_beside(model, tensor, answers)
    except ValueError:
        return False
    return not beside or _inputs_of(model.graph, tensor) == set(model.graph.inputs)


def _inputs_of(graph: Graph, tensor: str) -> set[str]:
    """Inputs that went into a tensor."""
    before = layers_before(graph, [tensor])
    return {read for name in before for read in graph.layer(name).inputs} & set(graph.inputs)


def _trial(model: Model, tensor: str, codecs: Mapping[str, Codec], exits: Sequence[Exit], answer: Answer) -> _Trial:
    graph = model.graph
    if tensor not in graph.tensors:
        raise ValueError(f"the model has no tensor {tensor!r}; `splitnn plan` names those that cross")
    within = tensor in graph.inputs
    given = graph.inputs if within else (tensor, *read_beside(model, tensor, exits[-1].output))
    depends = touched(model, exits, tensor)
    outputs = [each.output for each, does in zip(exits, depends, strict=True) if does]
    if not within:
        try:
            model.program.needed(given, outputs)
        except ValueError:  # an early exit reads past it: what is not behind the tensor is computed as it was
            given = (tensor, *graph.inputs)
    taking = [codec for codec in codecs.values() if codec.accepts(graph.tensors[tensor])]
    tail = extract(model, given, tuple(outputs))
    return _Trial(tensor, _Tail(given, outputs, tail), exits, taking, answer, touched=depends, request=graph.batch)


@dataclass(frozen=True, eq=False, slots=True)
class _Tail:
    """What turns a tensor into the logits of the exits that depend on it."""

    given: Sequence[str]
    outputs: Sequence[str]
    run: Callee


@dataclass(frozen=True, eq=False, slots=True)
class _Measured:
    calibrated: Calibrated
    by_policy: Mapping[Asked, Drop]


class _Trial:
    """One tensor: its codecs' sizes, and what the exits say behind them, batch by batch."""

    def __init__(
        self,
        tensor: str,
        tail: _Tail,
        exits: Sequence[Exit],
        codecs: Sequence[Codec],
        answer: Answer,
        *,
        touched: Sequence[bool],
        request: int,
    ) -> None:
        self._tensor, self._tail, self._exits, self._touched, self._request = tensor, tail, exits, touched, request
        self._codecs, self._answer = list(codecs), answer
        self._sizes: dict[str, list[int]] = defaultdict(list)
        self._after: dict[str, list[Outcomes]] = defaultdict(list)

    def add(
        self,
        value: torch.Tensor,
        logits: Mapping[str, torch.Tensor],
        before: Outcomes,
        truth: torch.Tensor,
        batch: Mapping[str, torch.Tensor],
        refused: Refused | None,
    ) -> None:
        """One batch of the tensor's values, with what the whole model says of it."""
        known = {_digest(value): before}
        for codec in list(self._codecs):
            try:
                coded = [_coded(codec, part) for part in value.split(self._request)]
            except CodecError as error:
                self._codecs.remove(codec)
                if refused is not None:
                    refused(self._tensor, codec.name, str(error))
                continue
            decoded = torch.cat([each.decoded for each in coded])
            key = _digest(decoded)
            if key not in known:
                arguments = [decoded if name == self._tensor else batch[name] for name in self._tail.given]
                said = dict(zip(self._tail.outputs, self._tail.run(*arguments), strict=True))
                known[key] = Outcomes.of(self._exits, {**logits, **said}, truth, self._answer)
            self._sizes[codec.name] += [each.size_bytes for each in coded]
            self._after[codec.name].append(known[key])

    def found(self, before: Outcomes, origins: Sequence[str]) -> dict[str, _Measured]:
        """Of each codec that took all values what it costs, where ``before`` is what was said without codecs."""
        return {codec.name: self._measured(codec, before, origins) for codec in self._codecs}

    def _measured(self, codec: Codec, before: Outcomes, origins: Sequence[str]) -> _Measured:
        after, names = Outcomes.joined(self._after[codec.name]), [each.name for each in self._exits]
        drops = drop_by_policy(self._exits, before, after, touched=self._touched, origins=origins)
        if codec.lossless:
            drops = dict.fromkeys(drops, NO_DROP)
        sizes = self._sizes[codec.name]
        middle, high = round(_quantile(sizes, 0.5)), round(_quantile(sizes, 0.95))
        return _Measured(Calibrated(drops[(names[-1],)], middle, high), drops)


@dataclass(frozen=True, slots=True)
class _Coded:
    decoded: torch.Tensor
    size_bytes: int


def _coded(codec: Codec, part: torch.Tensor) -> _Coded:
    strides = () if part.is_contiguous() else part.stride()
    payload = codec.encode(part)
    dtype = str(part.dtype).removeprefix("torch.")
    return _Coded(codec.decode(payload, tuple(part.shape), dtype, strides).clone(), memoryview(payload).nbytes)


def _digest(value: torch.Tensor) -> bytes:
    return hashlib.blake2b(value.contiguous().view(-1).view(torch.uint8).numpy().data, digest_size=16).digest()


def _quantile(sizes: Sequence[int], share: float) -> float:
    if len(sizes) == 1:
        return float(sizes[0])
    return quantiles(sizes, n=100, method="inclusive")[round(share * 100) - 1]
