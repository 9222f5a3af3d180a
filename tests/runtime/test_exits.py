"""The first sure exit answers each sample, alone or in a batch, here or over a transport: the rule applied by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from splitnn.errors import InvalidInput
from splitnn.graph.exits import Exit
from splitnn.graph.model import Model
from splitnn.runtime.exits import begin, can_part, confidences, exits_asked_for, judged, told
from splitnn.runtime.host import ModelHost
from splitnn.runtime.legs import Ways
from splitnn.runtime.stage import stage
from splitnn.runtime.stages import Stages
from splitnn.transport.base import Answer, Request
from splitnn.transport.local import LocalTransport
from tests.runtime.exit_models import Cascaded, Folded, ThreeExits, batch, by_hand, captured, with_exits

KINDS: dict[str, Callable[[], nn.Module]] = {"three": ThreeExits, "cascade": Cascaded, "folded": Folded}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return captured(KINDS[request.param])


def ask(model: Model, tensors: dict[str, torch.Tensor], wanted: tuple[str, ...] = (), **parameters: str) -> Answer:
    async def run() -> Answer:
        host = ModelHost(model)
        request = Request("model", tensors, time.monotonic() + 30, wanted=wanted, parameters=parameters)
        try:
            return await LocalTransport(host.infer).infer(request)
        finally:
            host.close()

    return asyncio.run(run())


def answer_name(model: Model) -> str:
    assert model.exits is not None
    return model.exits.exits[-1].output


def test_each_sample_of_a_batch_is_answered_as_if_it_were_alone(model: Model) -> None:
    seed = 11
    samples = batch(40, seed=seed)
    (name,) = model.graph.inputs
    found = ask(model, {name: samples})
    expected = [by_hand(model, samples[i : i + 1]) for i in range(len(samples))]
    assert str(found.parameters["exit"]).split(",") == [each.exit for each in expected], seed
    assert len({each.exit for each in expected}) > 1, "the samples must be of several kinds"
    logits = torch.as_tensor(found.tensors[answer_name(model)])
    torch.testing.assert_close(logits, torch.cat([each.logits for each in expected]))
    assert found.parameters["confidence"] == pytest.approx(min(each.confidence for each in expected), rel=1e-5)


def test_a_single_sample_gets_the_bits_of_the_exit_that_was_sure(model: Model) -> None:
    (name,) = model.graph.inputs
    for sample in batch(20, seed=3).split(1):
        expected = by_hand(model, sample)
        found = ask(model, {name: sample})
        assert found.parameters["exit"] == expected.exit
        assert torch.equal(torch.as_tensor(found.tensors[answer_name(model)]), expected.logits)


def test_outputs_asked_for_by_name_are_the_whole_models(model: Model) -> None:
    (name,) = model.graph.inputs
    samples = batch(7, seed=4)
    found = ask(model, {name: samples}, wanted=model.graph.outputs)
    whole = stage(model, model.graph.inputs, model.graph.outputs).run({name: samples})
    assert "exit" not in found.parameters
    assert all(torch.equal(torch.as_tensor(found.tensors[o]), torch.as_tensor(whole[o])) for o in model.graph.outputs)


def test_a_request_may_say_which_exits_answer(model: Model) -> None:
    assert model.exits is not None
    (name,) = model.graph.inputs
    samples = batch(9, seed=8)
    whole = stage(model, model.graph.inputs, model.graph.outputs).run({name: samples})
    for asked, exit in (("none", model.exits.exits[-1]), ("exit1", model.exits.exits[0])):
        found = ask(model, {name: samples}, exits=asked)
        assert set(str(found.parameters["exit"]).split(",")) == {exit.name}
        assert torch.equal(torch.as_tensor(found.tensors[answer_name(model)]), torch.as_tensor(whole[exit.output]))


@pytest.mark.parametrize("asked", ["exit9", "", "exit1,exit9"])
def test_an_unknown_exit_is_refused_by_name(asked: str) -> None:
    model = captured(ThreeExits)
    (name,) = model.graph.inputs
    with pytest.raises(InvalidInput, match="parameter 'exits'"):
        ask(model, {name: batch(1, seed=1)}, exits=asked)


def test_nothing_is_computed_twice_and_nothing_behind_a_sure_exit(model: Model) -> None:
    assert model.exits is not None
    way = Ways(Stages(model)).get(model.graph.inputs, model.exits, samples=2)
    layers = [layer for leg in way for layer in leg.part.layers]
    assert len(layers) == len(set(layers))
    for at, leg in enumerate(way):
        assert leg.exit == model.exits.exits[at]
        needed = model.graph.between(model.graph.inputs, [e.output for e in model.exits.exits[: at + 1]])
        assert {y.name for y in needed} == {layer for before in way[: at + 1] for layer in before.part.layers}


def test_from_every_cut_between_two_exits_the_rest_gives_the_same_answers() -> None:
    """What a device sends when its own exits were not sure."""
    model = captured(ThreeExits)
    assert model.exits is not None
    graph = model.graph
    (name,) = graph.inputs
    samples = batch(30, seed=21)
    for first in (1, 2):
        rest = model.exits.only(*(each.name for each in model.exits.exits[first:]))
        head = graph.between(graph.inputs, [model.exits.exits[first - 1].output])
        ahead = {y.name for y in graph.between(graph.inputs, [e.output for e in rest.exits])}
        made = {t for y in head for t in y.outputs}
        cut = tuple(t for t in made if any(r in ahead - {y.name for y in head} for r in graph.consumers[t]))
        tensors = {t: torch.as_tensor(v) for t, v in stage(model, graph.inputs, cut).run({name: samples}).items()}
        found = ask(model, tensors, exits=",".join(each.name for each in rest.exits))
        expected = [by_hand(model, samples[i : i + 1], exits=rest) for i in range(len(samples))]
        assert str(found.parameters["exit"]).split(",") == [each.exit for each in expected]


def test_tensors_that_nobody_needs_are_refused() -> None:
    model = captured(ThreeExits)
    graph = model.graph
    early, middle = [layer.outputs[0] for layer in graph.layers if "relu" in layer.op][:2]
    made = stage(model, graph.inputs, [early, middle]).run(model.example)
    (name,) = graph.inputs
    for given in ([name, early], [middle]):  # more than enough, and too little: the last exit reads the first stage
        tensors = {t: torch.as_tensor(v) for t, v in {**model.example, **made}.items() if t in given}
        with pytest.raises(InvalidInput, match="no cut of the model"):
            ask(model, tensors)


def test_answered_samples_leave_the_batch_only_where_each_is_one_row() -> None:
    for kind, parts in ((ThreeExits, True), (Folded, False)):
        model = captured(kind)
        assert model.exits is not None
        way = Ways(Stages(model)).get(model.graph.inputs, model.exits, samples=2)
        assert can_part(model.graph, dict.fromkeys(way[0].kept)) is parts


class Centred(nn.Module):
    """Its last exit sees each sample less the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Linear(6, 4, bias=False), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.early(x), self.late(x - x.mean(0, keepdim=True)) * 4


class Compared(Centred):
    """Its last exit sees each sample in the light of all others."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.early(x), self.late((x @ x.T).softmax(1) @ x) * 4


@pytest.mark.parametrize("kind", [Centred, Compared])
def test_where_a_layer_mixes_samples_the_answers_are_the_whole_models_of_that_batch(kind: type[nn.Module]) -> None:
    model = with_exits(kind())
    assert model.exits is not None
    (name,) = model.graph.inputs
    samples = batch(12, seed=6)
    found = ask(model, {name: samples})
    whole = stage(model, model.graph.inputs, model.graph.outputs).run({name: samples})
    by_name = {each.name: torch.as_tensor(whole[each.output]) for each in model.exits.exits}
    taken = str(found.parameters["exit"]).split(",")
    assert set(taken) == by_name.keys(), "the samples must be of several kinds"
    expected = torch.cat([by_name[exit][row : row + 1] for row, exit in enumerate(taken)])
    assert torch.equal(torch.as_tensor(found.tensors[answer_name(model)]), expected)


def test_a_model_captured_for_one_batch_size_keeps_its_batch() -> None:
    class Fixed(ThreeExits):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            return super().forward(x.reshape(2, 6))

    model = with_exits(Fixed())
    (name,) = model.graph.inputs
    for seed in range(6):
        samples = batch(2, seed=seed)
        found = ask(model, {name: samples})
        whole = stage(model, model.graph.inputs, model.graph.outputs).run({name: samples})
        assert model.exits is not None
        by_name = {each.name: torch.as_tensor(whole[each.output]) for each in model.exits.exits}
        for row, exit in enumerate(str(found.parameters["exit"]).split(",")):
            assert torch.equal(torch.as_tensor(found.tensors[answer_name(model)])[row], by_name[exit][row])


def test_nan_is_never_sure_but_the_last_exit_answers_all_the_same() -> None:
    passage = begin({}, samples=2)
    logits = torch.tensor([[float("nan"), 1.0], [9.0, 0.0]])
    inner = judged(passage, logits, Exit("inner", "a", threshold=0.5), host="here")
    assert inner.open == (0,) and inner.has_answers
    assert judged(passage, logits, Exit("last", "b"), host="here").is_over


def test_a_far_host_that_names_no_exits_or_unknown_ones_answered_at_the_end() -> None:
    exits = captured(ThreeExits).exits
    assert exits is not None
    passage = begin({}, samples=2)
    for names in ([], ["exit2"], ["?", "exit2"]):
        heard = told(passage, torch.zeros(2, 4), names, exits, host="cloud")
        assert heard.is_over and heard.answers[0].exit == "exit3"


def test_confidence_is_the_softmax_at_the_temperature() -> None:
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    cool, warm = confidences(logits, 0.5).item(), confidences(logits, 4.0).item()
    assert cool > torch.softmax(logits, 1).max().item() > warm
    assert warm == pytest.approx(torch.softmax(logits / 4, 1).max().item())


def test_policies_of_a_request_are_the_models_own_or_some_of_them() -> None:
    exits = captured(ThreeExits).exits
    assert exits is not None
    assert exits_asked_for(exits, "all") is exits
    assert [each.name for each in exits_asked_for(exits, "none").exits] == ["exit3"]
    assert [each.name for each in exits_asked_for(exits, "exit3, exit1").exits] == ["exit1", "exit3"]


def test_confidences_are_float64_as_thresholds_are_chosen() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.1]])
    wide = torch.exp(logits.double() / 1.7)
    assert confidences(logits, 1.7).dtype == torch.float64
    assert confidences(logits, 1.7).item() == pytest.approx((wide.max() / wide.sum()).item(), abs=1e-15)
