"""A model of images in one size, of images in another: a resize becomes part of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from splitnn.graph.capture import capture
from splitnn.graph.graft import graft, tensor_values
from splitnn.graph.graph import TensorSpec
from splitnn.graph.model import Model
from splitnn.graph.program import Ref


def resizes(given: TensorSpec, wanted: TensorSpec) -> bool:
    """Whether both are images, uint8 (N, H, W, C) with as many channels, and differ in size."""
    return (
        wanted.dtype == given.dtype == "uint8"
        and len(wanted.shape) == len(given.shape) == 4
        and wanted.shape[3] == given.shape[3]
        and wanted.shape != given.shape
    )


def behind_resize(model: Model, like: Model, *, name: str) -> Model:
    """``model`` with a resize (bilinear, antialiased) before it: it reads images of the size that ``like`` reads.

    Both have one input, between which ``resizes`` holds. Names of the model's layers and tensors then begin with
    ``name`` and a dot.
    """
    entry = like.graph.inputs[0]
    given, wanted = like.graph.tensors[entry], model.graph.tensors[model.graph.inputs[0]]
    resize = capture(_Resize(given, wanted), tuple(tensor_values(like, [entry]).values()))
    both = graft(resize, model, name=name, at={model.graph.inputs[0]: resize.graph.outputs[0]})
    outputs = tuple(f"{name}.{output}" for output in model.graph.outputs)
    return replace(
        both,
        graph=replace(both.graph, outputs=outputs),
        program=replace(both.program, outputs=tuple(Ref(output) for output in outputs)),
        result=both.result["tuple"][1],
    )


class _Resize(nn.Module):
    """Images uint8 (N, H, W, C) in another size, by two products with fixed matrices: every engine has those."""

    rows: Tensor
    columns: Tensor

    def __init__(self, given: TensorSpec, wanted: TensorSpec) -> None:
        super().__init__()
        self.register_buffer("rows", _weights(given.shape[1], wanted.shape[1]))
        self.register_buffer("columns", _weights(given.shape[2], wanted.shape[2]).T.contiguous())

    def forward(self, image: Tensor) -> Tensor:
        channels = image.permute(0, 3, 1, 2).float()  # (N, C, H, W)
        resized = self.rows @ channels @ self.columns
        return resized.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _weights(before: int, after: int) -> Tensor:
    """What each place after a resize takes of each before it, (after, before)."""
    return interpolate(torch.eye(before)[None, None], (after, before), mode="bilinear", antialias=True)[0, 0]
