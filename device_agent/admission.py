"""Which requests an agent takes as its own, and in which form."""

from __future__ import annotations

from dataclasses import replace

from splitnn.errors import DigestMismatch, PayloadTooLarge, UnknownModel
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model
from splitnn.runtime.host import WORKING_BYTES, ModelHost
from splitnn.runtime.inputs import admit, samples_of
from splitnn.runtime.stages import largest_layer_bytes
from splitnn.transport.base import Request


def is_whole(graph: Graph, request: Request) -> bool:
    """Whether it feeds the model's own inputs and wants its own outputs; else it is for a part of the model."""
    return set(request.tensors) == set(graph.inputs) and set(request.wanted) <= set(graph.outputs)


class Admission:
    """Checks requests for the whole model before anything is spent on them."""

    def __init__(self, model: Model, host: ModelHost, *, name: str) -> None:
        self._model, self._host, self._name = model, host, name
        self._layer_bytes = largest_layer_bytes(model.graph, (layer.name for layer in model.graph.layers))

    def admitted(self, request: Request) -> Request:
        """The request with its tensors as the graph takes them, and each output wanted once.

        Raises:
            UnknownModel, DigestMismatch: it is for another model or version.
            InvalidInput: its tensors are not what the graph takes.
            PayloadTooLarge: a layer of its batch needs more memory than a host may spend.
        """
        graph = self._model.graph
        if not request.model or not self._host.is_ready(request.model, request.version):
            raise UnknownModel(f"no model {request.model[:64]!r} {request.version[:64]} here; there is {self._name!r}")
        if request.digest and request.digest != self._model.digest:
            raise DigestMismatch(f"the request is for model {request.digest[:12]}, not {self._model.digest[:12]}")
        tensors = admit(graph, request.tensors)
        samples = samples_of(graph, tensors)
        if (needed := self._layer_bytes * samples // graph.batch) > WORKING_BYTES:
            raise PayloadTooLarge(f"a batch of {samples} needs {needed} bytes for one layer; at most {WORKING_BYTES}")
        return replace(request, tensors=tensors, wanted=tuple(dict.fromkeys(request.wanted)))
