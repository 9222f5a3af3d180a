"""What codecs cost every way to ask the exits, against each sample on its own, host by host, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

from splitnn.errors import InvalidInput
from splitnn.graph.exits import Exit
from splitnn.graph.extract import extract
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.planner.exit_accuracy import policy_drops
from splitnn.transport.codec import CODECS
from splitnn.tuning.calibration import calibrate
from splitnn.tuning.drops import drop_of
from tests.runtime.exit_models import Cascaded, ThreeExits, batch, captured
from tests.tuning.test_calibration import Data

COUNT = 120


def said_by(model: Model, tensor: str, sample: torch.Tensor, codec: str) -> Mapping[str, torch.Tensor]:
    """The logits of every exit on one sample, (1, classes), with the tensor behind the codec."""
    (read,) = model.graph.inputs
    (value,) = tensor_values(model, [tensor], {read: sample}).values()
    assert isinstance(value, torch.Tensor)
    decoded = CODECS[codec].decode(CODECS[codec].encode(value), tuple(value.shape), "float32")
    assert model.exits is not None
    outputs = [each.output for each in model.exits.exits]
    given = (read,) if tensor == read else (tensor, read)
    return dict(zip(outputs, extract(model, given, outputs)(*(decoded, sample)[: len(given)]), strict=True))


def answered(asked: Sequence[Exit], near: Sequence[Exit], clean: Mapping[str, torch.Tensor],
             coded: Mapping[str, torch.Tensor]) -> int:  # fmt: skip
    """The class that the first sure exit says; those that are near see the tensor as it was."""
    for each in asked:
        logits = (clean if each in near else coded)[each.output]
        if each is asked[-1] or (logits.double() / each.temperature).softmax(1).max() >= each.threshold:
            return int(logits.argmax())
    raise AssertionError("the last one answers")


@pytest.mark.parametrize("kind", [ThreeExits, Cascaded])
@pytest.mark.parametrize("labelled", ["with labels", "without"])
def test_drop_of_each_policy_is_that_of_its_worst_division_between_hosts(
    kind: Callable[[], nn.Module], labelled: str
) -> None:
    model = captured(kind)
    assert model.exits is not None
    exits, samples = model.exits.exits, batch(COUNT, seed=11)
    (read,) = model.graph.inputs
    tensor = next(
        t for t in model.graph.consumers if model.graph.tensors[t].shape[-1] in (8, 32) and t not in model.graph.outputs
        and _suffices(model, t)
    ) if kind is Cascaded else read  # fmt: skip
    labels = torch.randint(0, 4, (COUNT,), generator=torch.Generator().manual_seed(2))
    data = Data({read: samples}, labels if labelled == "with labels" else None, tuple(map(str, range(COUNT))))
    found = calibrate(model, data, codecs={"int2": CODECS["int2"], "raw": CODECS["raw"]}, tensors=[tensor])
    assert found.exits is not None
    clean = [said_by(model, tensor, sample, "raw") for sample in samples.split(1)]
    coded = [said_by(model, tensor, sample, "int2") for sample in samples.split(1)]
    whole = [int(each[exits[-1].output].argmax()) for each in clean]
    truth = labels.tolist() if labelled == "with labels" else whole
    lossy = 0
    for size in range(1, len(exits) + 1):
        for asked in combinations(exits, size):
            was = [answered(asked, (), each, each) == right for each, right in zip(clean, truth, strict=True)]
            drops = []
            for near in range(size):
                now = [
                    answered(asked, asked[:near], *pair) == right
                    for *pair, right in zip(clean, coded, truth, strict=True)
                ]
                drops.append(drop_of([a - b for a, b in zip(was, now, strict=True)], data.origins))
            names = tuple(each.name for each in asked)
            measured = found.exits.drops[tensor]["int2"][names]
            assert measured.high == max(drop.high for drop in drops), names
            assert found.exits.drops[tensor]["raw"][names].high == 0
            assert policy_drops(found, ["int2"], model.exits.only(*names)) == {
                (tensor, "int2"): max(0.0, measured.high)
            }
            lossy += measured.estimate != 0
    assert lossy >= 2, "codecs that cost nothing test nothing"
    assert found.tensors[tensor]["int2"].drop == found.exits.drops[tensor]["int2"][(exits[-1].name,)]


def _suffices(model: Model, tensor: str) -> bool:
    assert model.exits is not None
    try:
        model.program.needed((tensor,), (model.exits.exits[-1].output,))
    except ValueError:
        return False
    return True


def test_an_exit_that_the_tensor_does_not_reach_loses_nothing() -> None:
    model = captured(Cascaded)
    assert model.exits is not None
    tensor = next(t for t in model.graph.producer if _suffices(model, t) and t not in model.graph.outputs)
    (read,) = model.graph.inputs
    data = Data({read: batch(50, seed=3)}, None, tuple(map(str, range(50))))
    found = calibrate(model, data, codecs={"int2": CODECS["int2"]}, tensors=[tensor])
    assert found.exits is not None
    small = found.exits.drops[tensor]["int2"][(model.exits.exits[0].name,)]
    assert small.estimate == 0


def test_models_without_exits_have_no_such_table() -> None:
    model = captured(Cascaded)
    assert model.exits is not None
    (read,) = model.graph.inputs
    data = Data({read: batch(8, seed=3)}, None, tuple("abcdefgh"))
    assert calibrate(model, data, codecs={"raw": CODECS["raw"]}, tensors=[read]).exits is not None
    plain = replace(model, exits=None)
    with pytest.raises(InvalidInput, match="say which holds its answer"):
        calibrate(plain, data, codecs={"raw": CODECS["raw"]}, tensors=[read])
