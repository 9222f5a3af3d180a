"""How a tensor that is no image is seen as one, so that what codes images codes it too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

Form = Literal["image", "tokens", "series", "features"]


@dataclass(frozen=True, slots=True)
class Planes:
    """A form of tensors, and the way to planes of channels (N, C, H, W) and back.

    image     (N, C, H, W), as it is
    tokens    (N, T, C) as (N, C, T, 1): a patch is a run of tokens
    series    (N, C, T) as (N, C, T, 1): such as what convolutions over time make
    features  (N, C) as (N, C, 1, 1)
    """

    form: Form

    def of(self, tensor: Tensor) -> Tensor:
        """The planes (N, C, H, W); they may share the tensor's memory."""
        if self.form == "tokens":
            return tensor.transpose(1, 2).unsqueeze(3)
        if self.form == "series":
            return tensor.unsqueeze(3)
        return tensor[:, :, None, None] if self.form == "features" else tensor

    def back(self, planes: Tensor) -> Tensor:
        """The tensor of these planes, contiguous where it is no image."""
        if self.form == "tokens":
            return planes.squeeze(3).transpose(1, 2).contiguous()
        if self.form == "series":
            return planes.squeeze(3)
        return planes.flatten(1) if self.form == "features" else planes

    def sides(self, patch: int) -> tuple[int, int]:
        """Height and width of a patch whose longest side is ``patch``."""
        return (patch, patch) if self.form == "image" else (patch, 1)

    def kernel(self, side: int) -> tuple[int, int]:
        """Height and width of what looks at so many places, in all directions that there are."""
        if self.form == "features":
            return 1, 1
        return (side, side) if self.form == "image" else (side, 1)


class InPlanes(nn.Module):
    """A module of planes for tensors of a form."""

    def __init__(self, inner: nn.Module, planes: Planes) -> None:
        super().__init__()
        self.inner = inner
        self.planes = planes

    def forward(self, x: Tensor) -> Tensor:
        return self.planes.back(self.inner(self.planes.of(x)))
