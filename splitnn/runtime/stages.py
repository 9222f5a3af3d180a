"""The stages of one model that were asked for lately, compiled once each."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping

from splitnn.errors import InvalidInput, PayloadTooLarge, is_out_of_memory
from splitnn.graph.graph import Graph, Layer
from splitnn.graph.model import Model, Value
from splitnn.runtime.engines.serving import Background
from splitnn.runtime.stage import Stage, stage

_Key = tuple[tuple[str, ...], tuple[str, ...]]  # what is given and what is wanted

_KEPT = 128
_PREPARED = 8  # an engine's stages hold weights of their own
_WORTH = 3  # requests for a stage, after which it is worth seconds of preparation


class Stages:
    """Compiles a stage at its first use (tens of milliseconds) and keeps the latest used.

    On the CPU a stage shares the model's weights, so that many stages cost little memory. Not thread-safe: to be used
    on the thread of one engine. With a ``background``, stages that are asked for again and again are prepared there for
    another engine; until then, and for other batches than the example's, they run in torch.
    """

    def __init__(
        self,
        model: Model,
        *,
        kept: int = _KEPT,
        working_bytes: int | None = None,
        background: Background | None = None,
    ) -> None:
        self.model = model
        self._kept = kept
        self._working_bytes = working_bytes
        self._stages: OrderedDict[_Key, tuple[Stage, int]] = OrderedDict()
        self._background = background
        self._asked: Counter[_Key] = Counter()
        self._prepared: OrderedDict[_Key, Stage] = OrderedDict()  # written on the background's thread too

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
            dropped, _ = self._stages.popitem(last=False)
            del self._asked[dropped]
            self._prepared.pop(dropped, None)
        found, layer_bytes = self._stages[key]
        needed_bytes = layer_bytes * (samples or self.model.graph.batch) // self.model.graph.batch
        if self._working_bytes is not None and needed_bytes > self._working_bytes:
            raise PayloadTooLarge(
                f"a batch of {samples} needs {needed_bytes} bytes for one layer; this host spends at most "
                f"{self._working_bytes} on a request"
            )
        return found if self._background is None else self._on_engine(key, found, self._background)

    def _on_engine(self, key: _Key, found: Stage, background: Background) -> Stage:
        self._asked[key] += 1
        if self._asked[key] == _WORTH:

            def keep(prepared: Stage) -> None:
                self._prepared[key] = prepared

            background.submit(found, keep)
        while len(self._prepared) > _PREPARED:
            dropped, _ = self._prepared.popitem(last=False)
            self._asked[dropped] = 0
        return self._prepared.get(key, found)


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
