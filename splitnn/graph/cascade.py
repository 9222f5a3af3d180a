"""A small model of its own beside a large one, on the same input: an exit with its own trunk.

The small model answers when it is sure; else the input, or whatever of the large model is cheaper to send, goes on.
Which it is, and what it costs, is the planner's to say, as with every other exit.
"""

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


def cascade(small: Model, large: Model, *, name: str = "small") -> tuple[Model, dict[str, str]]:
    """One model of both, and the tensors of their logits by exit, the small one's first; thresholds are for later.

    Both read the large one's input. Where the small one takes images of another size, uint8 (N, H, W, C), a resize
    (bilinear, antialiased) becomes part of it.

    Raises:
        ValueError: a model has several inputs or outputs, or the small one reads something else than the large one.
    """
    for model in (small, large):
        if len(model.graph.inputs) != 1 or len(set(model.graph.outputs)) != 1:
            raise ValueError(
                f"a model of a cascade reads one tensor and answers with one, not {list(model.graph.inputs)} and "
                f"{list(model.graph.outputs)}"
            )
    entry = large.graph.inputs[0]
    wanted, given = small.graph.tensors[small.graph.inputs[0]], large.graph.tensors[entry]
    if wanted.shape != given.shape and _are_images(wanted, given):
        small = _behind_resize(small, large)
    both = graft(large, small, name=name, at={small.graph.inputs[0]: entry})
    return both, {name: f"{name}.{small.graph.outputs[0]}", "large": large.graph.outputs[0]}


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


def _are_images(wanted: TensorSpec, given: TensorSpec) -> bool:
    return (
        wanted.dtype == given.dtype == "uint8"
        and len(wanted.shape) == len(given.shape) == 4
        and wanted.shape[3] == given.shape[3]
    )


def _behind_resize(small: Model, large: Model) -> Model:
    """The small model, of images in the large one's size."""
    entry = large.graph.inputs[0]
    given, wanted = large.graph.tensors[entry], small.graph.tensors[small.graph.inputs[0]]
    resize = capture(_Resize(given, wanted), tuple(tensor_values(large, [entry]).values()))
    both = graft(resize, small, name="model", at={small.graph.inputs[0]: resize.graph.outputs[0]})
    answer = f"model.{small.graph.outputs[0]}"
    return replace(
        both,
        graph=replace(both.graph, outputs=(answer,)),
        program=replace(both.program, outputs=(Ref(answer),)),
        result={"tensor": answer},
    )
