"""What every codec costs on every tensor that may be cut at: bytes, and answers that change.

Each tensor is encoded and decoded alone, the rest of the model runs on the result, and its answer is compared with the
one without the codec. Codecs that give the same tensor back share one run.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Protocol

import torch

from splitnn.cost.accuracy import Calibrated, Calibration
from splitnn.cost.codec_costs import TensorCodec
from splitnn.errors import CodecError
from splitnn.graph.code import Callee
from splitnn.graph.extract import extract
from splitnn.graph.graph import TensorSpec
from splitnn.graph.model import Model
from splitnn.graph.recipe import NO_DROP
from splitnn.tuning.drops import answers_of, changes, drop_of
from splitnn.tuning.evaluation import Progress, Samples, batch_size, batches, check_data, check_numbers, silent


class Codec(TensorCodec, Protocol):
    """What calibration needs of a codec; those of ``splitnn.transport.codec.CODECS`` are such."""

    @property
    def lossless(self) -> bool: ...


MOST_TENSORS = 10
"""How many tensors are calibrated when none are named."""


def calibrate(
    model: Model,
    data: Samples,
    *,
    codecs: Mapping[str, Codec],
    tensors: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Calibration:
    """Codecs on tensors (``candidates`` by default), judged by labels where the data have them, else by agreement.

    A codec that refuses a tensor's values is left out for that tensor.

    Raises:
        InvalidInput: the data do not fit the model, or it answers NaN.
        ValueError: a tensor does not exist or does not suffice for the answer, or the model has no single answer.
    """
    check_data(model, data)
    answers = answers_of(model)
    chosen = tuple(tensors) if tensors is not None else candidates(model)
    trials = {tensor: _trial(model, tensor, codecs, answers) for tensor in chosen}
    wanted = (*trials, answers)
    head = extract(model, model.graph.inputs, wanted)
    total = max(1, len(data.origins) // batch_size(model)) * max(1, len(trials))
    done, seen = 0, 0
    with torch.inference_mode():
        for batch in batches(model, data):
            *values, whole = (value.clone() for value in head(*(batch[name] for name in model.graph.inputs)))
            check_numbers(whole, f"{data.source}: what the model answers")
            labels = None if data.labels is None else data.labels[seen : seen + len(whole)]
            for (tensor, trial), value in zip(trials.items(), values, strict=True):
                progress(min(1.0, done / total), f"calibrating {tensor}")
                trial.add(value, whole, labels, batch)
                done += 1
            seen += len(whole)
    origins = data.origins[:seen]
    return Calibration(
        tensors={tensor: trial.found(origins) for tensor, trial in trials.items()},
        against="model" if data.labels is None else "labels",
        data=data.source,
        samples=seen,
    )


def candidates(model: Model, *, most: int = MOST_TENSORS) -> tuple[str, ...]:
    """Tensors that suffice for the answer alone and have no more elements than all such before them, inputs included.

    A later and larger one is never worth a cut. Of more than ``most`` those stay that are smaller than all before, and
    of the others as many as fit, evenly.
    """
    graph = model.graph
    answers = answers_of(model)
    inputs = list(graph.inputs) if len(graph.inputs) == 1 else []
    kept = [(tensor, _elements(graph.tensors[tensor])) for tensor in inputs]
    for tensor in graph.producer:
        size = _elements(graph.tensors[tensor])
        is_small = not kept or size <= kept[-1][1]
        if is_small and graph.consumers[tensor] and tensor not in graph.outputs and _suffices(model, tensor, answers):
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
        model.program.needed((tensor,), (answers,))
    except ValueError:
        return False
    return True


def _trial(model: Model, tensor: str, codecs: Mapping[str, Codec], answers: str) -> _Trial:
    graph = model.graph
    if tensor not in graph.tensors:
        raise ValueError(f"the model has no tensor {tensor!r}; `splitnn plan` names those that cross")
    given = graph.inputs if tensor in graph.inputs else (tensor,)
    taking = [codec for codec in codecs.values() if codec.accepts(graph.tensors[tensor])]
    return _Trial(tensor, given, extract(model, given, (answers,)), taking, graph.batch)


class _Trial:
    """One tensor: its codecs' sizes and the changes of answers, batch by batch."""

    def __init__(self, tensor: str, given: Sequence[str], tail: Callee, codecs: Sequence[Codec], request: int) -> None:
        self._tensor, self._given, self._tail, self._request = tensor, given, tail, request
        self._codecs = list(codecs)
        self._sizes: dict[str, list[int]] = defaultdict(list)
        self._changes: dict[str, list[int]] = defaultdict(list)

    def add(
        self, value: torch.Tensor, whole: torch.Tensor, labels: torch.Tensor | None, batch: Mapping[str, torch.Tensor]
    ) -> None:
        """One batch of the tensor's values, with the answers of the whole model on it."""
        known = {_digest(value): [0] * len(value)}
        for codec in list(self._codecs):
            try:
                coded = [_coded(codec, part) for part in value.split(self._request)]
            except CodecError:
                self._codecs.remove(codec)
                continue
            decoded = torch.cat([each.decoded for each in coded])
            key = _digest(decoded)
            if key not in known:
                arguments = [decoded if name == self._tensor else batch[name] for name in self._given]
                known[key] = changes(whole, self._tail(*arguments)[0], labels)
            self._sizes[codec.name] += [each.size_bytes for each in coded]
            self._changes[codec.name] += known[key]

    def found(self, origins: Sequence[str]) -> dict[str, Calibrated]:
        """Of each codec that took all values what it costs."""
        return {
            codec.name: Calibrated(
                NO_DROP if codec.lossless else drop_of(self._changes[codec.name], origins),
                round(_quantile(self._sizes[codec.name], 0.5)),
                round(_quantile(self._sizes[codec.name], 0.95)),
            )
            for codec in self._codecs
        }


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
