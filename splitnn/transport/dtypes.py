"""Which floating-point dtypes lossy codecs take, and how values come back in the narrower ones."""

from __future__ import annotations

from collections.abc import Collection

import torch

from splitnn.errors import CodecError
from splitnn.transport.layout import dtype_named

FLOATS = ("float32", "float64", "float16", "bfloat16")


def check_dtype(codec: str, dtype: str, allowed: Collection[str] = FLOATS) -> None:
    """Raises CodecError: it is none of the dtypes that the codec takes."""
    if dtype not in allowed:
        raise CodecError(f"codec {codec} takes {' or '.join(allowed)}, not {dtype}")


def as_dtype(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """Finite values of single precision as another floating-point dtype, in place where it can be; what that cannot
    hold becomes its largest finite value.
    """
    if dtype == "float32":
        return values
    if dtype != "float64":
        most = torch.finfo(dtype_named(dtype)).max
        values.clamp_(-most, most)
    return values.to(dtype_named(dtype))
