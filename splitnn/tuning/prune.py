"""Structured pruning: whole channels are taken out, those that matter least, until a share of the FLOPs is left."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from splitnn.errors import InvalidInput
from splitnn.graph.model import Model
from splitnn.tuning.channels import Group, groups, importance, moments, without
from splitnn.tuning.evaluation import Samples

_MULTIPLE = 8  # channels: what vector units take at once
_LEAST_SHARE = 0.2  # of its channels that every group keeps
_ROUNDS = 12  # of bisection; each lays out the model again


def pruned(model: Model, data: Samples, *, flops: float, layers: Collection[str] | None = None) -> Model:
    """The model with about ``flops`` (a share) of its FLOPs, or a little more, without further training.

    One threshold holds for all groups, on the share that a channel has in what its group hands on. Only channels that
    lie within ``layers`` are taken out.

    Raises:
        ValueError: ``flops`` is not between 0 and 1.
        InvalidInput: no channel can be taken out, or not enough of them.
    """
    if not 0 < flops < 1:
        raise ValueError(f"the share of FLOPs to keep lies between 0 and 1, not {flops}")
    found = groups(model, layers)
    if not found:
        raise InvalidInput("no channel of these layers can be taken out: all of them reach additions or outputs")
    felt = moments(model, found, data)
    shares = importance(model, found, felt)

    def cut(lost: float) -> Model:
        return without(model, _kept(found, shares, lost), found, felt)

    whole = _flops(model)
    least = cut(1.0)
    if (left := _flops(least) / whole) > flops:
        raise InvalidInput(
            f"{left:.0%} of the FLOPs are left when all channels are gone that may go; {flops:.0%} asked"
        )
    low, high, best = 0.0, 1.0, least
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        tried = cut(middle)
        if _flops(tried) / whole > flops:
            low = middle
        else:
            high, best = middle, tried
    return best


def _kept(found: Sequence[Group], shares: Sequence[torch.Tensor], lost: float) -> dict[str, torch.Tensor]:
    """All but the least channels of each group, which together carry ``lost`` squared of what it hands on."""
    kept = {}
    for group, share in zip(found, shares, strict=True):
        ordered, order = share.sort()
        dropped = int((ordered.cumsum(0) <= lost**2).sum())
        least = max(min(_MULTIPLE, group.channels), round(_LEAST_SHARE * group.channels))
        keep = max(least, group.channels - dropped)
        keep = min(group.channels, -(-keep // _MULTIPLE) * _MULTIPLE) if group.channels > _MULTIPLE else keep
        kept[group.source] = order[group.channels - keep :].sort().values
    return kept


def _flops(model: Model) -> int:
    return sum(layer.flops for layer in model.graph.layers)
