"""What every codec costs on every tensor of a model: size, and seconds to encode and to decode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Protocol

import torch

from splitnn.cost.bench import ModelBench
from splitnn.cost.measure import Progress, Reading
from splitnn.cost.profile import Clock, CodecCost
from splitnn.errors import CodecError
from splitnn.graph.graph import Graph, TensorSpec

_REPEATS = 3
_LONG_S = 0.02  # of what takes longer, one reading is enough


class TensorCodec(Protocol):
    """What a profile needs of a codec; those of ``splitnn.transport.codec.CODECS`` are such."""

    @property
    def name(self) -> str: ...

    def accepts(self, spec: TensorSpec) -> bool: ...

    def encode(self, tensor: torch.Tensor) -> bytes | memoryview: ...

    def decode(
        self, payload: bytes | memoryview, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor: ...


def codec_costs(
    graph: Graph,
    bench: ModelBench,
    codecs: Mapping[str, TensorCodec],
    *,
    clock: Clock,
    device: str,
    now: Callable[[], Reading],
    progress: Progress,
) -> dict[str, dict[str, CodecCost]]:
    """Costs by tensor and codec, for tensors that a layer reads and codecs that take them.

    A codec that refuses a tensor's values (NaN, say) is left out for that tensor.
    """
    found: dict[str, dict[str, CodecCost]] = {}
    with torch.inference_mode():
        for done, (name, value) in enumerate(bench.tensors() if codecs else ()):
            progress(done / len(graph.tensors), "measuring codecs")
            if not graph.consumers[name] or not isinstance(value, torch.Tensor):
                continue
            costs = {}
            for codec in codecs.values():
                if codec.accepts(graph.tensors[name]):
                    try:
                        costs[codec.name] = _cost(codec, value, clock=clock, device=device, now=now)
                    except CodecError:
                        continue
            found[name] = costs
    return found


def _cost(
    codec: TensorCodec, tensor: torch.Tensor, *, clock: Clock, device: str, now: Callable[[], Reading]
) -> CodecCost:
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    strides = () if tensor.is_contiguous() else tensor.stride()
    payload, encode_s = _median(lambda: codec.encode(tensor), clock, now)
    _, decode_s = _median(lambda: codec.decode(payload, shape, dtype, strides).to(device), clock, now)
    return CodecCost(memoryview(payload).nbytes, encode_s, decode_s)


def _median(work: Callable[[], Any], clock: Clock, now: Callable[[], Reading]) -> tuple[Any, float]:
    taken: list[float] = []
    while len(taken) < _REPEATS and not (taken and taken[0] > _LONG_S):
        start = now()
        result = work()
        taken.append(now().since(start).by(clock))
    return result, median(taken)
