"""What is the raw input in another form, and what is not."""

from __future__ import annotations

from splitnn.graph.graph import Graph, Layer, TensorSpec
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
        **{name: TensorSpec((4,), "float32") for name in ("nchw", "floats", "centred", "features", "moved", "sum")},
        "image": TensorSpec((4,), "uint8"),
        "scaled": TensorSpec((4,), "float32"),
        "n": TensorSpec((), "int"),
    },
    ("image", "n"),
    ("sum",),
    {"m": 4, "w": 4},
)


def test_what_only_moves_or_rescales_the_input_is_the_input() -> None:
    assert copies_of_inputs(PHOTO) == ("image", "nchw", "floats", "centred", "scaled")
