"""The oracle of the project: every cut of every model gives the whole model's output, bit for bit."""

from __future__ import annotations

import pytest
import torch

from splitnn.errors import InvalidInput
from splitnn.graph.model import Value
from splitnn.runtime.stage import Stage, stage, stages
from splitnn.runtime.verify import check, identical
from tests.models import REAL, TINY, captured, captured_real


@pytest.mark.parametrize("name", TINY)
def test_every_cut_of_a_tiny_model_is_bit_identical(name: str, seed: int) -> None:
    verdict = check(captured(name), random_cuts=20, seed=seed, budget_s=1000)
    assert verdict.all_prefix_cuts
    assert verdict.passed, verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_sampled_cuts_of_a_real_model_are_bit_identical(name: str, seed: int) -> None:
    # evenly spaced cuts are the same in every run; the random ones are others each time
    verdict = check(captured_real(name), random_cuts=6, seed=seed, budget_s=2)
    assert verdict.passed, verdict
    assert verdict.layers > 15


def test_check_notices_a_cut_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Stage.run

    def wrong(self: Stage, tensors: dict[str, torch.Tensor]) -> object:
        outputs = honest(self, tensors)
        return {n: t + 1 if self.host == "tail" and self.layers else t for n, t in outputs.items()}

    monkeypatch.setattr(Stage, "run", wrong)
    verdict = check(captured("chain"), random_cuts=0, seed=0)
    assert not verdict.passed
    assert verdict.worst_difference == pytest.approx(1)


def test_stage_holds_only_its_own_weights() -> None:
    model = captured("chain")
    order = [layer.name for layer in model.graph.layers]
    head, tail = stages(model, {"device": order[:4], "cloud": order[4:]})
    assert head.weight_bytes + tail.weight_bytes == sum(t.nbytes for t in model.weights.values())
    assert head.weight_bytes == 4 * (8 * 27 + 8 + 4 * 8)


def test_three_hosts_relay_what_the_middle_one_does_not_read() -> None:
    model = captured("residual")
    order = [layer.name for layer in model.graph.layers]
    values: dict[str, Value] = dict(model.example)
    for part in stages(model, {"device": order[:2], "edge": order[2:4], "cloud": order[4:]}):
        values.update(part.run(values))
    whole = stage(model, model.graph.inputs, model.graph.outputs).run(model.example)
    assert identical(values["output"], whole["output"])


def test_layer_that_would_read_from_a_later_host_is_refused() -> None:
    model = captured("chain")
    order = [layer.name for layer in model.graph.layers]
    with pytest.raises(InvalidInput):
        stages(model, {"device": order[4:], "cloud": order[:4]})[0].run(model.example)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("nonsense",), "no tensor is called 'nonsense'"),
        ((), "no cut of the model: 'x' is needed too"),
        (("x", "features.3"), r"\['x'\] are not needed"),
        (("output",), None),
    ],
)
def test_tensors_that_are_no_cut_are_refused(given: tuple[str, ...], message: str | None) -> None:
    model = captured("chain")
    if message is None:
        assert stage(model, given, ("output",)).layers == ()
        return
    with pytest.raises(InvalidInput, match=message):
        stage(model, given, ("output",))


def test_identical_compares_bits() -> None:
    nan = torch.tensor([float("nan"), 0.0])
    assert identical(nan, nan.clone())
    assert not identical(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not identical(torch.tensor([1]), torch.tensor([1.0]))
    assert not identical(1, True)
