"""Samples in a row that are off the same way: how a change is told from an outlier."""

from __future__ import annotations

from typing import Generic, TypeVar

STEP = 0.25
"""A sample that is off by more than this share is off clearly."""

T = TypeVar("T")


class Run(Generic[T]):
    """The latest samples in a row that something holds for; three of them are no accident."""

    def __init__(self, length: int = 3) -> None:
        self._length = length
        self._samples: list[T] = []

    def add(self, sample: T, *, holds: bool) -> list[T]:
        """The three, and another run begins; empty while there are fewer."""
        if not holds:
            self._samples.clear()
            return []
        self._samples.append(sample)
        return self.end() if len(self._samples) == self._length else []

    def end(self) -> list[T]:
        """What it was; another one begins."""
        ended, self._samples = self._samples, []
        return ended
