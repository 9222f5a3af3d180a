"""Names that users give: a tensor's, a layer's, a module's."""

from __future__ import annotations

import pytest

from splitnn.errors import InvalidInput
from splitnn.graph.naming import tensor_named
from tests.models import captured


def test_tensors_layers_and_modules_stand_for_the_tensor_that_they_make() -> None:
    graph = captured("chain").graph
    assert all(tensor_named(graph, tensor) == tensor for tensor in graph.tensors)
    for layer in graph.layers:
        if layer.name not in graph.tensors and len(layer.outputs) == 1:
            assert tensor_named(graph, layer.name) == layer.outputs[0]
        if layer.module and layer.module not in graph.index and layer.module not in graph.tensors:
            last = [each for each in graph.layers if f"{each.module}.".startswith(f"{layer.module}.")][-1]
            assert tensor_named(graph, layer.module) == last.outputs[0]


@pytest.mark.parametrize("text", ["nowhere", "", "."])
def test_unknown_names_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no tensor, layer or module"):
        tensor_named(captured("chain").graph, text)
