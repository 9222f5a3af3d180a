"""Entropy coding of small integers: range asymmetric numeral systems (Duda 2013) with one state of 64 bits.

Written in two ways that give the same bytes: by ``constriction``, compiled, where it is installed, and in plain Python
for the hosts that it has no wheel for. Probabilities are whole multiples of 2**-24, so that both sides agree on every
machine.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

try:
    import constriction
except ModuleNotFoundError:  # no wheel for this machine
    constriction = None

PRECISION_BITS = 24
_ONE = 1 << PRECISION_BITS
_WORD_BITS = 32
_WORD = 2**_WORD_BITS - 1


class Distribution:
    """Probabilities of the symbols 0 to n - 1.

    Raises:
        ValueError: a frequency is below one, or they do not add up to 2**24.
    """

    def __init__(self, frequencies: NDArray[np.int64]) -> None:
        if frequencies.min() < 1 or int(frequencies.sum()) != _ONE:
            raise ValueError(f"frequencies are at least 1 and add up to {_ONE}, not {int(frequencies.sum())}")
        self.frequencies = frequencies
        self.starts = np.concatenate(([0], np.cumsum(frequencies)))

    @classmethod
    def near(cls, probabilities: NDArray[np.float64]) -> Distribution:
        """The distribution closest to these, none of its symbols impossible."""
        free = _ONE - len(probabilities)
        frequencies = np.floor(probabilities * free).astype(np.int64) + 1
        frequencies[int(frequencies.argmax())] += _ONE - int(frequencies.sum())
        return cls(frequencies)

    @cached_property
    def bits(self) -> NDArray[np.float64]:
        """Length of each symbol's code, for estimates only: not the same to the last bit everywhere."""
        return PRECISION_BITS - np.log2(self.frequencies)

    @cached_property
    def entropy_bits(self) -> float:
        """Mean length of the code of a symbol that has this distribution."""
        return float((self.bits * self.frequencies).sum()) / _ONE

    @cached_property
    def model(self) -> Any:
        """What ``constriction`` makes of it; exact multiples of 2**-24 stay what they are."""
        return constriction.stream.model.Categorical(self.frequencies / _ONE, perfect=True)


class Coder(Protocol):
    """A stack: what was pushed last is popped first."""

    def push(self, symbols: NDArray[np.int32], distribution: Distribution) -> None:
        """Add symbols, so that ``pop`` gives them in this order."""
        ...

    def pop(self, count: int, distribution: Distribution) -> NDArray[np.int32]:
        """The symbols; arbitrary ones where the words were others, or have come to an end."""
        ...

    def words(self) -> NDArray[np.uint32]: ...


class CompiledCoder:
    """``Coder`` by constriction."""

    def __init__(self, words: NDArray[np.uint32] | None = None) -> None:
        self._coder = constriction.stream.stack.AnsCoder(words)

    def push(self, symbols: NDArray[np.int32], distribution: Distribution) -> None:
        self._coder.encode_reverse(symbols, distribution.model)

    def pop(self, count: int, distribution: Distribution) -> NDArray[np.int32]:
        found: NDArray[np.int32] = self._coder.decode(distribution.model, count)
        return found

    def words(self) -> NDArray[np.uint32]:
        found: NDArray[np.uint32] = self._coder.get_compressed()
        return found


class PlainCoder:
    """``Coder`` in plain Python, about a microsecond a symbol."""

    def __init__(self, words: NDArray[np.uint32] | None = None) -> None:
        self._words: list[int] = [] if words is None else words.tolist()
        self._state = 0
        for _ in range(2):
            if self._words:
                self._state = self._state << _WORD_BITS | self._words.pop()

    def push(self, symbols: NDArray[np.int32], distribution: Distribution) -> None:
        state, words = self._state, self._words
        frequencies, starts = distribution.frequencies.tolist(), distribution.starts.tolist()
        for symbol in reversed(symbols.tolist()):
            frequency = frequencies[symbol]
            if state >> 40 >= frequency:  # the next state would not fit 64 bits
                words.append(state & _WORD)
                state >>= _WORD_BITS
            whole, rest = divmod(state, frequency)
            state = whole << PRECISION_BITS | (starts[symbol] + rest)
        self._state = state

    def pop(self, count: int, distribution: Distribution) -> NDArray[np.int32]:
        state, words = self._state, self._words
        frequencies, starts = distribution.frequencies.tolist(), distribution.starts.tolist()
        found = np.empty(count, dtype=np.int32)
        for place in range(count):
            rest = state & (_ONE - 1)
            symbol = bisect_right(starts, rest) - 1
            found[place] = symbol
            state = (state >> PRECISION_BITS) * frequencies[symbol] + rest - starts[symbol]
            if state <= _WORD and words:
                state = state << _WORD_BITS | words.pop()
        self._state = state
        return found

    def words(self) -> NDArray[np.uint32]:
        tail, state = [], self._state
        while state:
            tail.append(state & _WORD)
            state >>= _WORD_BITS
        return np.array([*self._words, *tail], dtype=np.uint32)


def new_coder(words: NDArray[np.uint32] | None = None) -> Coder:
    """The fastest coder that this machine has, empty or over the words of another one."""
    return PlainCoder(words) if constriction is None else CompiledCoder(words)
