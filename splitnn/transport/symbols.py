"""Planes of small integers as few bytes.

Layout: a head of 5 bytes, then the words of a range coder without the zero bytes at their end. The coder holds which
rows (a channel of a sample) have anything to say, the scales of these, the centre of each row, and the symbols in the
order of ``contexts.visit``. Where this is longer than the symbols, they follow one byte as they are.
"""

from __future__ import annotations

import functools
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from splitnn.errors import CodecError
from splitnn.transport.contexts import GROUPS, NARROWINGS, ROW_SCALES, TRUSTS, Integers, nearest_trust, visit
from splitnn.transport.distributions import (
    QUARTERS,
    SPREADS,
    SYMBOLS,
    logistic,
    nearest_share,
    nearest_spread,
    yes_or_no,
)
from splitnn.transport.rans import Coder, Distribution, new_coder

_HEAD = struct.Struct("<BBBH")
_PLAIN = 31  # in place of a usual scale: the symbols follow as they are

_STANDARD = 1  # narrowing
_MOST = 2**31  # symbols; without a limit five bytes claim any number of them, as silent rows cost nothing
_FEW = 2**12  # up to so many symbols every narrowing is tried
_CALM = 0.9  # below this surprise too

_Visited = list[tuple[Integers, NDArray[np.uint8]]]
"""Of each visit the symbols (from 0) and the numbers of the distributions that they have."""

Shape = tuple[int, int, int, int]  # samples, channels, height, width


@dataclass(frozen=True, slots=True)
class _Head:
    """What the rows have in common."""

    silent: int  # share of rows without any symbol but their centre
    usual: int  # scale
    trust: int
    narrowing: int
    of_scales: int  # their spread around the usual one
    of_centres: int  # their spread around 0
    checksum: int

    def written(self) -> bytes:
        return _HEAD.pack(
            self.silent << 5 | self.usual,
            self.trust << 6 | self.of_scales,
            self.narrowing << 6 | self.of_centres,
            self.checksum,
        )

    @classmethod
    def read(cls, payload: bytes | memoryview) -> _Head:
        first, second, third, checksum = _HEAD.unpack_from(payload)
        head = cls(first >> 5, first & 31, second >> 6, third >> 6, second & 63, third & 63, checksum)
        if head.usual > ROW_SCALES or max(head.of_scales, head.of_centres) >= SPREADS:
            raise CodecError("coded symbols came with a head that none is written with")
        return head


def pack(symbols: NDArray[np.int8]) -> bytes:
    """The symbols, of four dimensions, in at most ``packed_bytes``.

    Raises:
        CodecError: there are more than 2**31.
    """
    if symbols.size == 0:
        return b""
    _check_count(symbols.size)
    samples, channels = symbols.shape[:2]
    rows = symbols.reshape(samples * channels, -1)
    centres = np.partition(rows, rows.shape[1] // 2, axis=1)[:, rows.shape[1] // 2].astype(np.int32)  # the medians
    differences = (rows - centres[:, None]).astype(np.int8).astype(np.int32)
    planes = differences.reshape(symbols.shape)
    sizes = np.abs(differences).mean(axis=1)
    scales = np.where(sizes > 0, np.minimum((nearest_spread(sizes) + 1) // 2 + 1, ROW_SCALES), 0).astype(np.int32)
    is_live = scales > 0
    live = scales[is_live]
    usual = int(np.median(live)) if len(live) else 0
    head = _Head(
        silent=nearest_share(1 - float(is_live.mean())),
        usual=usual,
        trust=nearest_trust(planes),
        narrowing=_STANDARD,
        of_scales=_spread_of(live - usual),
        of_centres=_spread_of(centres),
        checksum=_checksum(symbols),
    )
    scales = scales.reshape(samples, channels)
    visited = _visited(planes, scales, head)
    if symbols.size <= _FEW or _surprise(visited) < _CALM:
        others = [replace(head, narrowing=index) for index in range(len(NARROWINGS)) if index != _STANDARD]
        tried = [(head, visited), *((other, _visited(planes, scales, other)) for other in others)]
        head, visited = min(tried, key=lambda each: _bits(each[1]))
    coder = new_coder()
    for part, distribution in reversed(
        [
            (is_live.astype(np.int32), yes_or_no(head.silent)),
            (_symbols(live - usual), logistic(head.of_scales * QUARTERS)),
            (_symbols(centres), logistic(head.of_centres * QUARTERS)),
            *_parts(visited),
        ]
    ):
        coder.push(part, distribution)
    words = coder.words().astype("<u4").tobytes().rstrip(b"\0")
    if _HEAD.size + len(words) > symbols.size:
        return bytes((_PLAIN,)) + symbols.tobytes()
    return head.written() + words


def _visited(planes: Integers, scales: Integers, head: _Head) -> _Visited:
    """The symbols in the order of coding, under this head."""
    found: _Visited = []

    def write(wanted: Integers, numbers: NDArray[np.uint8]) -> Integers:
        found.append((_symbols(wanted), numbers))
        return wanted

    visit(planes, scales, write, trust=TRUSTS[head.trust], narrowing=NARROWINGS[head.narrowing])
    return found


def _parts(visited: _Visited) -> Iterator[tuple[Integers, Distribution]]:
    """The symbols of each visit, those of one distribution together."""
    for symbols, numbers in visited:
        ranked = symbols[np.argsort(numbers, kind="stable")]
        ends = np.cumsum(np.bincount(numbers)).tolist()
        for number, (start, end) in enumerate(pairwise([0, *ends])):
            if end > start:
                yield ranked[start:end], logistic(number)


def _bits(visited: _Visited) -> float:
    """Length of their code."""
    bits = _lengths()[0]
    return sum(float(bits[numbers, symbols].sum()) for symbols, numbers in visited)


def _surprise(visited: _Visited) -> float:
    """Bits that were needed over bits that would have been, had every distribution been the right one."""
    means = _lengths()[1]
    expected = sum(float(means[numbers].sum()) for _, numbers in visited)
    return _bits(visited) / expected if expected else 1.0


@functools.cache
def _lengths() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bits of every symbol under every distribution, and the mean of each distribution."""
    every = [logistic(number) for number in range(SPREADS * QUARTERS)]
    return np.stack([each.bits for each in every]), np.array([each.entropy_bits for each in every])


def packed_bytes(elements: int) -> int:
    """The most bytes that so many symbols take."""
    return elements + 1 if elements else 0


def decoding_bytes(shape: Shape) -> int:
    """At most so much memory is held while symbols of that shape are decoded."""
    samples, channels, height, width = shape
    at_once = samples * -(-channels // GROUPS) * (height + 2) * (width + 2)  # elements of a group, with a border
    return 12 * math.prod(shape) + 8 * samples * height * width + 12 * at_once


def unpack(payload: bytes | memoryview, shape: Shape) -> NDArray[np.int8]:
    """The symbols of that shape. Memory and time follow from the shape, whatever the payload says.

    Raises:
        CodecError: the payload is truncated, too long, or holds no such symbols; or they are more than 2**31.
    """
    size = math.prod(shape)
    _check_count(size)
    if len(payload) > packed_bytes(size) or (size > 0 and len(payload) == 0):
        raise CodecError(f"{len(payload)} bytes are no coded symbols of shape {shape}")
    if size == 0:
        return np.empty(shape, dtype=np.int8)
    if payload[0] & 31 == _PLAIN:
        if len(payload) != size + 1:
            raise CodecError(f"{len(payload) - 1} bytes came where {size} plain symbols belong")
        return np.frombuffer(payload, dtype=np.int8, offset=1).reshape(shape).copy()
    if len(payload) < _HEAD.size or (len(payload) > _HEAD.size and payload[-1] == 0):
        raise CodecError(f"{len(payload)} bytes are no whole coded symbols")
    head = _Head.read(payload)
    coder = _coder_over(payload)
    differences = np.zeros(shape, dtype=np.int32)  # first: where there is no room, constriction ends the process
    rows = shape[0] * shape[1]
    is_live = coder.pop(rows, yes_or_no(head.silent)) > 0
    scales = np.zeros(rows, dtype=np.int32)
    scales[is_live] = head.usual + _numbers(coder.pop(int(is_live.sum()), logistic(head.of_scales * QUARTERS)))
    if bool(((scales < is_live) | (scales > ROW_SCALES)).any()):
        raise CodecError("coded symbols came with a scale that none is written with")
    centres = _numbers(coder.pop(rows, logistic(head.of_centres * QUARTERS)))

    def read(wanted: Integers, numbers: NDArray[np.uint8]) -> Integers:
        counts = enumerate(np.bincount(numbers).tolist())
        wanted[np.argsort(numbers, kind="stable")] = _numbers(
            np.concatenate([coder.pop(count, logistic(number)) for number, count in counts if count])
        )
        return wanted

    visit(differences, scales.reshape(shape[:2]), read, trust=TRUSTS[head.trust], narrowing=NARROWINGS[head.narrowing])
    if len(coder.words()):
        raise CodecError(f"coded symbols of shape {shape} leave some of their {len(payload)} bytes over")
    symbols = (differences + centres.reshape(*shape[:2], 1, 1)).astype(np.int8)
    if _checksum(symbols) != head.checksum:
        raise CodecError("coded symbols do not have the checksum that they came with: truncated or altered")
    return symbols


def _check_count(symbols: int) -> None:
    if symbols > _MOST:
        raise CodecError(f"at most {_MOST} symbols are coded together, not {symbols}")


def _coder_over(payload: bytes | memoryview) -> Coder:
    words = bytes(payload[_HEAD.size :])
    words += bytes(-len(words) % 4)
    return new_coder(np.frombuffer(words, dtype="<u4").astype(np.uint32))


def _spread_of(numbers: Integers) -> int:
    return int(nearest_spread(np.abs(numbers).mean(keepdims=True))[0]) if len(numbers) else 0


def _symbols(numbers: Integers) -> Integers:
    return np.ascontiguousarray(numbers + SYMBOLS // 2, dtype=np.int32)


def _numbers(symbols: Integers) -> Integers:
    return symbols - SYMBOLS // 2


def _checksum(symbols: NDArray[np.int8]) -> int:
    return zlib.crc32(symbols.tobytes()) & 0xFFFF
