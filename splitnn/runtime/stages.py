"""The stages of one model that were asked for lately, compiled once each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from splitnn.errors import InvalidInput, PayloadTooLarge, is_out_of_memory
from splitnn.graph.graph import Graph, Layer
from splitnn.graph.model import Model, Value
from splitnn.runtime.stage import Stage, stage

_KEPT = 128


class Stages:
    """Compiles a stage at its first use (tens of milliseconds) and keeps the latest used.

    On the CPU a stage shares the model's weights, so that many stages cost little memory. Not thread-safe: to be used
    on the thread of one engine.
    """

    def __init__(self, model: Model, *, kept: int = _KEPT, working_bytes: int | None = None) -> None:
        self.model = model
        self._kept = kept
        self._working_bytes = working_bytes
        self._stages: OrderedDict[tuple[tuple[str, ...], tuple[str, ...]], tuple[Stage, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stages)

    def get(self, given: Iterable[str], wanted: Iterable[str], *, samples: int | None = None) -> Stage:
        """The stage between these tensors, whatever their order, for a batch of ``samples`` (the example's).

        Raises:
            InvalidInput: a tensor is unknown, or the given are no cut for the wanted.
            PayloadTooLarge: the largest layer needs more than the working bytes for that batch.
        """
        key = tuple(sorted(given)), tuple(sorted(set(wanted)))
        if key not in self._stages:
            made = stage(self.model, *key)
            self._stages[key] = made, largest_layer_bytes(self.model.graph, made.layers)
        self._stages.move_to_end(key)
        while len(self._stages) > self._kept:
            self._stages.popitem(last=False)
        found, layer_bytes = self._stages[key]
        needed_bytes = layer_bytes * (samples or self.model.graph.batch) // self.model.graph.batch
        if self._working_bytes is not None and needed_bytes > self._working_bytes:
            raise PayloadTooLarge(
                f"a batch of {samples} needs {needed_bytes} bytes for one layer; this host spends at most "
                f"{self._working_bytes} on a request"
            )
        return found


def largest_layer_bytes(graph: Graph, layers: Iterable[str]) -> int:
    """Bytes of the tensors that the largest of these layers reads and makes, at the example's batch."""
    return max((sum(graph.tensors[t].size_bytes for t in _tensors(graph.layer(name))) for name in layers), default=0)


def _tensors(layer: Layer) -> tuple[str, ...]:
    return (*layer.inputs, *layer.outputs)


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
