"""The stages of one model that were asked for lately, compiled once each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from splitnn.errors import InvalidInput
from splitnn.graph.model import Model, Value
from splitnn.runtime.engine import is_out_of_memory
from splitnn.runtime.stage import Stage, stage

_KEPT = 128


class Stages:
    """Compiles a stage at its first use (tens of milliseconds) and keeps the latest used.

    On the CPU a stage shares the model's weights, so that many stages cost little memory. Not thread-safe: to be used
    on the thread of one engine.
    """

    def __init__(self, model: Model, *, kept: int = _KEPT) -> None:
        self.model = model
        self._kept = kept
        self._stages: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], Stage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stages)

    def get(self, given: Iterable[str], wanted: Iterable[str]) -> Stage:
        """The stage between these tensors, whatever their order.

        Raises:
            InvalidInput: a tensor is unknown, or the given are no cut for the wanted.
        """
        key = tuple(sorted(given)), tuple(sorted(set(wanted)))
        if (found := self._stages.get(key)) is None:
            found = self._stages[key] = stage(self.model, *key)
        self._stages.move_to_end(key)
        while len(self._stages) > self._kept:
            self._stages.popitem(last=False)
        return found


def run_request(part: Stage, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Run a stage on tensors that somebody sent, after ``inputs.admit``.

    Raises:
        InvalidInput: their values make an operator fail (an index that is out of range, say); says torch's reason.
    """
    try:
        return part.run(tensors)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().partition("\n")[0][:300]
        raise InvalidInput(f"the model cannot run on the tensors {sorted(part.inputs)}: {reason}") from error
