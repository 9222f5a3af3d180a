"""A grafted model is an ordinary model: the oracle is the two modules called by hand, and every cut of the result."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splitnn.graph.capture import capture
from splitnn.graph.graft import graft, tensor_values
from splitnn.graph.model import Model
from splitnn.graph.package import load, save
from splitnn.runtime.verify import check
from tests.models import captured


class Head(nn.Module):
    """An exit: pooled channels to ten classes."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x.mean((2, 3)))
        return y


class Half(nn.Module):
    """A bottleneck that changes what passes."""

    def forward(self, x: Tensor) -> Tensor:
        symbols = (x * 2).round().clamp(-127, 127).to(torch.int8)
        return symbols.float() * 0.5


def run(model: Model, **inputs: Tensor) -> tuple[Tensor, ...]:
    values = tensor_values(model, model.graph.outputs, inputs)
    found = [values[name] for name in model.graph.outputs]
    return tuple(value for value in found if isinstance(value, Tensor))


def inner_tensor(model: Model, layer: str) -> str:
    return model.graph.layer(layer).outputs[0]


def test_exit_is_the_head_on_the_inner_tensor_and_every_cut_holds(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(5)
    chain = captured("chain")
    tensor = inner_tensor(chain, "features.2")
    value = tensor_values(chain, [tensor])[tensor]
    assert isinstance(value, Tensor)
    head = Head(8).eval()
    both = graft(chain, capture(head, (value,)), name="exit1", at={"x": tensor})

    whole, early = run(both, **chain.example)
    assert torch.equal(whole, run(chain, **chain.example)[0])
    torch.testing.assert_close(early, head(value), rtol=0, atol=1e-6)
    assert both.graph.outputs[:-1] == chain.graph.outputs
    assert both.digest != chain.digest
    assert check(both, random_cuts=5, seed=seed).passed

    again = load(save(both, tmp_path / "package"))
    assert again.digest == both.digest


def test_batch_grows_in_the_graft_too() -> None:
    chain = captured("chain")
    tensor = inner_tensor(chain, "features.2")
    both = graft(chain, capture(Head(8), tuple(tensor_values(chain, [tensor]).values())), name="exit", at={"x": tensor})
    x = torch.randn(5, *next(iter(chain.example.values())).shape[1:])
    name = chain.graph.inputs[0]
    assert [tuple(value.shape) for value in run(both, **{name: x})] == [(5, 10), (5, 10)]


def test_replaced_tensor_is_what_all_later_readers_see(seed: int) -> None:
    skips = captured("residual")
    tensor = inner_tensor(skips, "a:relu") if "a:relu" in skips.graph.index else skips.graph.layers[1].outputs[0]
    assert len(skips.graph.consumers[tensor]) > 1
    scion = capture(Half(), tuple(tensor_values(skips, [tensor]).values()))
    narrow = graft(skips, scion, name="neck", at={scion.graph.inputs[0]: tensor}, replacing={tensor: "output"})

    passed = Half()(tensor_values(skips, [tensor])[tensor])
    x = next(iter(skips.example.values()))
    expected = tensor_values(skips, skips.graph.outputs, {skips.graph.inputs[0]: x, tensor: passed})
    want = expected[skips.graph.outputs[0]]
    assert isinstance(want, Tensor)
    assert torch.equal(run(narrow, **skips.example)[0], want)
    assert len(narrow.graph.consumers[tensor]) == 1  # the neck alone
    assert any(spec.dtype == "int8" for spec in narrow.graph.tensors.values())
    assert check(narrow, random_cuts=5, seed=seed).passed


def test_second_model_on_the_same_input_is_a_cascade(seed: int) -> None:
    chain, other = captured("chain"), captured("chain")
    both = graft(chain, other, name="small", at={other.graph.inputs[0]: chain.graph.inputs[0]})
    assert both.graph.inputs == chain.graph.inputs
    large, small = run(both, **chain.example)
    assert torch.equal(large, small)
    assert check(both, random_cuts=5, seed=seed).passed


def test_wrong_graft_says_what_is_wrong() -> None:
    chain = captured("chain")
    tensor = inner_tensor(chain, "features.2")
    value = tensor_values(chain, [tensor])[tensor]
    assert isinstance(value, Tensor)
    scion = capture(Head(8), (value,))
    with pytest.raises(ValueError, match="no tensor 'nowhere'"):
        graft(chain, scion, name="exit", at={"x": "nowhere"})
    with pytest.raises(ValueError, match="inputs are"):
        graft(chain, scion, name="exit", at={})
    with pytest.raises(ValueError, match="float32"):
        graft(chain, scion, name="exit", at={"x": chain.graph.inputs[0]})
    once = graft(chain, scion, name="exit", at={"x": tensor})
    with pytest.raises(ValueError, match="another name"):
        graft(once, scion, name="exit", at={"x": tensor})
