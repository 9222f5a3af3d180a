"""A share of the answers that exits were sure of, on the device or a server, checked by the whole model in the cloud.

In the background only: a check waits until nobody uses the link, is given up the moment that a request needs it (and
taken up again later), and is dropped where too many wait already.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import torch

from splitnn.errors import SplitnnError
from splitnn.graph.model import Value
from splitnn.instrument import Instrument
from splitnn.transport.base import ExitsAudited

_log = logging.getLogger(__name__)
_Z = 1.645  # 95 % on one side
_MOST_WAITING = 8
_MOST_BYTES = 4 * 2**20  # of the tensors of all checks that wait
_LOOK_S = 0.2  # how often it is seen whether the link is free


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """How much is checked, and what is good enough.

    Raises:
        ValueError: a share or a target that is none.
    """

    share: float = 0.01  # of the requests that exits answered
    target: float = 0.9  # of the checked samples whose class is the whole model's
    window: int = 1000  # samples, the latest

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.target <= 1 or self.window < 1:
            raise ValueError(f"shares lie between 0 and 1, a window has 1 sample or more: {self}")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What checks found lately."""

    checked: int  # samples
    agreed: int

    @property
    def share(self) -> float:
        """1 while nothing was checked."""
        return self.agreed / self.checked if self.checked else 1.0

    @property
    def upper(self) -> float:
        """At most so large is the true agreement, at 95 % confidence (Wilson's bound, one side); 1 without a check."""
        if not self.checked:
            return 1.0
        n, p, z = self.checked, self.share, _Z
        return min(1.0, (p + z * z / (2 * n) + z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n))


@dataclass(frozen=True, eq=False, slots=True)
class Check:
    """One answered request: the tensors from which the cloud can compute it anew, and what was answered."""

    request_id: str
    tensors: Mapping[str, Value]
    logits: torch.Tensor  # (samples, classes), of the samples that ``rows`` are in the tensors
    rows: tuple[int, ...]  # those that an exit answered

    @property
    def size_bytes(self) -> int:
        """Of the tensors."""
        return sum(value.nbytes for value in self.tensors.values() if isinstance(value, torch.Tensor))


class Audit:
    """Keeps the checks that wait, and what those that were made have found. ``run`` must run beside it.

    ``ask`` has the whole model's logits computed in the cloud; ``is_free`` says whether a check may start now.
    """

    def __init__(
        self,
        ask: Callable[[Check], Awaitable[torch.Tensor]],
        *,
        is_free: Callable[[], bool],
        policy: AuditPolicy = AuditPolicy(),
        chance: random.Random | None = None,
        instrument: Instrument | None = None,
    ) -> None:
        self.policy = policy
        self.is_alarmed = False
        self._ask = ask
        self._is_free = is_free
        self._chance = chance or random.Random()
        self._instrument = instrument or Instrument()
        self._waiting: deque[Check] = deque()
        self._found: deque[bool] = deque(maxlen=policy.window)
        self._answered = self._checked = self._agreed = 0
        self._under_way: asyncio.Task[torch.Tensor] | None = None
        self._news = asyncio.Event()
        self._subscribers: list[Callable[[], None]] = []

    @property
    def agreement(self) -> Agreement:
        """Of the latest samples that were checked."""
        return Agreement(len(self._found), sum(self._found))

    @property
    def figures(self) -> ExitsAudited:
        """All since the start."""
        return ExitsAudited(self._answered, self._checked, self._agreed)

    def answered(self, samples: int) -> None:
        """Exits were sure of so many more."""
        self._answered += samples

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call it when the alarm is raised or over; it must return quickly."""
        self._subscribers.append(callback)

    def chooses(self) -> bool:
        """Whether the answer that was just given is one to check."""
        return self._chance.random() < self.policy.share

    def add(self, check: Check) -> None:
        """Check it when there is time; it is dropped where too many wait."""
        held_bytes = sum(each.size_bytes for each in self._waiting)
        if len(self._waiting) < _MOST_WAITING and held_bytes + check.size_bytes <= _MOST_BYTES:
            self._waiting.append(check)
            self._news.set()

    def make_way(self) -> None:
        """A request needs the link: the check under way is put off."""
        if self._under_way is not None:
            self._under_way.cancel()

    async def run(self) -> None:
        """Make the checks, one at a time, until cancelled."""
        while True:
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
            elif self._is_free():
                await self._make(self._waiting.popleft())
            else:
                await asyncio.sleep(_LOOK_S)

    async def _make(self, check: Check) -> None:
        asking = self._under_way = asyncio.ensure_future(self._ask(check))
        try:
            await asyncio.wait((asking,))
        finally:
            self._under_way = None
            asking.cancel()
        if asking.cancelled():  # by ``make_way``
            self._waiting.appendleft(check)
            await asyncio.sleep(_LOOK_S)
            return
        if (error := asking.exception()) is not None:
            if not isinstance(error, SplitnnError):
                raise error
            _log.info("the answer to %.64r could not be checked: %s", check.request_id, error)
            return
        whole, said = asking.result()[list(check.rows)].argmax(-1), check.logits[list(check.rows)].argmax(-1)
        for agrees in (whole == said).tolist():
            self._found.append(agrees)
            self._checked, self._agreed = self._checked + 1, self._agreed + agrees
            self._instrument.audited(request_id=check.request_id, agrees=agrees)
        self._judge()

    def _judge(self) -> None:
        agreement = self.agreement
        if (agreement.upper < self.policy.target) == self.is_alarmed:
            return
        self.is_alarmed = not self.is_alarmed
        self._instrument.exits_doubted(
            agreement=agreement.share, upper=agreement.upper, target=self.policy.target, is_alarm=self.is_alarmed
        )
        for callback in self._subscribers:
            callback()
