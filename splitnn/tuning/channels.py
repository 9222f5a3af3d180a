"""Channels that can be taken out of a model: which ones belong together, and the model without some of them.

A group is the output of one convolution or linear layer and everything that it flows through until other layers add it
up. Channels that reach an addition, a concatenation or an output are left alone: others depend on their number.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from splitnn.graph.code import run_nodes
from splitnn.graph.model import Model
from splitnn.graph.owners import layer_of_nodes
from splitnn.graph.program import Node, Ref
from splitnn.tuning.evaluation import Samples, batches
from splitnn.tuning.rebuild import BATCH_NORM, rebuilt

_CONV, _LINEAR, _PART = "aten.conv2d.default", "aten.linear.default", "operator.getitem"
_EACH = frozenset(
    {
        "aten.relu.default",
        "aten.relu6.default",
        "aten.hardtanh.default",
        "aten.clamp.default",
        "aten.hardswish.default",
        "aten.hardsigmoid.default",
        "aten.silu.default",
        "aten.sigmoid.default",
        "aten.gelu.default",
        "aten.elu.default",
        "aten.leaky_relu.default",
        "aten.tanh.default",
        "aten.mish.default",
        "aten.softplus.default",
        "aten.clone.default",
        "aten.alias.default",
        "aten.dropout.default",
    }
)
_EACH_PLANE = frozenset({"aten.max_pool2d.default", "aten.avg_pool2d.default", "aten.adaptive_avg_pool2d.default"})
_SPATIAL_PADDING = 4  # numbers: width and height
_DAMPING = 1e-4  # of the mean square: channels that hardly differ must not get huge weights


@dataclass
class Group:
    """One set of channels: what makes them, what they pass, and what adds them up."""

    source: str  # the call that makes them
    channels: int
    passed: list[str] = field(default_factory=list)  # batch normalisations and depthwise convolutions
    views: list[str] = field(default_factory=list)  # that flatten planes into rows
    readers: list[tuple[str, str, int]] = field(
        default_factory=list
    )  # call, the value that it reads, columns a channel


def groups(model: Model, layers: Collection[str] | None = None) -> list[Group]:
    """All groups that lie within these layers, each with at least two channels."""
    owner = layer_of_nodes(model.graph, model.program)
    users: dict[str, list[Node]] = {}
    for node in model.program.nodes:
        for name in node.reads:
            users.setdefault(name, []).append(node)
    found = []
    for node in model.program.nodes:
        if node.op not in (_CONV, _LINEAR) or not _is_own(model, node, users) or (node.op == _CONV and _grouped(node)):
            continue
        group = _followed(model, node, users)
        if group is None or group.channels < 2 or not group.readers:
            continue
        names = [group.source, *group.passed, *(name for name, _, _ in group.readers)]
        if layers is None or all(owner.get(name) in layers for name in names):
            found.append(group)
    return found


def moments(model: Model, found: Sequence[Group], data: Samples) -> dict[str, torch.Tensor]:
    """Of each value that groups hand on the second moments of its channels on the data: (channels, channels)."""
    wanted = {value: group.channels for group in found for _, value, _ in group.readers}
    sums = {value: torch.zeros(channels, channels) for value, channels in wanted.items()}
    resident = dict(model.resident_on("cpu"))
    live = [node for node in model.program.nodes if node.name not in model.program.constants]
    total = 0
    with torch.inference_mode():
        for batch in batches(model, data):
            total += 1
            for node, value in run_nodes(live, {**resident, **batch}):
                if node.name in wanted:
                    rows = _rows(value.float(), wanted[node.name])
                    sums[node.name] += rows.T @ rows / len(rows)
    return {value: each / max(1, total) for value, each in sums.items()}


def importance(model: Model, found: Sequence[Group], moments: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Of each group the share that each channel has in what is added up of it: (channels,), which sums to one.

    The mean square of the channel on the data times the squared weights that it meets, as in Wanda (arXiv 2306.11695)
    for whole channels.
    """
    shares = []
    for group in found:
        total = torch.zeros(group.channels)
        for name, value, columns in group.readers:
            weight = _weight(model, model.program.node[name]).float().transpose(0, 1).flatten(1).square().sum(1)
            total += weight.view(group.channels, columns).sum(1) * moments[value].diagonal()
        shares.append(total / total.sum().clamp_min(1e-30))
    return shares


def without(
    model: Model, kept: Mapping[str, torch.Tensor], found: Sequence[Group], moments: Mapping[str, torch.Tensor]
) -> Model:
    """The model with only these channels (indices, int64) of each group, which is called by its source.

    Whoever adds channels up takes those that are gone for the best linear combination of those that are left, in least
    squares on the data (He et al., arXiv 1707.06168).
    """
    weights = dict(model.weights)
    nodes = {node.name: node for node in model.program.nodes}
    for group in found:
        if group.source not in kept:
            continue
        keep = kept[group.source]
        for name in (group.source, *group.passed):
            node = nodes[name]
            rows = node.args[1:5] if node.op == BATCH_NORM else node.args[1:3]
            for ref in rows:
                if isinstance(ref, Ref):
                    weights[ref.name] = weights[ref.name].index_select(0, keep)
            if node.op == _CONV and _grouped(node):
                nodes[name] = Node(name, node.op, (*node.args[:6], len(keep)), node.kwargs)
        for name in group.views:
            node = nodes[name]
            sizes = list(node.args[1])
            sizes[-1] = sizes[-1] // group.channels * len(keep) if sizes[-1] != -1 else -1
            nodes[name] = Node(name, node.op, (node.args[0], sizes), node.kwargs)
        for name, value, columns in group.readers:
            ref = nodes[name].args[1]
            weight = weights[ref.name]
            by_channel = weight.reshape(weight.shape[0], group.channels, columns, *weight.shape[2:])
            mixed = torch.einsum("oc...,ck->ok...", by_channel, _mixing(moments[value], keep))
            weights[ref.name] = mixed.reshape(weight.shape[0], len(keep) * columns, *weight.shape[2:])
    return rebuilt(model, weights, [nodes[node.name] for node in model.program.nodes])


def _followed(model: Model, source: Node, users: Mapping[str, list[Node]]) -> Group | None:
    """The group that a call makes; None where its channels cannot be taken out."""
    group = Group(source.name, model.weights[source.args[1].name].shape[0])
    is_plane = source.op == _CONV  # channels are dimension 1, not the last one
    columns = {source.name: 1}
    stack = [source.name]
    while stack:
        value = stack.pop()
        if value in model.graph.outputs or not users.get(value):
            return None
        for node in users[value]:
            if any(name != value and name not in model.weights for name in node.reads):
                return None
            made: str | None = node.name
            if node.op in _EACH or (is_plane and (node.op in _EACH_PLANE or _pads_planes(node))):
                columns[node.name] = columns[value]
            elif node.op == BATCH_NORM and is_plane:
                parts = users.get(node.name, [])
                if not _is_own(model, node, users) or [p.op for p in parts] != [_PART] or parts[0].args[1] != 0:
                    return None
                group.passed.append(node.name)
                made = parts[0].name
                columns[made] = columns[value]
            elif node.op == _CONV and is_plane and _is_own(model, node, users) and node.args[0] == Ref(value):
                if not _grouped(node):
                    group.readers.append((node.name, value, 1))
                    made = None
                elif node.args[6] == group.channels == model.weights[node.args[1].name].shape[0]:
                    group.passed.append(node.name)
                    columns[node.name] = columns[value]
                else:
                    return None
            elif node.op == "aten.view.default" and is_plane and _flattens(node, model, value):
                group.views.append(node.name)
                columns[node.name] = model.graph.tensors[node.name].shape[-1] // group.channels
            elif node.op == _LINEAR and _is_own(model, node, users) and (not is_plane or _is_flat(model, value)):
                group.readers.append((node.name, value, columns[value]))
                made = None
            else:
                return None
            if made is not None:
                stack.append(made)
    return group


def _mixing(moments: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """The kept channels' part in every channel, (channels, kept): the identity where all are kept."""
    inner = moments.double()[keep][:, keep]
    damping = _DAMPING * inner.diagonal().mean().clamp_min(1e-30) * torch.eye(len(keep), dtype=torch.float64)
    found: torch.Tensor = torch.linalg.solve(inner + damping, moments.double()[keep]).T.float()
    found[keep] = torch.eye(len(keep))
    return found


def _rows(value: torch.Tensor, channels: int) -> torch.Tensor:
    """(N, C, H, W), (..., C) or flattened (N, C * columns) as (rows, channels)."""
    if value.dim() == 4:
        return value.transpose(0, 1).flatten(1).T
    if value.shape[-1] == channels:
        return value.reshape(-1, channels)
    return value.view(len(value), channels, -1).transpose(1, 2).reshape(-1, channels)


def _is_own(model: Model, node: Node, users: Mapping[str, list[Node]]) -> bool:
    """Whether the call's parameters are weights that no other call reads."""
    names = [arg.name for arg in node.args[1:5] if isinstance(arg, Ref)]
    return bool(names) and all(name in model.weights and len(users[name]) == 1 for name in names)


def _grouped(node: Node) -> bool:
    return len(node.args) > 6 and node.args[6] != 1


def _pads_planes(node: Node) -> bool:
    return node.op in ("aten.pad.default", "aten.constant_pad_nd.default") and len(node.args[1]) <= _SPATIAL_PADDING


def _flattens(node: Node, model: Model, value: str) -> bool:
    sizes: Any = node.args[1]
    spec = model.graph.tensors.get(node.name)
    given = model.graph.tensors.get(value)
    return (
        spec is not None and given is not None and len(given.shape) == 4 and len(spec.shape) == 2
        and isinstance(sizes, list) and type(sizes[-1]) is int and spec.shape[0] == given.shape[0]
    )  # fmt: skip


def _is_flat(model: Model, value: str) -> bool:
    spec = model.graph.tensors.get(value)
    return spec is not None and len(spec.shape) == 2


def _weight(model: Model, node: Node) -> torch.Tensor:
    name: str = node.args[1].name
    return model.weights[name]
