"""How a tensor lies in memory, and the bytes that must travel so that it lies the same way on the other side.

A tail cut from an exported graph can require the strides that the head produced (BERT's are not contiguous), so they
are part of the contract. What travels is the **compact** form: every distinct element once, in the order of memory.
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from splitnn.errors import CodecError
from splitnn.graph.graph import DTYPE_BYTES

Payload = bytes | memoryview
MAX_DIMENSIONS = 32
_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_BYTES if name != "int"}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_EXTENT = 2**48  # keeps the products of foreign shapes and strides far inside an int64


@dataclass(frozen=True)
class Layout:
    """Shape and strides (in elements; ``()`` is contiguous) of one tensor.

    Raises:
        CodecError: no tensor can be laid out so.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shape) > MAX_DIMENSIONS:
            raise CodecError(f"a tensor has at most {MAX_DIMENSIONS} dimensions, not {len(self.shape)}")
        if self.strides and len(self.strides) != len(self.shape):
            raise CodecError(f"strides {self.strides} do not fit the shape {self.shape}")
        if min(self.shape, default=0) < 0 or min(self.strides, default=0) < 0:
            raise CodecError(f"a shape or stride is negative: {self.shape}, {self.strides}")
        # A dimension of 0 must not hide the others: torch and numpy multiply them all the same.
        if max(math.prod(max(1, size) for size in self.shape), self.span, *self.strides) > _MAX_EXTENT:
            raise CodecError(f"shape {self.shape} with strides {self.strides} is too large for any tensor")

    @staticmethod
    def of(tensor: torch.Tensor) -> Layout:
        """The layout of a tensor; ``strides`` is ``()`` exactly when they are the contiguous ones."""
        return laid_out(tuple(tensor.shape), strides_of(tensor))

    @property
    def elements(self) -> int:
        """Elements as the tensor counts them; an expanded one counts as often as it is seen."""
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """Elements of storage from the first to the last one of the tensor, gaps included."""
        if not self.strides or self.elements == 0:
            return self.elements
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Dimensions that move through memory, from the largest stride to the smallest."""
        strides = self.strides or _contiguous(self.shape)
        moving = [d for d, size in enumerate(self.shape) if size > 1 and strides[d] > 0]
        return tuple(sorted(moving, key=lambda d: -strides[d]))

    @cached_property
    def _steps(self) -> tuple[int, ...]:
        strides = self.strides or _contiguous(self.shape)
        return tuple(strides[d] for d in self.order)

    @cached_property
    def overlaps(self) -> bool:
        """Whether two moving dimensions share elements (an unfolded window); then the whole span travels."""
        reach = 1
        for dimension, step in zip(reversed(self.order), reversed(self._steps), strict=True):
            if step < reach:
                return True
            reach += (self.shape[dimension] - 1) * step
        return False

    @cached_property
    def compact_shape(self) -> tuple[int, ...]:
        """Shape of the compact form."""
        if self.elements == 0:
            return (0,)
        if not self.strides:
            return tuple(size for size in self.shape if size != 1)
        return (self.span,) if self.overlaps else tuple(self.shape[d] for d in self.order)

    def compact(self, tensor: torch.Tensor) -> torch.Tensor:
        """The compact form of a tensor of this layout: contiguous, on the CPU, a view where the tensor is dense.

        Raises:
            CodecError: the tensor is sparse or has no storage.
        """
        tensor = self._checked(tensor)
        if not self.strides:
            return tensor.cpu().view(self.compact_shape)
        if self.elements == 0:
            return tensor.reshape(-1).cpu()
        if self.overlaps:
            return self._whole_span(tensor).cpu()
        return tensor.as_strided(self.compact_shape, self._steps, tensor.storage_offset()).contiguous().cpu()

    def _checked(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout != torch.strided or tensor.is_meta:
            raise CodecError(f"only dense tensors with storage can be sent, not {tensor.layout} on {tensor.device}")
        return tensor.detach()

    def _whole_span(self, tensor: torch.Tensor) -> torch.Tensor:
        """The span with its gaps overwritten: what lies there is nobody's business and may not be finite."""
        seen = torch.zeros((), dtype=torch.int64, device=tensor.device)
        for size, stride in zip(self.shape, self.strides, strict=True):
            seen = seen[..., None] + torch.arange(size, device=tensor.device) * stride
        is_gap = torch.ones(self.span, dtype=torch.bool, device=tensor.device)
        is_gap[seen.reshape(-1)] = False
        span = tensor.as_strided((self.span,), (1,), tensor.storage_offset())
        return torch.where(is_gap, span[0], span)

    def rebuild(self, compact: torch.Tensor) -> torch.Tensor:
        """The tensor of exactly this layout; a view of ``compact`` unless there are gaps to fill."""
        if not self.strides:
            return compact.view(self.shape)
        strides = self.strides
        if self.elements == 0:
            return torch.empty_strided(self.shape, strides, dtype=compact.dtype)
        if compact.numel() < self.span:
            storage = compact.new_zeros(self.span)
            storage.as_strided(self.compact_shape, self._steps).copy_(compact)
            compact = storage
        return compact.as_strided(self.shape, strides, compact.storage_offset())

    @cached_property
    def repeats(self) -> bool:
        """Whether an element is seen at several places (expanded, unfolded), so that only the compact form is sent."""
        seen = zip(self.shape, self.strides, strict=True) if self.strides and self.elements else ()
        return self.overlaps or any(size > 1 and stride == 0 for size, stride in seen)

    @cached_property
    def plane_shape(self) -> tuple[int, int, int, int]:
        """Samples, channels, height and width: what codecs see that expect neighbours to be alike."""
        if self.repeats:
            return 1, 1, 1, math.prod(self.compact_shape)
        match self.shape:
            case ():
                return 1, 1, 1, 1
            case (length,):
                return 1, 1, 1, length
            case (samples, length):
                return samples, 1, 1, length
            case (samples, channels, length):
                return samples, channels, 1, length
            case (samples, *channels, height, width):
                return samples, math.prod(channels), height, width
        raise AssertionError  # mypy does not see that the cases are all there are

    def planes(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of this layout as ``plane_shape``: contiguous, on the CPU, a view where it can be."""
        whole = self.compact(tensor) if self.repeats else self._checked(tensor).contiguous().cpu()
        return whole.view(self.plane_shape)

    def from_planes(self, planes: torch.Tensor) -> torch.Tensor:
        """The tensor of exactly this layout; a view of ``planes`` where it can be."""
        if self.repeats:
            return self.rebuild(planes.view(self.compact_shape))
        if not self.strides:
            return planes.view(self.shape)
        if self.elements == 0:
            return torch.empty_strided(self.shape, self.strides, dtype=planes.dtype)
        storage = planes.new_zeros(self.span)
        storage.as_strided(self.shape, self.strides).copy_(planes.view(self.shape))
        return storage.as_strided(self.shape, self.strides)


@functools.lru_cache(1024)
def laid_out(shape: tuple[int, ...], strides: tuple[int, ...] = ()) -> Layout:
    """The layout, remembered with what follows from it: a model sends the same shapes with every request.

    Raises:
        CodecError: no tensor can be laid out so.
    """
    return Layout(shape, strides)


def strides_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """The strides of a tensor, ``()`` when they are the contiguous ones."""
    if tensor.is_contiguous() and 0 not in tensor.shape and 1 not in tensor.shape:
        return ()  # the usual case, quickly; dimensions of size 1 may have any stride
    strides = tensor.stride()
    return () if strides == _contiguous(tuple(tensor.shape)) else strides


def dtype_named(name: str) -> torch.dtype:
    """torch's dtype. Raises CodecError: no tensor of that dtype travels."""
    if name not in _DTYPES:
        raise CodecError(f"no tensor of dtype {name!r} travels; these do: {', '.join(_DTYPES)}")
    return _DTYPES[name]


def name_of(dtype: torch.dtype) -> str:
    """The dtype's name in ``TensorSpec``. Raises CodecError: no tensor of that dtype travels."""
    if dtype not in _NAMES:
        raise CodecError(f"no tensor of {dtype} travels; these do: {', '.join(_NAMES.values())}")
    return _NAMES[dtype]


_NOT_IN_NUMPY = {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2}


def bytes_of(contiguous: torch.Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor, not copied; it keeps the tensor alive."""
    if contiguous.numel() == 0:
        return memoryview(b"")
    contiguous = contiguous.resolve_conj().resolve_neg()  # torch may put both off
    if contiguous.is_complex() or contiguous.dtype in _NOT_IN_NUMPY:
        flat = contiguous.as_strided((contiguous.numel(),), (1,))  # reshape may keep the stride of a single element
        contiguous = flat.view(torch.uint8)
    array: Any = contiguous.numpy()
    return memoryview(array).cast("B")


def tensor_over(payload: Payload, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A contiguous tensor over these bytes, not copied, of any alignment. To be read only.

    Raises:
        CodecError: the payload is longer or shorter than such a tensor.
    """
    expected = math.prod(shape) * dtype.itemsize
    if len(payload) != expected:
        raise CodecError(f"a payload of {len(payload)} bytes came where {dtype} of shape {shape} needs {expected}")
    if expected == 0:
        return torch.empty(shape, dtype=dtype)
    _spend_read_only_warning()
    flat = torch.frombuffer(payload, dtype=dtype)
    return flat if len(shape) == 1 else flat.view(shape)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [0] * len(shape), 1
    for d in range(len(shape) - 1, -1, -1):
        strides[d] = step
        step *= max(1, shape[d])
    return tuple(strides)


@functools.cache
def _spend_read_only_warning() -> None:
    """torch warns once a process that a tensor over a received message is read-only. It is meant to be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.frombuffer(b"\0", dtype=torch.uint8)
