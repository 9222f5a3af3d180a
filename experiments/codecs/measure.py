"""What a codec does to a model: bytes, seconds, and whether the answers stay, at each cut worth considering."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.codecs.smallest import SmallestFile
from splitnn.errors import InvalidInput
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model
from splitnn.runtime.stage import Stage, stage
from splitnn.transport.codec import Codec, codec
from splitnn.transport.evenstep import EvenStep
from splitnn.transport.image import ImageCodec
from splitnn.transport.lowbit import LowBit

Found = TypeVar("Found")

_TIMED = 15  # samples that are encoded once more, alone, with the clock running
_LEAST_FLOPS = 0.01  # of the model: a cut before its first convolution is the input


@dataclass(frozen=True, slots=True)
class Cut:
    """One tensor that alone can cross."""

    tensor: str
    name: str  # for people
    flops_share: float  # of the model, on the device
    values: torch.Tensor  # of every sample

    @property
    def sample_bytes(self) -> int:
        return self.values[0].numel() * self.values.element_size()


@dataclass(frozen=True, slots=True)
class Point:
    """One codec at one cut (or on the input, where ``flops_share`` is 0)."""

    cut: str
    flops_share: float
    codec: str
    plain_bytes: int  # a sample, as it is
    sample_bytes: NDArray[np.int64]  # of each sample that was encoded alone
    right: NDArray[np.bool_]  # of each sample whether the answer is the wanted one
    encode_s: float
    decode_s: float

    def only(self, chosen: Sequence[bool]) -> Point:
        """The same of some samples, where each was encoded alone."""
        keep = np.array(chosen)
        return replace(self, right=self.right[keep], sample_bytes=self.sample_bytes[keep[: len(self.sample_bytes)]])

    @property
    def mean_bytes(self) -> float:
        return float(self.sample_bytes.mean())

    @property
    def share_right(self) -> float:
        return float(self.right.mean())


class Case:
    """A model, samples of its only input, and the answers that are wanted: labels, or those of the unsplit model."""

    def __init__(self, model: Model, pixels: torch.Tensor, *, batch: int, labels: torch.Tensor | None = None) -> None:
        self._batch = batch
        self.model = model
        self.pixels = pixels
        (self.input,) = model.graph.inputs
        self.output = model.graph.outputs[-1]
        self.answers = self._answers(self._stage(self.input), pixels)
        self.wanted = self.answers if labels is None else labels

    def point(self, cut: Cut, name: str, *, alone: int) -> Point:
        """What codec ``name`` does at a cut; ``alone`` samples are encoded by themselves and counted.

        An image has the bytes (and a lossy WebP the pixels) of the smallest file of its quality, and the seconds of the
        codec, which makes a larger one: a baseline that is better at both than any that can be had.

        Raises:
            CodecError: it cannot encode the tensor.
        """
        wire = codec(name)
        one = SmallestFile(wire) if isinstance(wire, ImageCodec) else wire
        same = _quick(one)
        sizes, decoded = [], torch.empty_like(cut.values)
        for start in range(0, len(cut.values), self._batch):
            batch = cut.values[start : start + self._batch]
            if start < alone:  # few enough to count, so that a batch and its samples are known to decode alike
                for number, sample in enumerate(batch.split(1)):
                    payload = one.encode(sample)
                    sizes.append(len(payload))
                    decoded[start + number] = _decoded(one, payload, sample)[0]
            elif isinstance(one, EvenStep):
                decoded[start : start + self._batch] = one.rounded(batch)
            else:
                decoded[start : start + self._batch] = _decoded(same, same.encode(batch), batch)
        is_same = torch.equal(decoded, cut.values)
        answers = self.answers if is_same else self._answers(self._stage(cut.tensor), decoded)
        right = answers == self.wanted
        encode_s, decode_s = _seconds(wire, cut.values[:_TIMED])
        return Point(
            cut.name, cut.flops_share, name, cut.sample_bytes, np.array(sizes), right.numpy(), encode_s, decode_s
        )

    @property
    def whole_input(self) -> Cut:
        return Cut(self.input, "input", 0.0, self.pixels)

    def cuts(self, *, only: Sequence[int] = ()) -> Iterator[Cut]:
        """The cuts where the network is about to widen, with the features of every sample; those numbers, if given."""
        found = list(narrow_cuts(self.model.graph, self.output))
        for number in only or range(len(found)):
            tensor, share = found[number]
            yield self.cut(tensor, _short(tensor), flops_share=share)

    def cut(self, tensor: str, name: str, *, flops_share: float = 0.0) -> Cut:
        """The cut at a tensor, with the features of every sample."""
        head = stage(self.model, [self.input], [tensor])
        values = self._run(head, self.input, tensor, self.pixels)
        return Cut(tensor, f"{name} {'x'.join(map(str, values.shape[1:]))}", flops_share, values)

    def of_version(self, version: Model) -> Case:
        """Another version of the model, judged by the same answers."""
        return Case(version, self.pixels, batch=self._batch, labels=self.wanted)

    def _run(self, part: Stage, given: str, wanted: str, values: torch.Tensor) -> torch.Tensor:
        """A tensor of every sample, computed in batches."""
        found = []
        for each in values.split(self._batch):
            result = part.run({given: each})[wanted]
            assert isinstance(result, torch.Tensor)  # only sizes are plain integers, and none crosses a narrow cut
            found.append(result)
        return torch.cat(found)

    def _stage(self, tensor: str) -> Stage:
        return stage(self.model, [tensor], [self.output])

    def _answers(self, tail: Stage, values: torch.Tensor) -> torch.Tensor:
        (given,) = tail.inputs
        return self._run(tail, given, self.output, values).argmax(1)


def narrow_cuts(graph: Graph, output: str) -> Iterator[tuple[str, float]]:
    """Tensors that alone cut the graph and that a layer with weights widens, and the share of FLOPs before each."""
    total = sum(layer.flops for layer in graph.layers)
    done = 0
    for layer in graph.layers:
        done += layer.flops
        if done < _LEAST_FLOPS * total:
            continue
        for tensor in layer.outputs:
            size = graph.tensors[tensor].size_bytes
            readers = [graph.layer(name) for name in graph.consumers[tensor]]
            widens = any(each.weights and graph.tensors[each.outputs[0]].size_bytes > size for each in readers)
            if widens and _cuts(graph, tensor, output):
                yield tensor, done / total


def _cuts(graph: Graph, tensor: str, output: str) -> bool:
    try:
        return bool(graph.between([tensor], [output]))
    except InvalidInput:
        return False


def _short(tensor: str) -> str:
    parts = [part for part in tensor.split(".") if part not in ("classifier", "_blocks")]
    return "block " + parts[0] if tensor.count("_blocks") else parts[0]


def _quick(one: Codec | SmallestFile) -> Codec | SmallestFile:
    """What decodes alike, up to ten times as fast."""
    match one:
        case LowBit():
            return replace(one, symbols="packed")
        case SmallestFile() if not one.finds_other_pixels:
            return one.wire
    return one


def _decoded(one: Codec | SmallestFile, payload: bytes | memoryview, tensor: torch.Tensor) -> torch.Tensor:
    return one.decode(payload, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _seconds(one: Codec, samples: torch.Tensor) -> tuple[float, float]:
    """Median CPU seconds to encode and to decode one sample."""
    encoding, decoding = [], []
    for sample in samples.split(1):
        payload, taken = _timed(partial(one.encode, sample))
        encoding.append(taken)
        decoding.append(_timed(partial(_decoded, one, payload, sample))[1])
    return median(encoding), median(decoding)


def _timed(work: Callable[[], Found]) -> tuple[Found, float]:
    start = time.process_time()
    found = work()
    return found, time.process_time() - start
