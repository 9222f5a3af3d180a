"""Capture: what the graph says is what the module does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitnn.errors import CaptureError
from splitnn.graph.capture import capture
from splitnn.graph.graph import DATA_DEPENDENT, Graph
from splitnn.graph.model import Model
from splitnn.runtime.stage import stage
from splitnn.runtime.verify import identical
from tests.models import TINY, captured


def run_whole(model: Model, *args: Any) -> Any:
    outputs = stage(model, model.graph.inputs, model.graph.outputs).run(model.name_inputs(*args))
    return model.nest_outputs(outputs)


@pytest.mark.parametrize("name", TINY)
def test_captured_model_computes_what_the_module_computes(name: str) -> None:
    module, example = TINY[name]()
    model = capture(module, example)
    with torch.no_grad():
        expected = module(*[tensor.clone() for tensor in example])
    found = run_whole(model, *example)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert model.eager_difference == 0


@pytest.mark.parametrize("name", TINY)
def test_graph_reads_back_equal_from_json(name: str) -> None:
    graph = captured(name).graph
    assert Graph.from_json(graph.to_json()) == graph


@pytest.mark.parametrize("name", sorted(TINY.keys() - {"masked", "counter"}))
def test_batch_of_three_gives_every_sample_its_own_answer(name: str) -> None:
    module, example = TINY[name]()
    model = capture(module, example)
    three = [torch.cat([tensor, tensor.flip(-1), tensor]) for tensor in example]
    with torch.no_grad():
        expected = module(*[tensor.clone() for tensor in three])
    torch.testing.assert_close(run_whole(model, *three), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_specs_are_what_a_run_produces(name: str) -> None:
    module, example = TINY[name]()
    model = capture(module, example)
    everything = tuple(t for t in model.graph.tensors if t in model.graph.producer)
    values = stage(model, model.graph.inputs, everything).run(model.example)
    for tensor, value in values.items():
        spec = model.graph.tensors[tensor]
        if isinstance(value, Tensor):
            assert spec.shape == tuple(value.shape), tensor
            assert spec.dtype == str(value.dtype).removeprefix("torch.")
            assert spec.size_bytes == value.numel() * value.element_size()
        else:
            assert spec.dtype == "int"


def test_specs_grow_with_the_batch_as_a_run_does() -> None:
    module, example = TINY["attention"]()
    model = capture(module, example)
    everything = tuple(t for t in model.graph.tensors if t in model.graph.producer)
    values = stage(model, model.graph.inputs, everything).run({"x": example[0].repeat(4, 1, 1)})
    for tensor, value in values.items():
        if isinstance(value, Tensor):
            assert model.graph.tensors[tensor].grown(3) == tuple(value.shape), tensor


def test_size_that_depends_on_data_is_said_to() -> None:
    graph = captured("masked").graph
    assert any(DATA_DEPENDENT in spec.batch_growth for spec in graph.tensors.values())
    assert graph.tensors[graph.outputs[0]].grown(0) == (-1,)


def test_layers_carry_their_modules_names_and_calls() -> None:
    names = [layer.name for layer in captured("reused").graph.layers]
    assert names == ["block", "act", "block@1", "act@1", "block@2", "act@2"]
    layers = captured("chain").graph.layers
    assert layers[0].name == layers[0].module == "features.0"
    assert layers[0].flops == 2 * 8 * 3 * 3 * 3 * 12 * 12


def test_outputs_are_called_as_the_module_calls_them() -> None:
    assert captured("chain").graph.outputs == ("output",)
    assert captured("many_inputs").graph.outputs == ("weights", "both.0", "both.1", "a")


def test_tied_weight_is_one_weight() -> None:
    model = captured("tied")
    tied = [layer.weights for layer in model.graph.layers if "embed" in layer.name or layer.name == "out"]
    assert len(tied) == 2 and tied[0] == tied[1]
    assert len({tensor.data_ptr() for tensor in model.weights.values() if tensor.shape == (20, 8)}) == 1


def test_what_depends_on_weights_only_is_no_layer() -> None:
    graph = captured("tables").graph
    assert not [layer for layer in graph.layers if "sigmoid" in layer.op or "permute" in layer.op]


def test_weights_are_aligned() -> None:
    assert all(tensor.data_ptr() % 64 == 0 for tensor in captured("chain").weights.values())


def test_capture_leaves_the_module_as_it_was() -> None:
    module, example = TINY["counter"]()
    module.train()
    capture(module, example)
    assert module.training
    assert dict(module.named_buffers())["seen"].item() == 0


def test_one_model_has_one_digest_and_another_weight_another() -> None:
    first, second = captured("chain"), capture(*TINY["chain"]())
    assert first.digest == second.digest
    module, example = TINY["chain"]()
    with torch.no_grad():
        dict(module.named_parameters())["head.bias"][0] += 1e-3
    assert capture(module, example).digest != first.digest


def test_keyword_and_nested_inputs_are_named() -> None:
    class Nested(nn.Module):
        def forward(self, pair: tuple[Tensor, dict[str, Tensor]], *, scale: Tensor) -> Tensor:
            return pair[0] + pair[1]["b"] * scale

    a, b, scale = torch.randn(1, 3), torch.randn(1, 3), torch.randn(1, 3)
    model = capture(Nested(), {"pair": (a, {"b": b}), "scale": scale})
    inputs = model.name_inputs(pair=(a, {"b": b}), scale=scale)
    (found,) = stage(model, model.graph.inputs, model.graph.outputs).run(inputs).values()
    assert identical(found, a + b * scale)
    with pytest.raises(TypeError, match=r"expected a mapping with keys \['b'\], got \['c'\]"):
        model.name_inputs(pair=(a, {"c": b}), scale=scale)


def test_input_and_weight_of_one_name_do_not_meet() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.x

    torch.testing.assert_close(run_whole(capture(Same(), (torch.zeros(1, 3),)), torch.zeros(1, 3)), torch.ones(1, 3))


def test_decision_on_data_is_refused_with_what_to_do() -> None:
    class Decides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(CaptureError, match=r"Decides cannot be captured.*torch\.cond.*torch says: "):
        capture(Decides(), (torch.randn(1, 3),))


def test_operator_off_the_allow_list_is_refused_by_name() -> None:
    with torch.library._scoped_library("splitnn_test", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")

        class Custom(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                twice: Tensor = torch.ops.splitnn_test.twice(x)
                return twice + 1

        with pytest.raises(CaptureError, match=r"'twice' calls splitnn_test\.twice"):
            capture(Custom(), (torch.randn(1, 3),))


def test_example_without_tensors_is_refused() -> None:
    with pytest.raises(TypeError, match="hold no tensor"):
        capture(nn.Identity(), (3,))


def test_module_that_fixes_its_batch_is_captured_with_that_batch() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(1, 2, 6).sum(1)

    graph = capture(Fixed(), (torch.randn(1, 12),)).graph
    assert graph.tensors["x"].batch_growth == ()


@pytest.mark.parametrize("name", ["chain", "attention", "tied"])
def test_size_of_the_batch_does_not_cross_cuts(name: str) -> None:
    graph = captured(name).graph
    assert not [tensor for tensor, spec in graph.tensors.items() if spec.dtype == "int"]


class _Odd(nn.Module):
    """Names that are no Python names, and two that differ in a dot only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.conv_1 = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv(x), self.conv_1(x)
        total: Tensor = a + b + a * b
        return total


class _Spectrum(nn.Module):
    """A complex tensor between real ends: a front end for sound."""

    def forward(self, x: Tensor) -> Tensor:
        back: Tensor = torch.fft.irfft(torch.fft.rfft(x).conj() * 2)
        return back


@pytest.mark.parametrize(
    ("module", "shape"),
    [(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), (2, 4)), (_Odd(), (1, 4)), (_Spectrum(), (1, 8))],
)
def test_model_with_odd_names_or_types_is_cut_everywhere(module: nn.Module, shape: tuple[int, ...]) -> None:
    from splitnn.runtime.verify import check

    assert check(capture(module, (torch.randn(shape),)), random_cuts=10, seed=0).passed


def test_example_that_does_not_fit_is_a_capture_error() -> None:
    with pytest.raises(CaptureError, match=r"Linear cannot be captured.*mat1 and mat2"):
        capture(nn.Linear(4, 2), (torch.randn(1, 3),))


def test_buffers_that_change_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    capture(*TINY["counter"]())
    assert "Counter changes its buffers seen while it runs" in caplog.text
