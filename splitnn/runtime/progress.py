"""Where a request stands on its way through the hosts of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from splitnn.graph.model import Value
from splitnn.runtime.engine import Executed
from splitnn.runtime.exits import Passage
from splitnn.transport.base import Answer


@dataclass(frozen=True)
class Progress:
    """A request on its way: what is known so far, and what it took. Any host's part can follow from here.

    ``tensors`` holds the inputs and everything that was made and is still needed, so that the rest can be computed
    on any host, this one included.
    """

    tensors: Mapping[str, Value]
    deadline_s: float  # an instant of the pipeline's clock
    request_id: str = ""
    hosts_done: int = 0
    stage_s: tuple[float, ...] = ()  # of every stage that ran here
    queue_s: float = 0.0  # waited for this host's engine
    answers: tuple[Answer, ...] = ()  # of every far host that had a part
    ran: tuple[str, ...] = ()  # layers of the first stage that ran here: fewer than its own where an exit was sure
    passage: Passage | None = None  # what the exits have said, where exits may answer
    answer_by_s: float = math.inf  # the instant from which on what the exits have said must do
    is_short: bool = False  # of time: nothing more is computed, the exits' latest words are the answer

    @property
    def held_bytes(self) -> int:
        """Of the tensors that are held."""
        return sum(value.nbytes for value in self.tensors.values() if isinstance(value, torch.Tensor))

    def timed(self, executed: Executed[Any], layers: tuple[str, ...]) -> Progress:
        """With the seconds of one more run here, of these layers."""
        return replace(
            self,
            stage_s=(*self.stage_s, executed.compute_s),
            queue_s=self.queue_s + executed.queue_s,
            ran=self.ran or layers,
        )
