"""Whether the tensors of a request are what the graph expects, in words that its sender understands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from splitnn.errors import InvalidInput
from splitnn.graph.graph import DATA_DEPENDENT, Graph, TensorSpec
from splitnn.graph.model import Value
from splitnn.transport.codec import CODECS

_ALIGNMENT = 64  # bytes
_INT64 = range(-(2**63), 2**63)
_LONGEST_NAME = 200  # characters, in a message


def admit(graph: Graph, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """The tensors as the graph takes them: names, dtypes and shapes checked, one batch size throughout.

    A tensor that came contiguous where the graph's own is not (a client that knows no strides) is laid out as the
    graph's own. Values are not looked at: NaN passes. Whether the names are a cut is ``Graph.between``'s question.

    Raises:
        InvalidInput: names the tensor, what came and what was expected.
    """
    check_described(graph, {name: _described(value) for name, value in tensors.items()})
    return {name: _taken(graph, name, value) for name, value in tensors.items()}


def check_described(graph: Graph, tensors: Mapping[str, TensorSpec]) -> None:
    """What ``admit`` checks but for values: for tensors of which only shapes and dtypes are known yet.

    Raises:
        InvalidInput: names the tensor, what came and what was expected.
    """
    growth: tuple[str, int] | None = None  # the tensor that told it, and samples beyond the example's
    for name, came in tensors.items():
        spec = _spec(graph, name)
        if spec.dtype == "int":
            if came.dtype != "int" and (came.dtype != "int64" or math.prod(came.shape) != 1):
                raise InvalidInput(f"{_short(name)} came as {_seen(came)}; expected one plain integer")
            continue
        if came.dtype == "int":
            expected = f"{spec.dtype} {_shown(spec, graph.batch)}"
            raise InvalidInput(f"tensor {_short(name)} came as a plain integer; expected {expected}")
        if came.dtype != spec.dtype:
            expected = f"{spec.dtype} {_shown(spec, graph.batch)}"
            raise InvalidInput(f"tensor {_short(name)} came as {_seen(came)}; expected {expected}")
        samples = _samples(graph, name, came.shape, growth)
        if growth is None and samples is not None:
            growth = name, samples


def check_codecs(graph: Graph, wanted: Iterable[str], codecs: Mapping[str, str]) -> None:
    """Whether the tensors that are wanted can travel in the codecs that are asked for, all of which exist.

    Raises:
        InvalidInput: names the tensor and the codec.
    """
    for name in wanted:
        spec, chosen = _spec(graph, name), codecs.get(name, "raw")
        if chosen != "raw" and spec.dtype != "int" and not CODECS[chosen].accepts(spec):
            raise InvalidInput(f"codec {chosen!r} does not take {_short(name)}, which is {_seen(spec)}")


def samples_of(graph: Graph, tensors: Mapping[str, Value]) -> int:
    """The batch of tensors that were admitted; the example's where nothing grows with it."""
    for name, value in tensors.items():
        growths = graph.tensors[name].batch_growth
        if isinstance(value, torch.Tensor) and any(growth > 0 for growth in growths):
            return graph.batch + (_samples(graph, name, tuple(value.shape), None) or 0)
    return graph.batch


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor at an address like those that torch's own memory has, copied with its strides where it is not.

    A tensor over a received message lies anywhere; attention on keys that are not at a multiple of 16 bytes differs in
    the last bit from the whole model's. Only floating-point operators do.
    """
    if not tensor.is_cpu or not tensor.is_floating_point() or not tensor.numel() or tensor.data_ptr() % _ALIGNMENT == 0:
        return tensor
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((span,), (1,)).clone().as_strided(tensor.shape, tensor.stride())


def _spec(graph: Graph, name: str) -> TensorSpec:
    spec = graph.tensors.get(name)
    if spec is None:
        raise InvalidInput(
            f"no tensor is called {_short(name)} in this model; its inputs are {list(graph.inputs)}, its outputs "
            f"{list(dict.fromkeys(graph.outputs))}"
        )
    return spec


def _described(value: Value) -> TensorSpec:
    if isinstance(value, torch.Tensor):
        return TensorSpec(tuple(value.shape), str(value.dtype).removeprefix("torch."))
    return TensorSpec((), "int")


def _taken(graph: Graph, name: str, value: Value) -> Value:
    spec = graph.tensors[name]
    if spec.dtype != "int" and isinstance(value, torch.Tensor):
        return aligned(_laid_out(value, spec))
    number = int(value) if isinstance(value, torch.Tensor) else value
    if isinstance(number, bool) or number not in _INT64:
        raise InvalidInput(f"{_short(name)} came as {number!r}; expected a plain integer of 64 bits")
    return number


def _samples(graph: Graph, name: str, shape: tuple[int, ...], growth: tuple[str, int] | None) -> int | None:
    """Samples beyond the example's that this tensor has; None when it has the same shape for any batch."""
    spec = graph.tensors[name]
    came = f"tensor {_short(name)} came with shape {list(shape)}"
    expected = f"{came}; expected {_shown(spec, graph.batch)}"
    if len(shape) != len(spec.shape):
        raise InvalidInput(expected)
    growing = [d for d, growth_of in enumerate(spec.batch_growth) if growth_of > 0]
    samples = (shape[growing[0]] - spec.shape[growing[0]]) // spec.batch_growth[growing[0]] if growing else 0
    if graph.batch + samples < 1 or not _fits(shape, spec.grown(samples)):
        raise InvalidInput(expected)
    if not growing:
        return None
    if growth is not None and growth[1] != samples:
        raise InvalidInput(
            f"{came}, a batch of {graph.batch + samples}, but {_short(growth[0])} has a batch of "
            f"{graph.batch + growth[1]}"
        )
    return samples


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return all(want in (-1, size) for size, want in zip(shape, expected, strict=True))


def _laid_out(tensor: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    if not spec.dim_order or not tensor.is_contiguous():
        return tensor
    inverse = sorted(range(tensor.ndim), key=spec.dim_order.__getitem__)
    return tensor.permute(spec.dim_order).contiguous().permute(inverse)


def _short(name: str) -> str:
    """A name that came from outside, for a message: a graph's own fit, others are cut."""
    return repr(name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "...")


def _seen(spec: TensorSpec) -> str:
    return f"{spec.dtype} {list(spec.shape)}"


def _shown(spec: TensorSpec, batch: int) -> str:
    """``[N, 224, 224, 3]``: N is the batch, so that 2N+1 is a dimension that follows it, and ``?`` any size."""
    growths = spec.batch_growth or (0,) * len(spec.shape)
    return f"[{', '.join(_dimension(size, growth, batch) for size, growth in zip(spec.shape, growths, strict=True))}]"


def _dimension(size: int, growth: int, batch: int) -> str:
    if growth <= 0:
        return "?" if growth == DATA_DEPENDENT else str(size)
    rest = size - growth * batch
    return f"{growth if growth > 1 else ''}N{f'{rest:+d}' if rest else ''}"
