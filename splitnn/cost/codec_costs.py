"""What every codec costs on every tensor of a model: size, and seconds to encode and to decode.

In service a codec follows a pause, and pays for cold caches: 0.1 to 0.6 ms on top of what it takes in a loop, however
large the tensor is. So each tensor is measured in a loop, and what a pause adds once for each codec.
"""

from __future__ import annotations

import time
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
_PAUSES = 7
_PAUSE_S = 0.02


def _pause() -> None:
    time.sleep(_PAUSE_S)


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
    pause: Callable[[], None] = _pause,
) -> dict[str, dict[str, CodecCost]]:
    """Costs by tensor and codec, for tensors that a layer reads and codecs that take them.

    A codec that refuses a tensor's values (NaN, say) is left out for that tensor. ``pause`` comes before the readings
    that tell what a pause adds.
    """
    found: dict[str, dict[str, CodecCost]] = {}
    added: dict[str, tuple[float, float]] = {}  # codec: what a pause adds to encoding and to decoding
    with torch.inference_mode():
        for done, (name, value) in enumerate(bench.tensors() if codecs else ()):
            progress(done / len(graph.tensors), "measuring codecs")
            if not graph.consumers[name] or not isinstance(value, torch.Tensor):
                continue
            costs = {}
            for codec in codecs.values():
                if codec.accepts(graph.tensors[name]):
                    try:
                        costs[codec.name] = _cost(
                            codec, value, clock=clock, device=device, now=now, pause=pause, added=added
                        )
                    except CodecError:
                        continue
            found[name] = costs
    return found


def _cost(
    codec: TensorCodec,
    tensor: torch.Tensor,
    *,
    clock: Clock,
    device: str,
    now: Callable[[], Reading],
    pause: Callable[[], None],
    added: dict[str, tuple[float, float]],
) -> CodecCost:
    """The first tensor of a codec also tells what a pause adds, and puts it into ``added``."""
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    strides = () if tensor.is_contiguous() else tensor.stride()

    def decode() -> Any:
        return codec.decode(payload, shape, dtype, strides).to(device)

    payload, encode_s = _median(lambda: codec.encode(tensor), clock, now)
    _, decode_s = _median(decode, clock, now)
    if codec.name not in added:
        first_s = _after_pauses(lambda: codec.encode(tensor), clock, now, pause)
        second_s = _after_pauses(decode, clock, now, pause)
        added[codec.name] = max(0.0, first_s - encode_s), max(0.0, second_s - decode_s)
    encode_more_s, decode_more_s = added[codec.name]
    return CodecCost(memoryview(payload).nbytes, encode_s + encode_more_s, decode_s + decode_more_s)


def _median(work: Callable[[], Any], clock: Clock, now: Callable[[], Reading]) -> tuple[Any, float]:
    taken: list[float] = []
    while len(taken) < _REPEATS and not (taken and taken[0] > _LONG_S):
        start = now()
        result = work()
        taken.append(now().since(start).by(clock))
    return result, median(taken)


def _after_pauses(
    work: Callable[[], Any], clock: Clock, now: Callable[[], Reading], pause: Callable[[], None]
) -> float:
    taken: list[float] = []
    for _ in range(_PAUSES):
        pause()
        start = now()
        work()
        taken.append(now().since(start).by(clock))
    return median(taken)
