"""What rounding does to a layer on average is undone in its scales and its bias (Nagel et al., arXiv 1906.04721).

Rounded weights shift and stretch whole channels, the more so in depthwise layers with nine weights a channel; both can
be measured on calibration data and mended without a further operation.
"""

from __future__ import annotations

from collections import Counter

import torch

from splitnn.graph.code import run_nodes
from splitnn.graph.model import Model
from splitnn.graph.program import Node, Ref
from splitnn.tuning.evaluation import Samples, batch_size
from splitnn.tuning.int8_names import Int8Weight, corrected_bias, rounded
from splitnn.tuning.ranges import WEIGHTY
from splitnn.tuning.rebuild import rebuilt

_CHANNELS_AT = {"aten.conv1d.default": -2, "aten.conv2d.default": -3, "aten.linear.default": -1}
_MOST_BYTES = 2**28  # of a layer's largest tensor on all the data
_ENOUGH = 1000  # values of a channel that a slope can be told from; fewer tell a shift only
_SLOPES = (0.5, 2.0)  # no further from 1 than that


def corrected(base: Model, version: Model, data: Samples) -> Model:
    """The version with scales and biases such that each int8 layer's channels are, in least squares, the base's.

    Layer after layer, each behind corrected ones. ``version`` holds the base's calls, its weights in int8. A layer
    whose bias is computed stays as it is: a bias that depends on data has no slope to take.
    """
    rows = _rows(base, len(data.origins))
    inputs = {name: tensor[:rows] for name, tensor in data.inputs.items()}
    calls = version.program.nodes
    changed: dict[str, Node] = {}
    readers = Counter(name for node in calls if node.op in WEIGHTY for name in node.reads)
    weights = dict(version.weights)
    theirs = run_nodes(base.program.nodes, {**base.weights, **inputs})
    ours = run_nodes(calls, {**version.weights, **inputs})
    with torch.inference_mode():
        for node, got in ours:
            scale, bias = _scale_of(node), node.args[2] if len(node.args) > 2 else None
            if scale not in weights or not (bias is None or bias.name in weights):
                continue
            same = (node.name, rounded(node.name))
            want = next(value for other, value in theirs if other.name in same)
            mine = _channels_last(got, node.op)
            slope, shift = _fit(_channels_last(want, node.op), mine, slopes=readers[node.reads[1]] == 1)
            mine.mul_(slope).add_(shift)  # in place, so that later layers meet what will be
            name = corrected_bias(node.name)
            weights[scale] = weights[scale] * slope.view(-1, *[1] * (weights[scale].dim() - 1))
            weights[name] = shift if bias is None else weights[bias.name] * slope + shift
            changed[node.name] = Node(node.name, node.op, (*node.args[:2], Ref(name), *node.args[3:]), node.kwargs)
    return rebuilt(version, weights, [changed.get(node.name, node) for node in calls])


def _scale_of(node: Node) -> str | None:
    """The name of the scale of the call's int8 weight; None where it has none."""
    weight = node.reads[1] if node.op in WEIGHTY and len(node.reads) > 1 else ""
    found = Int8Weight.read_as(weight)
    return None if found is None else found.scale


def _fit(want: torch.Tensor, got: torch.Tensor, *, slopes: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Slope and shift of each channel, (channels,) each, with ``slope * got + shift`` nearest to ``want``.

    Channels come last. Without ``slopes``, where others read the weight too, all slopes are 1.
    """
    want, got = (each.reshape(-1, each.shape[-1]) for each in (want, got))  # (values, channels)
    mean_want, mean_got = want.mean(0), got.mean(0)
    slope = torch.ones_like(mean_got)
    if slopes and len(got) >= _ENOUGH:
        off = got - mean_got
        fitted = ((want - mean_want) * off).sum(0) / off.square().sum(0)
        slope = fitted.nan_to_num(1.0).clamp(*_SLOPES)  # a channel that is one value everywhere has none
    return slope, mean_want - slope * mean_got


def _channels_last(value: torch.Tensor, op: str) -> torch.Tensor:
    """A view of what a call made, its channels along the last dimension."""
    return value.movedim(_CHANNELS_AT[op], -1)


def _rows(model: Model, most: int) -> int:
    """Samples that are run at once: the model's own batch where it takes no other."""
    if batch_size(model) == model.graph.batch:
        return model.graph.batch
    largest = max((spec.size_bytes for spec in model.graph.tensors.values()), default=1) // model.graph.batch
    return max(1, min(most, _MOST_BYTES // max(1, largest)))
