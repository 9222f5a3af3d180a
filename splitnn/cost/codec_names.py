"""Names of codecs, for those who choose them without tensors. Knows no torch."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator
from itertools import product


def _names() -> Iterator[str]:
    yield from ("raw", "raw+fast", "zstd", "lz4", "shuffle+zstd", "mask", "mask+zstd", "entropy")
    yield from (
        "fp16",
        "fp16+zstd",
        "fp16+fast",
        "fp16+lz4",
        "fp16+shuffle+zstd",
        "fp16+mask",
        "fp16+mask+zstd",
        "bf16",
        "bf16+zstd",
    )
    yield from ("int8", "int8+zstd", "int8+fast", "int8+lz4", "int8+mask+zstd")
    yield from map("".join, product(["int"], "6432", ["", "t"], ["", "r", "p"], ["", "+zstd", "+entropy"]))
    yield from (f"even{fineness}" for fineness in (8, 6, 5, 4, 3, 2.5, 2, 1.5, 1.2, 1, 0.8))
    yield from ("png", "webp", *(f"jpeg{quality}" for quality in (95, 90, 75, 50)))
    yield from (f"jpeg{quality}f" for quality in (100, 98, 95, 90))
    yield from (f"webp{quality}" for quality in (100, 98, 95, 90, 75, 50))


CODEC_NAMES = frozenset(_names())
"""Of every codec that tensors travel in; ``splitnn.transport.codec`` has the codecs and says what the names mean."""

_USUAL = ("raw", "zstd", "fp16+zstd", "int8", "int8+zstd", "even4", "png", "jpeg90")


def check_codec_names(names: Iterable[str], *, others: Collection[str] = ()) -> None:
    """Whether these are codecs; ``others`` are some of the caller's own.

    Raises:
        ValueError: the first of them, by name, that is none, with the nearest ones that are.
    """
    unknown = set(names) - CODEC_NAMES - set(others)
    if unknown:
        raise ValueError(no_codec(min(unknown, key=str)))


def no_codec(name: object) -> str:
    """What to say about a name that no codec has; it may come from outside."""
    text = name[:64] if isinstance(name, str) else repr(name)[:64]
    near = difflib.get_close_matches(text.lower().replace("_", "+"), sorted(CODEC_NAMES), n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return (
        f"no codec is called {text!r}: {hint}there are {', '.join(_USUAL)} and others, which "
        "splitnn.transport.codec describes"
    )
