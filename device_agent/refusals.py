"""Plans that the cloud refuses for what they send: sent again with every request, they would cost time for nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass

from splitnn.transport.base import Clock

_IN_A_ROW = 3  # one alone may be the request's own fault: a value that a lossy codec cannot write, a large batch
_SET_ASIDE_S = 60.0
_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Refused:
    times: int  # in a row
    least_load: float  # of these requests, in examples
    until_s: float  # that the plan is set aside; the past while it is not
    reason: str


class Refusals:
    """Counts refusals by plan. After three in a row the plan is set aside for a minute, for batches that large."""

    def __init__(self, *, clock: Clock = time.monotonic) -> None:
        self._refused: dict[str, _Refused] = {}
        self._clock = clock

    def add(self, plan_id: str, *, load: float, reason: str) -> bool:
        """The cloud refused what this plan sends, and the device took it; True when the plan is set aside now."""
        before = self._refused.pop(plan_id, _Refused(0, load, 0.0, ""))
        times = before.times + 1
        is_enough = times >= _IN_A_ROW
        until_s = self._clock() + _SET_ASIDE_S if is_enough else before.until_s
        self._refused[plan_id] = _Refused(times, min(load, before.least_load), until_s, reason)
        if len(self._refused) > _KEPT:
            self._refused.pop(next(iter(self._refused)))
        return is_enough

    def clear(self, plan_id: str, *, load: float) -> None:
        """The cloud took a request of this plan."""
        if (refused := self._refused.get(plan_id)) is not None and refused.least_load <= load:
            del self._refused[plan_id]

    def reason(self, plan_id: str, *, load: float) -> str:
        """Why the plan is set aside for so many examples; "" when it is not. Afterwards, one refusal is enough."""
        refused = self._refused.get(plan_id)
        if refused is None or load < refused.least_load or self._clock() >= refused.until_s:
            return ""
        return refused.reason
