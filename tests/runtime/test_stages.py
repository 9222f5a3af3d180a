"""The kept stages compute what fresh ones do, and stay few."""

from __future__ import annotations

import pytest
import torch

from splitnn.errors import InvalidInput, PayloadTooLarge
from splitnn.graph.capture import capture
from splitnn.runtime.stages import Stages, largest_layer_bytes, run_request
from tests.models import TINY


def test_a_stage_is_compiled_once_whatever_the_order_of_names() -> None:
    model = capture(*TINY["many_inputs"]())
    stages = Stages(model)
    first = stages.get(model.graph.inputs, model.graph.outputs)
    assert stages.get(reversed(model.graph.inputs), reversed(model.graph.outputs)) is first
    assert len(stages) == 1


def test_the_least_recently_used_stage_is_let_go() -> None:
    model = capture(*TINY["chain"]())
    stages = Stages(model, kept=2)
    whole = stages.get(model.graph.inputs, model.graph.outputs)
    for layer in model.graph.layers[:-1]:
        stages.get(layer.outputs, model.graph.outputs)
        assert stages.get(model.graph.inputs, model.graph.outputs) is whole
        assert len(stages) <= 2


def test_a_batch_whose_largest_layer_does_not_fit_is_refused_before_it_runs() -> None:
    model = capture(*TINY["chain"]())
    layer = largest_layer_bytes(model.graph, model.graph.index)
    assert layer == 2 * 8 * 12 * 12 * 4  # the rectifier: eight channels in, eight out
    stages = Stages(model, working_bytes=3 * layer)
    stages.get(model.graph.inputs, model.graph.outputs, samples=3)
    with pytest.raises(PayloadTooLarge, match=r"batch of 4.*at most"):
        stages.get(model.graph.inputs, model.graph.outputs, samples=4)


def test_values_that_an_operator_refuses_are_the_senders_fault() -> None:
    model = capture(*TINY["tied"]())
    (ids,) = model.graph.inputs
    part = Stages(model).get(model.graph.inputs, model.graph.outputs)
    with pytest.raises(InvalidInput, match=r"ids.*index out of range"):
        run_request(part, {ids: torch.full((1, 7), 99)})
