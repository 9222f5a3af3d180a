"""What a replay of early exits needs, measured: seconds of every leg and codec here, and each sample's confidences and
bytes, with the tensors that cross really written and read again.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np
import torch
from PIL import Image

from experiments.exits.replay import Fixed, Flags, Floats, Track
from splitnn.cost.profile import Profile
from splitnn.graph.exits import Exits
from splitnn.graph.graph import TensorSpec
from splitnn.graph.model import Model
from splitnn.graph.segments import segments
from splitnn.runtime.exits import confidences
from splitnn.runtime.legs import Leg, legs
from splitnn.runtime.stage import Stage, stage
from splitnn.transport.base import Request
from splitnn.transport.codec import CODECS
from splitnn.transport.framing import request_frame

_REPEATS = 40
_CODED = 100  # samples by which a codec is timed
_BATCH = 500
_HTTP2_BYTES = 90  # frame and header fields of a call on a warm connection


@dataclass(frozen=True)
class Coded:
    """Many samples of one tensor after a codec: as they arrive, their bytes, and the seconds of one."""

    arrived: torch.Tensor
    sizes: Floats
    encode_s: float
    decode_s: float


def fixed_costs(model: Model, profile: Profile, *, slowdown: float) -> Fixed:
    """Of this machine as the server, and one so many times slower as the device."""
    (name,) = model.graph.inputs
    request = Request("fashion_exits", {name: model.example[name]}, 0.0, digest=model.digest, wanted=("output",))
    header = request_frame(request, message_id="123456").size_bytes - model.example[name].nbytes
    return Fixed(
        profile.stage_s * slowdown,
        profile.message_s * slowdown,
        profile.stage_s,
        profile.message_s,
        header + _HTTP2_BYTES,
    )


class Bench:
    """Samples of one data set through parts of one model; what was measured once is kept."""

    def __init__(self, model: Model, images: torch.Tensor, labels: torch.Tensor, *, slowdown: float) -> None:
        self.model, self.labels, self.slowdown = model, labels, slowdown
        (self.input,) = model.graph.inputs
        self._held: dict[tuple[str, str], Coded] = {}
        self._tensors: dict[str, torch.Tensor] = {self.input: images}
        self._answers: dict[tuple[str, ...], torch.Tensor] = {}  # logits by what arrived, its codec, and their name

    def __len__(self) -> int:
        return len(self.labels)

    def track(self, name: str, exits: Exits, device: Collection[str], codecs: Mapping[str, str]) -> Track:
        """The exits with these layers on the device; ``codecs`` of what crosses, ``raw`` where it names none."""
        graph = self.model.graph
        own = segments(graph, exits, [self.input], layers=set(device))
        here = legs(own, self._stage)
        decided = sum(leg.exit is not None for leg in here)
        rows = [self._said(self._tensors[self.input], (self.input,), each.output) for each in exits.exits[:decided]]
        spent = np.cumsum([self.seconds(leg) for leg in here]) * self.slowdown
        track = Track(
            name,
            tuple(each.threshold for each in exits.exits),
            decided,
            np.empty(0),
            np.empty(0, dtype=bool),
            tuple(float(s) for s, leg in zip(spent, here, strict=True) if leg.exit is not None),
            runs_on_device=bool(here),
        )
        if decided < len(exits.exits):
            crossing = [self.coded(tensor, codecs.get(tensor, "raw")) for tensor in own.frontier]
            there = legs(segments(graph, exits, own.frontier, first=decided), self._stage)
            forms = tuple(codecs.get(tensor, "raw") for tensor in own.frontier)
            arrived = [each.arrived for each in crossing]
            rows += [self._answer(arrived, own.frontier, forms, each.output) for each in exits.exits[decided:]]
            decode_s = sum(each.decode_s for each in crossing)
            track = replace(
                track,
                send_s=float(spent[-1] if len(spent) else 0.0) + self.slowdown * sum(c.encode_s for c in crossing),
                sent_bytes=np.sum([each.sizes for each in crossing], axis=0),
                cloud_s=tuple(float(s) + decode_s for s in np.cumsum([self.seconds(leg) for leg in there])),
            )
        found = [self._judged(logits, each.temperature) for logits, each in zip(rows, exits.exits, strict=True)]
        return replace(
            track,
            confidences=np.stack([sure for sure, _ in found]),
            right=np.stack([right for _, right in found]),
        )

    def cascaded(self, name: str, exits: Exits, *, small: str, form: str) -> Track:
        """Exit ``small`` with all that it needs as a model of its own here; the unsure input goes as a whole image.

        ``form`` is an image file's (PNG, JPEG) or one of our codecs.
        """
        pair = exits.only(small, exits.exits[-1].name)
        first, last = pair.exits
        coded = self.coded(self.input, form) if form in CODECS else self.pictures(form)
        leg_s = self.seconds_of((self.input,), first.output) * self.slowdown
        rows = [self._said(self._tensors[self.input], (self.input,), first.output)]
        rows.append(self._answer([coded.arrived], (self.input,), (form,), last.output))
        found = [self._judged(logits, each.temperature) for logits, each in zip(rows, pair.exits, strict=True)]
        return Track(
            name,
            (first.threshold, 0.0),
            1,
            np.stack([sure for sure, _ in found]),
            np.stack([right for _, right in found]),
            (leg_s,),
            leg_s + coded.encode_s * self.slowdown,
            coded.sizes,
            (coded.decode_s + self.seconds_of((self.input,), last.output),),
        )

    def pictures(self, form: str) -> Coded:
        """The input as an image file, PNG or JPEG at quality 90."""
        key = (self.input, f"file {form}")
        if key not in self._held:
            images = self._tensors[self.input]
            options = {"quality": 90} if form == "JPEG" else {}

            def write(image: torch.Tensor) -> bytes:
                file = io.BytesIO()
                Image.fromarray(image[0, :, :, 0].numpy()).save(file, form, **options)
                return file.getvalue()

            def read(payload: bytes) -> torch.Tensor:
                return torch.from_numpy(np.array(Image.open(io.BytesIO(payload))))[None, :, :, None]

            self._held[key] = _coded(images, write, read)
        return self._held[key]

    def coded(self, tensor: str, codec: str) -> Coded:
        """All samples of a tensor after a codec."""
        if (tensor, codec) not in self._held:
            values = self.tensor(tensor)
            chosen, spec = CODECS[codec], self.model.graph.tensors[tensor]
            shape = (1, *spec.shape[1:])
            if not chosen.accepts(TensorSpec(shape, spec.dtype)):
                raise ValueError(f"codec {codec!r} does not take {tensor!r}")
            read = functools.partial(chosen.decode, shape=shape, dtype=spec.dtype)
            self._held[tensor, codec] = _coded(values, lambda one: bytes(chosen.encode(one)), lambda p: read(p))
        return self._held[tensor, codec]

    def tensor(self, name: str) -> torch.Tensor:
        """All samples of a tensor as the model makes it."""
        if name not in self._tensors:
            self._tensors[name] = self._from([self._tensors[self.input]], (self.input,), name)
        return self._tensors[name]

    def seconds(self, leg: Leg) -> float:
        """CPU seconds of a leg here, for one sample, with the test of its exit."""
        return _stage_seconds(self.model, leg.part.inputs, leg.part.outputs) + (_test_seconds() if leg.exit else 0.0)

    def seconds_of(self, given: tuple[str, ...], wanted: str) -> float:
        """CPU seconds from some tensors to another, for one sample, with the test of an exit."""
        return _stage_seconds(self.model, given, (wanted,)) + _test_seconds()

    def _stage(self, given: Collection[str], wanted: Collection[str]) -> Stage:
        return stage(self.model, tuple(given), tuple(wanted))

    def _said(self, images: torch.Tensor, given: tuple[str, ...], wanted: str) -> torch.Tensor:
        if wanted not in self._tensors:
            self._tensors[wanted] = self._from([images], given, wanted)
        return self._tensors[wanted]

    def _from(self, values: Sequence[torch.Tensor], given: Sequence[str], wanted: str) -> torch.Tensor:
        """Every sample of a tensor, computed from all samples of others."""
        part = stage(self.model, tuple(given), (wanted,))
        batches = zip(*(each.split(_BATCH) for each in values), strict=True)
        return torch.cat([torch.as_tensor(part.run(dict(zip(given, rows, strict=True)))[wanted]) for rows in batches])

    def _answer(
        self, values: Sequence[torch.Tensor], given: tuple[str, ...], forms: tuple[str, ...], wanted: str
    ) -> torch.Tensor:
        """What an exit says of tensors behind codecs; computed once, and for lossless ones not again."""
        if all(CODECS[form].lossless if form in CODECS else form == "PNG" for form in forms):
            return self._said(self._tensors[self.input], (self.input,), wanted)
        key = (*given, *forms, wanted)
        if key not in self._answers:
            self._answers[key] = self._from(values, given, wanted)
        return self._answers[key]

    def _judged(self, logits: torch.Tensor, temperature: float) -> tuple[Floats, Flags]:
        right = (logits.argmax(-1) == self.labels).numpy()
        return confidences(logits, temperature).double().numpy(), right


@functools.cache
def _stage_seconds(model: Model, given: tuple[str, ...], wanted: tuple[str, ...]) -> float:
    part = stage(model, given, wanted)
    values = stage(model, model.graph.inputs, given).run(model.example)
    return _median_s(lambda: part.run(values))


@functools.cache
def _test_seconds() -> float:
    logits = torch.randn(1, 10)
    return _median_s(lambda: confidences(logits, 1.5).tolist())


def _median_s(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_REPEATS):
        started_s = time.thread_time()
        work()
        taken.append(time.thread_time() - started_s)
    return median(taken)


def _coded(
    values: torch.Tensor, write: Callable[[torch.Tensor], bytes], read: Callable[[bytes], torch.Tensor]
) -> Coded:
    payloads: list[bytes] = []
    arrived: list[torch.Tensor] = []
    writing: list[float] = []
    reading: list[float] = []
    for one in values.split(1):
        started_s = time.thread_time()
        payloads.append(write(one))
        if len(writing) < _CODED:
            writing.append(time.thread_time() - started_s)
    for payload in payloads:
        started_s = time.thread_time()
        arrived.append(read(payload))
        if len(reading) < _CODED:
            reading.append(time.thread_time() - started_s)
    sizes = np.array([len(payload) for payload in payloads], dtype=float)
    return Coded(torch.cat(arrived), sizes, median(writing), median(reading))
