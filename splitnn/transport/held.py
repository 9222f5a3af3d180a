"""How much memory the requests under way hold together: the bound that no single message's limit can give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from splitnn.errors import Overloaded

_RETRY_AFTER_S = 0.2


class HeldBytes:
    """Counts the bytes of all requests from their arrival to their answer. Used from one event loop."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.now_bytes = 0

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Count these bytes while the context lasts. A request that comes alone is accepted, whatever its size.

        Raises:
            Overloaded: with what is held already they would be too many.
        """
        if self.now_bytes and self.now_bytes + size_bytes > self._most_bytes:
            raise Overloaded(
                f"requests under way hold {self.now_bytes} bytes and this one needs {size_bytes} more; at most "
                f"{self._most_bytes} are held at once",
                _RETRY_AFTER_S,
            )
        self.now_bytes += size_bytes
        try:
            yield
        finally:
            self.now_bytes -= size_bytes
