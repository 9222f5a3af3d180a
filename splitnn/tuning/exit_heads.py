"""Exits for a model that has none: small heads on inner tensors, taught the model's own answers. No labels are needed.

The model itself stays as it is, so what a head reads is computed once. A head pools its tensor to a few places,
standardises what is left, and is linear: enough where a network has begun to know its classes, and little for a device
to compute.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, softmax

from splitnn.errors import InvalidInput
from splitnn.graph.ancestors import layers_before
from splitnn.graph.capture import capture
from splitnn.graph.extract import extract
from splitnn.graph.graft import graft, tensor_values
from splitnn.graph.graph import TensorSpec
from splitnn.graph.model import Model
from splitnn.graph.naming import tensor_named
from splitnn.tuning.answers import answer_of
from splitnn.tuning.confidence import calibrate_exits, recipe_of_exits
from splitnn.tuning.evaluation import Samples, batches, check_data, check_numbers, names_of

_PLACES = 4  # of a picture a head keeps at most 4 x 4 places
_EPOCHS, _BATCH = 30, 128
_log = logging.getLogger(__name__)


def attach_exits(
    model: Model,
    *,
    at: Sequence[str],
    train: Samples,
    held_out: Samples,
    answer: str | None = None,
    max_drop: float = 0.0,
    seed: int = 0,
) -> Model:
    """The model with an exit behind each layer or module of ``at``, in this order, and its own answer last.

    Heads learn on ``train``, whose labels are not looked at; temperatures and thresholds are chosen on ``held_out``, as
    ``calibrate_exits`` does it. ``answer`` is the tensor of the model's logits where it has several outputs. The result
    is a version of the model, or, where that is one already (with a bottleneck, say), of what it was made of.

    Raises:
        ValueError: a tensor that no head can read, or no thresholds keep the accuracy.
        InvalidInput: an unknown layer or module, one twice, a deeper one first, or the last one; the model's answer is
            not one row of logits a sample, or the data do not fit the model.
    """
    logits = _answer(model, answer)
    tensors = _places_of(model, at)
    if logits in tensors:
        raise InvalidInput(
            f"nothing lies behind {at[tensors.index(logits)]!r} but the model's answer: an exit there saves no work; "
            "name an earlier layer"
        )
    heads = _taught(model, tensors, logits, train, seed=seed)
    grown = model
    outputs: dict[str, str] = {}
    for number, (tensor, head) in enumerate(zip(tensors, heads, strict=True), 1):
        name = f"exit{number}"
        scion = capture(head, tuple(tensor_values(model, [tensor]).values()))
        grown = graft(grown, scion, name=name, at={scion.graph.inputs[0]: tensor})
        outputs[name] = f"{name}.{scion.graph.outputs[0]}"
    outputs["final"] = logits
    exits = calibrate_exits(grown, outputs, held_out, max_drop=max_drop)
    return replace(grown, exits=exits, recipe=recipe_of_exits(model, exits))


class Head(nn.Module):
    """Logits (N, classes) of a tensor (N, C, H, W), (N, T, C) or (N, C)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, spec: TensorSpec, classes: int) -> None:
        super().__init__()
        self.pool = _pool(spec)
        features = self.pool(torch.zeros(spec.shape)).shape[1]
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.linear = nn.Linear(features, classes)

    def forward(self, tensor: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.linear((self.pool(tensor) - self.mean) * self.scale)
        return logits


class _Places(nn.Module):
    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.average = nn.AvgPool2d((height, width))

    def forward(self, tensor: Tensor) -> Tensor:
        # A model whose input has its channels last may keep them there in memory. ``contiguous`` would vanish from a
        # graph that was captured with an example whose channels come first.
        places: Tensor = self.average(tensor)
        return places.clone(memory_format=torch.contiguous_format).flatten(1)


class _MeanOfTokens(nn.Module):
    def forward(self, tensor: Tensor) -> Tensor:
        return tensor.mean(1)


def _pool(spec: TensorSpec) -> nn.Module:
    """To (N, features)."""
    if spec.dtype != "float32" or len(spec.shape) not in (2, 3, 4):
        raise ValueError(f"a head reads float32 (N, C, H, W), (N, T, C) or (N, C), not {spec.dtype} {spec.shape}")
    if len(spec.shape) == 4:
        height, width = (max(1, side // _PLACES) for side in spec.shape[2:])
        return _Places(height, width)
    return _MeanOfTokens() if len(spec.shape) == 3 else nn.Identity()


def _taught(model: Model, tensors: Sequence[str], logits: str, train: Samples, *, seed: int) -> list[Head]:
    """A head for each tensor, taught the probabilities that the model gives to ``train``."""
    check_data(model, train)
    classes = model.graph.tensors[logits].shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = [Head(model.graph.tensors[tensor], classes) for tensor in tensors]
        stage = extract(model, tuple(model.graph.inputs), (*tensors, logits))
        rows: list[list[Tensor]] = [[] for _ in (*tensors, logits)]
        with torch.no_grad():
            for batch in batches(model, train):
                *inner, answers = stage(*(batch[name] for name in model.graph.inputs))
                for row, value in zip(
                    rows, [*(h.pool(v) for h, v in zip(heads, inner, strict=True)), answers], strict=True
                ):
                    row.append(value)
        answers = torch.cat(rows[-1])
        check_numbers(answers, f"{train.source}: what the model answers", names_of(train))
        target = softmax(answers, 1)
        for head, parts in zip(heads, rows, strict=False):
            _teach(head, torch.cat(parts), target)
    return [head.eval() for head in heads]


def _teach(head: Head, pooled: Tensor, target: Tensor) -> None:
    """Fit the linear layer to ``target`` (N, classes) from ``pooled`` (N, features)."""
    head.mean.copy_(pooled.mean(0))
    head.scale.copy_(1 / pooled.std(0, correction=0).clamp(min=1e-3))
    features = (pooled - head.mean) * head.scale
    nn.init.zeros_(head.linear.bias)
    optimizer = torch.optim.AdamW(head.linear.parameters(), lr=2e-3, weight_decay=0.05)
    steps = _EPOCHS * -(-len(features) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss = torch.zeros(())
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(features)).split(_BATCH):
            loss = kl_div(log_softmax(head.linear(features[rows]), 1), target[rows], reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    _log.info("a head of %d features ends at a divergence of %.3f", features.shape[1], loss.item())


def _answer(model: Model, answer: str | None) -> str:
    """The tensor of the model's logits. Raises InvalidInput: unclear which, or none."""
    outputs = list(dict.fromkeys(model.graph.outputs))
    if answer is None and len(outputs) > 1:
        raise InvalidInput(f"the model has the outputs {outputs}: say which one holds its logits (--answer)")
    found = answer or outputs[0]
    if found not in outputs:
        raise InvalidInput(f"{found!r} is no output of the model; these are: {outputs}")
    spec = model.graph.tensors[found]
    if len(spec.shape) != 2 or spec.dtype != "float32" or spec.shape[1] < 2:
        raise InvalidInput(
            f"an exit answers a sample with one class and how sure it is: the answer is logits, float32 (N, classes); "
            f"{found!r} is {spec.dtype} {spec.shape}, and a model that answers so sends less with a bottleneck only "
            "(`splitnn bottleneck`)"
        )
    if answer is None and model.exits is None and answer_of(model).cosine is not None:
        raise InvalidInput(
            f"{found!r} is an embedding (its rows have length 1), of which no exit can say how sure it is; "
            f"where it holds logits all the same, say so (--answer {found})"
        )
    return found


def _places_of(model: Model, at: Sequence[str]) -> list[str]:
    """The tensors behind these layers or modules. Raises InvalidInput: unknown, twice, or a deeper one first."""
    graph = model.graph
    tensors = [tensor_named(graph, text) for text in at]
    for later in range(len(tensors)):
        for earlier in range(later):
            one, other = at[earlier], at[later]
            if tensors[earlier] == tensors[later]:
                raise InvalidInput(f"an exit behind {one!r} and one behind {other!r} would be the same")
            if graph.producer.get(tensors[later]) in layers_before(graph, [tensors[earlier]]):
                raise InvalidInput(f"{one!r} lies behind {other!r}: name exits in the order of depth, the first first")
    return tensors
