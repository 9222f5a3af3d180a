"""What is the raw input in another form, and what is not: by the rank of the Jacobian, and by looking for elements."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from splitnn.graph.capture import capture
from splitnn.graph.code import run_nodes
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.graph.model import Model
from splitnn.planner.privacy import copies_of_inputs

PHOTO = Graph(
    (
        Layer("permute", "aten.permute.default", ("image",), ("nchw",)),
        Layer("float", "aten._to_copy.default", ("nchw",), ("floats",)),
        Layer("mean", "aten.sub.Tensor", ("floats",), ("centred",), weights=("m",)),
        Layer("conv", "aten.conv2d.default", ("centred",), ("features",), weights=("w",)),
        Layer("again", "aten.permute.default", ("features",), ("moved",)),
        Layer("mix", "aten.add.Tensor", ("features", "centred"), ("sum",)),
        Layer("scale", "aten.mul.Tensor", ("centred", "n"), ("scaled",)),
    ),
    {
        **{name: TensorSpec((4,), "float32") for name in ("nchw", "floats", "centred", "scaled", "sum")},
        **{name: TensorSpec((3,), "float32") for name in ("features", "moved")},
        "image": TensorSpec((4,), "uint8"),
        "n": TensorSpec((), "int"),
    },
    ("image", "n"),
    ("sum",),
    {"m": 4, "w": 4},
)


class Net(nn.Module):
    """Layers with weights, and a function that makes one tensor with them."""

    def __init__(self, make: Callable[[Net, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.make = make
        self.norm = nn.BatchNorm2d(2)
        self.norm.running_mean = torch.tensor([0.3, -1.0])
        self.norm.running_var = torch.tensor([2.0, 0.5])
        self.wide = nn.Conv2d(2, 5, 3, padding=1)
        self.narrow = nn.Conv2d(2, 1, 3, padding=1)
        self.patches = nn.Conv2d(2, 8, 2, stride=2)
        self.table = nn.Parameter(torch.rand(1, 2, 4, 4) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.make(self, x)


INVERTIBLE: dict[str, Callable[[Net, torch.Tensor], torch.Tensor]] = {
    "batch_norm": lambda net, x: net.norm(x),
    "sigmoid": lambda net, x: torch.sigmoid(x),
    "tanh of scaled": lambda net, x: torch.tanh(x * 0.5 + 0.1),
    "leaky_relu": lambda net, x: nn.functional.leaky_relu(x, 0.1),
    "exp": lambda net, x: torch.exp(x),
    "elu": lambda net, x: nn.functional.elu(x - 0.5),
    "softplus": lambda net, x: nn.functional.softplus(x),
    "times weights": lambda net, x: x * net.table + net.table,
    "plus itself": lambda net, x: x + torch.sigmoid(x),
    "repeat": lambda net, x: x.repeat(1, 2, 1, 1),
    "expand": lambda net, x: x.unsqueeze(1).expand(1, 3, 2, 4, 4).clone(),
    "parts joined": lambda net, x: torch.cat([torch.tanh(part) for part in x.chunk(2, dim=1)], dim=2),
    "joined with a convolution": lambda net, x: torch.cat([x, net.narrow(x).relu()], dim=1),
    "wide convolution": lambda net, x: net.wide(net.norm(x)),
    "patches": lambda net, x: net.patches(x),
    "enlarged": lambda net, x: nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"),
}

PARTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "slice": lambda x: x[:, :1],
    "strided slice": lambda x: x[:, :, ::2],
    "select": lambda x: x[:, 1],
    "split": lambda x: x.split([1, 3], dim=2)[1],
    "chunk": lambda x: x.chunk(2, dim=3)[0],
    "unbind": lambda x: x.unbind(1)[0],
    "index": lambda x: x[:, :, torch.tensor([2, 0])],
    "index_select": lambda x: x.index_select(3, torch.tensor([1, 3])),
    "padded slice": lambda x: nn.functional.pad(x[:, :, 1:], (1, 1)),
}

LOSSY: dict[str, Callable[[Net, torch.Tensor], torch.Tensor]] = {
    "narrow convolution": lambda net, x: net.narrow(x),
    "pooled": lambda net, x: nn.functional.avg_pool2d(x, 2),
    "mean": lambda net, x: x.mean((2, 3)),
    "strongest": lambda net, x: nn.functional.max_pool2d(x, 2),
    "rectified narrow convolution": lambda net, x: torch.sigmoid(net.narrow(x).relu()),
}


def captured(make: Callable[[Net, torch.Tensor], torch.Tensor]) -> Model:
    """A model of one tensor of two channels, whose answer is what ``make`` makes."""
    return capture(Net(make).eval(), (torch.rand(1, 2, 4, 4),))


def last(model: Model) -> str:
    """The tensor that the model answers with."""
    return model.graph.outputs[0]


def jacobian(model: Model, tensor: str) -> torch.Tensor:
    """Of one tensor by the input's elements, at a random input, in float64."""
    nodes = [node for node in model.program.nodes if node.name not in model.program.constants]
    resident = model.resident_on("cpu")
    weights = {name: value.double() if value.is_floating_point() else value for name, value in resident.items()}

    def made(x: torch.Tensor) -> torch.Tensor:
        values = {**weights, model.graph.inputs[0]: x}
        found = {node.name: value for node, value in run_nodes(nodes, values)}
        wanted = found[tensor]
        assert isinstance(wanted, torch.Tensor)
        return wanted.flatten()

    torch.manual_seed(1)
    rows = torch.autograd.functional.jacobian(made, torch.randn(1, 2, 4, 4, dtype=torch.float64))
    assert isinstance(rows, torch.Tensor)
    return rows.flatten(1)


def test_what_only_moves_or_rescales_the_input_is_the_input() -> None:
    assert copies_of_inputs(PHOTO) == ("image", "nchw", "floats", "centred", "scaled")


@pytest.mark.parametrize("name", INVERTIBLE)
def test_what_can_be_inverted_is_a_copy(name: str) -> None:
    model = captured(INVERTIBLE[name])
    assert int(torch.linalg.matrix_rank(jacobian(model, last(model)))) == 32, "the oracle: nothing is lost"
    assert last(model) in copies_of_inputs(model.graph)


@pytest.mark.parametrize("name", LOSSY)
def test_what_loses_something_is_left_to_measurement(name: str) -> None:
    model = captured(LOSSY[name])
    assert int(torch.linalg.matrix_rank(jacobian(model, last(model)))) < 32
    assert last(model) not in copies_of_inputs(model.graph)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_input_is_the_input(name: str) -> None:
    model = captured(lambda net, x: PARTS[name](x))
    example = torch.rand(1, 2, 4, 4)
    part = PARTS[name](example)
    assert torch.isin(part, torch.cat([example.flatten(), torch.zeros(1)])).all(), "the oracle: no element is new"
    assert last(model) in copies_of_inputs(model.graph)


def test_halves_of_the_input_are_both_kept() -> None:
    """Each half is no whole input, but the two that cross together are."""
    model = captured(lambda net, x: net.narrow(torch.cat([x[:, :1], x[:, 1:].exp()], dim=1)))
    made_by = [model.graph.layer(model.graph.producer[tensor]).op for tensor in copies_of_inputs(model.graph)[1:]]
    assert made_by.count("aten.slice.Tensor") == 2
    assert any("exp" in op for op in made_by) and any("cat" in op for op in made_by)


def test_rectifying_the_input_recolours_it_and_rectifying_a_convolution_is_left_to_measurement() -> None:
    model = captured(lambda net, x: torch.relu(net.wide(torch.relu(net.norm(x)))))
    rectified = [tensor for layer in model.graph.layers if "relu" in layer.op for tensor in layer.outputs]
    assert [tensor in copies_of_inputs(model.graph) for tensor in rectified] == [True, False]


def test_a_word_is_read_from_its_row_of_the_table() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.norm = nn.Embedding(9, 6), nn.LayerNorm(6)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            words: torch.Tensor = self.norm(self.table(ids) + 1)
            return words.mean(1)

    model = capture(Words().eval(), (torch.randint(0, 9, (1, 5)),))
    kept = copies_of_inputs(model.graph)
    assert last(model) not in kept
    assert [layer.outputs[0] for layer in model.graph.layers if layer.outputs[0] in kept] == [
        tensor for layer in model.graph.layers for tensor in layer.outputs if tensor != last(model)
    ]
