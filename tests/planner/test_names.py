"""A module stands for its layers; what nobody is called is answered with who is called nearly so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.planner.constraints import Constraints
from splitnn.planner.names import layers_named, layers_of_operator, tensors_named

_MODULES = ("net.features.1.conv", "net.features.1.relu", "net.features.10.conv", "net.head", "")
_OPERATORS = {"relu": "aten.relu.default"}
GRAPH = Graph(
    tuple(
        Layer(f"layer{i}", _OPERATORS.get(module[-4:], "aten.conv2d.default"), (f"t{i}",), (f"t{i + 1}",), module)
        for i, module in enumerate(_MODULES)
    ),
    {f"t{i}": TensorSpec((4,), "float32") for i in range(len(_MODULES) + 1)},
    ("t0",),
    (f"t{len(_MODULES)}",),
)


@pytest.mark.parametrize("module", ["net.features.1", "features.1"])
def test_a_module_stands_for_the_layers_in_it_and_for_no_others(module: str) -> None:
    assert layers_named(GRAPH, module) == ("layer0", "layer1")
    assert tensors_named(GRAPH, module) == ("t1", "t2")


def test_a_name_is_a_layer_before_it_is_a_module() -> None:
    assert layers_named(GRAPH, "layer3") == ("layer3",) and tensors_named(GRAPH, "t3") == ("t3",)


def test_a_star_means_the_module_where_a_layer_has_its_name() -> None:
    namesake = replace(GRAPH, layers=(replace(GRAPH.layers[0], name="net.features.1"), *GRAPH.layers[1:]))
    assert layers_named(namesake, "net.features.1") == ("net.features.1",)
    assert layers_named(namesake, "net.features.1.*") == ("net.features.1", "layer1")


def test_a_module_may_be_kept_pinned_and_private() -> None:
    hosts = ("device", "cloud")
    for constraints in (Constraints(keep_on_device=("features.10",)), Constraints(pins={"features.10": "device"})):
        assert list(constraints.tier_ranges(GRAPH, hosts).highest) == [0, 0, 0, 1, 1]
    private = Constraints(private=("features.1",))
    assert list(private.tier_ranges(GRAPH, hosts).highest) == [0, 0, 0, 1, 1], "what reads a private tensor stays, too"


def test_operators_have_a_short_and_a_long_name() -> None:
    assert layers_of_operator(GRAPH, "relu") == layers_of_operator(GRAPH, "aten.relu.default") == ("layer1",)


@pytest.mark.parametrize(
    ("find", "name", "hint"),
    [
        (layers_named, "features.l", "did you mean features.1"),
        (layers_named, "layer9", "splitnn layers"),
        (tensors_named, "head_", "did you mean head"),
        (layers_of_operator, "convolution2d", "did you mean conv2d"),
    ],
)
def test_a_wrong_name_is_answered_with_near_ones(find, name: str, hint: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=hint):
        find(GRAPH, name)
