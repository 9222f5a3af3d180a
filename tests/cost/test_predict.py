"""Predictions recover a host whose times obey the model exactly, and say what they are."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest

from splitnn.cost.features import Features, features, kind_of
from splitnn.cost.nonnegative import fit_nonnegative
from splitnn.cost.predict import Sample, fit, held_out_error
from splitnn.cost.predictor import Coefficients, Predictor, group_of
from splitnn.cost.profile import Profile, Timing
from splitnn.errors import ProfileMismatch
from splitnn.graph.graph import Graph, Layer, TensorSpec

TRUTH = {
    "dense": Coefficients(2e-5, 3e-11, 1e-10, 2e-10),
    "pointwise": Coefficients(1e-5, 5e-11, 2e-10, 0.0),
    "grouped": Coefficients(1e-4, 9e-11, 0.0, 0.0),
    "linear": Coefficients(0.0, 0.0, 3e-10, 4e-10),
    "aten.relu.default": Coefficients(3e-6, 0.0, 1e-10, 0.0),
    "aten.max_pool2d.default": Coefficients(1e-5, 0.0, 9e-10, 0.0),
}


def network(generator: random.Random, length: int) -> Graph:
    """A chain of random layers of all kinds on square images, then a linear one."""
    tensors = {"x": TensorSpec((1, 3, side := 64, side), "float32")}
    weights: dict[str, int] = {}
    layers: list[Layer] = []

    def add(op: str, shape: tuple[int, ...], *, terms: int = 0, weight_bytes: int = 0) -> None:
        name = f"l{len(layers)}"
        result = TensorSpec(shape, "float32")
        source = list(tensors)[-1]
        tensors[name] = result
        if weight_bytes:
            weights[f"{name}.w"] = weight_bytes
        flops = 2 * (result.size_bytes // 4) * terms
        layers.append(Layer(name, op, (source,), (name,), weights=(f"{name}.w",) if weight_bytes else (), flops=flops))

    for _ in range(length):
        channels, side = list(tensors.values())[-1].shape[1:3]
        wide = generator.choice([5, 7, 11, 13])  # not squares: terms tell the kind
        kernel = generator.choice([3, 5])
        match generator.choice(["dense", "pointwise", "grouped", "relu", "pool"]):
            case "dense":
                terms = channels * kernel**2
                add("aten.conv2d.default", (1, wide, side, side), terms=terms, weight_bytes=4 * wide * terms)
            case "pointwise":
                add("aten.conv2d.default", (1, wide, side, side), terms=channels, weight_bytes=4 * wide * channels)
            case "grouped":
                weight_bytes = 4 * channels * kernel**2
                add("aten.conv2d.default", (1, channels, side, side), terms=kernel**2, weight_bytes=weight_bytes)
            case "relu":
                add("aten.relu.default", (1, channels, side, side))
            case "pool":
                add("aten.max_pool2d.default", (1, channels, max(8, side - 2), max(8, side - 2)))
    terms = tensors[layers[-1].name].size_bytes // 4
    add("aten.linear.default", (1, outputs := generator.randint(2, 50)), terms=terms, weight_bytes=4 * outputs * terms)
    return Graph(tuple(layers), tensors, ("x",), (layers[-1].name,), weights)


def measured(graph: Graph, name: str, *, host: str = "bench") -> Profile:
    """What the host of ``TRUTH`` would have measured."""
    seconds = {}
    for layer in graph.layers:
        found = features(graph, layer)
        seconds[layer.name] = TRUTH[group_of(layer, found)].seconds(found)
    total = sum(seconds.values())
    return Profile(name, host, {n: Timing(2 * s, s) for n, s in seconds.items()}, Timing(2 * total, total))


@pytest.fixture
def samples() -> list[Sample]:
    seed = random.randrange(2**32)
    print("seed", seed)
    generator = random.Random(seed)
    graphs = [network(generator, 40) for _ in range(8)]
    return [(graph, measured(graph, f"m{i}")) for i, graph in enumerate(graphs)]


def test_a_linear_host_is_recovered_exactly(samples: list[Sample]) -> None:
    predictor = fit(samples[:-1])
    graph, truth = samples[-1]
    predicted = predictor.predict(graph, model="m7")
    predicted.check_fits(graph, "m7")
    for layer in graph.layers:
        assert predicted.seconds(layer.name) == pytest.approx(truth.seconds(layer.name), rel=1e-5)
    assert predictor.error == pytest.approx(0.0, abs=1e-5)


def test_models_held_out_of_a_linear_host_have_no_error(samples: list[Sample]) -> None:
    for found, (_, profile) in zip(held_out_error(samples), samples, strict=True):
        assert found.model == profile.model
        assert found.whole == pytest.approx(0.0, abs=1e-5)
        assert found.layers < 1e-5 and found.heads < 1e-5


def test_a_held_out_error_is_that_of_a_fit_without_the_model(samples: list[Sample]) -> None:
    graph, profile = samples[0]
    slow = profile.scaled(3.0)  # the others know nothing of this
    assert held_out_error([(graph, slow), *samples[1:]])[0].whole == pytest.approx(1 / 3 - 1, rel=1e-3)


def test_flops_alone_and_throughput_do_worse_where_bytes_matter(samples: list[Sample]) -> None:
    def worst(method: str) -> float:
        return max(each.layers for each in held_out_error(samples, method=method))  # type: ignore[arg-type]

    assert worst("features") < worst("flops") < worst("throughput")


def test_a_prediction_says_that_it_is_one(samples: list[Sample]) -> None:
    predicted = fit(samples[:2]).predict(samples[3][0], model="m3", host="elsewhere")
    assert predicted.host == "elsewhere" and predicted.error is not None
    assert "not measured" in predicted.machine["predicted"] and "bench" in predicted.machine["predicted"]
    assert predicted.machine["fitted_on"] == "m0 m1"
    assert Profile.from_json(json.loads(json.dumps(predicted.to_json()))) == predicted


def test_layers_never_seen_fall_back_to_their_half_and_are_named(samples: list[Sample]) -> None:
    graph = Graph(
        layers=(
            Layer("a", "aten.swizzle.default", ("x",), ("a",)),
            Layer("b", "aten.bmm.default", ("a",), ("b",), flops=10**6),
        ),
        tensors={name: TensorSpec((1000,), "float32") for name in "xab"},
        inputs=("x",),
        outputs=("b",),
    )
    predicted = fit(samples).predict(graph, model="new")
    assert predicted.machine["never_seen"] == "aten.swizzle.default attention"
    assert all(predicted.seconds(name) > 0 for name in "ab")


def test_an_operator_seen_once_scales_as_its_fallback_does() -> None:
    """One time fits any mixture of constant and bytes; neither extreme is to be believed."""
    sizes = {"x": 1, "a": 1000, "b": 20_000, "c": 1000, "y": 4000}
    tensors = {name: TensorSpec((size,), "float32") for name, size in sizes.items()}
    layers = tuple(
        Layer(f"l{i}", op, (source,), (result,), flops=flops)
        for i, (op, source, result, flops) in enumerate(
            [
                ("aten.mm.default", "x", "a", 1000),
                ("aten.relu.default", "a", "b", 0),
                ("aten.relu.default", "b", "c", 0),
                ("aten.silu.default", "c", "y", 0),
            ]
        )
    )
    graph = Graph(layers, tensors, ("x",), ("y",))
    seconds = {"l0": 1e-3, "l1": 3e-4, "l2": 3e-4, "l3": 2e-4}
    predictor = fit([(graph, Profile("m", "h", {n: Timing(s, s) for n, s in seconds.items()}, Timing(1, 1)))])
    assert predictor.seconds(graph, layers[3]) == pytest.approx(2e-4, rel=1e-4)
    fourfold = Graph(
        layers[3:], {"c": TensorSpec((4000,), "float32"), "y": TensorSpec((16_000,), "float32")}, ("c",), ("y",)
    )
    assert 2.1e-4 < predictor.seconds(fourfold, layers[3]) < 7.9e-4


def test_json_gives_the_predictor_back(samples: list[Sample]) -> None:
    predictor = fit(samples)
    assert Predictor.from_json(json.loads(json.dumps(predictor.to_json()))) == predictor


@pytest.mark.parametrize("key", ["format", "host", "clock", "engine", "threads", "models", "error", "coefficients"])
def test_json_that_lacks_a_part_is_refused(samples: list[Sample], key: str) -> None:
    data = fit(samples[:1]).to_json()
    del data[key]
    with pytest.raises(ValueError, match="not a predictor"):
        Predictor.from_json(data)


def test_json_with_negative_or_endless_times_is_refused(samples: list[Sample]) -> None:
    for broken in (-1.0, float("inf"), float("nan")):
        data = fit(samples[:1]).to_json()
        data["coefficients"]["dense"] = [broken, 0.0, 0.0, 0.0]
        with pytest.raises(ValueError, match="not a predictor"):
            Predictor.from_json(data)


def test_samples_must_belong_together(samples: list[Sample]) -> None:
    graph, profile = samples[0]
    with pytest.raises(ValueError, match="one host"):
        fit([samples[1], (graph, profile.scaled(1.0, "another"))])
    with pytest.raises(ProfileMismatch):
        fit(
            [(samples[1][0], profile)]
            if len(samples[1][0]) != len(graph)
            else [(network(random.Random(1), 3), profile)]
        )
    with pytest.raises(ValueError, match="one or more"):
        fit([])
    with pytest.raises(ValueError, match="two or more"):
        held_out_error(samples[:1])
    with pytest.raises(ValueError, match="method"):
        fit(samples, method="guess")  # type: ignore[arg-type]


def test_one_model_is_enough_but_its_error_is_unknown(samples: list[Sample]) -> None:
    assert fit(samples[:1]).error is None


def image(name: str, channels: int) -> dict[str, TensorSpec]:
    return {name: TensorSpec((1, channels, 8, 8), "float32")}


@pytest.mark.parametrize(
    ("channels", "width", "kernel", "groups", "kind"),
    [
        (16, 32, 3, 1, "dense"),
        (3, 32, 7, 1, "dense"),
        (16, 32, 1, 1, "pointwise"),
        (32, 32, 3, 32, "grouped"),
        (48, 48, 5, 48, "grouped"),
        (48, 48, 3, 6, "grouped"),
        (1, 8, 5, 1, "dense"),
    ],
)
def test_the_kind_of_a_convolution_follows_from_its_shape(
    channels: int, width: int, kernel: int, groups: int, kind: str
) -> None:
    flops = 2 * width * 64 * kernel**2 * channels // groups
    layer = Layer("c", "aten.conv2d.default", ("x",), ("y",), weights=("w",), flops=flops)
    graph = Graph((layer,), image("x", channels) | image("y", width), ("x",), ("y",), {"w": 4})
    assert kind_of(graph, layer) == kind


def test_features_count_what_is_read_written_and_held() -> None:
    layer = Layer("a", "aten.addmm.default", ("x", "y"), ("z",), weights=("w", "b"), flops=100)
    tensors = {"x": TensorSpec((10,), "float32"), "y": TensorSpec((3,), "uint8"), "z": TensorSpec((2,), "float64")}
    graph = Graph((layer,), tensors, ("x", "y"), ("z",), {"w": 400, "b": 8})
    assert features(graph, layer) == Features("linear", 100, 40 + 3 + 16, 408)


def test_nonnegative_least_squares_meets_the_conditions_of_an_optimum() -> None:
    """Karush-Kuhn-Tucker: the gradient is 0 where the coefficient is above 0, and not below 0 elsewhere."""
    seed = random.randrange(2**32)
    print("seed", seed)
    generator = np.random.default_rng(seed)
    for columns, scale in itertools.product((1, 2, 4, 6), (1.0, 1e9)):
        rows = generator.random((20, columns)) * np.logspace(0, np.log10(scale), columns)
        targets = generator.standard_normal(20)
        found = fit_nonnegative(rows, targets)
        gradient = rows.T @ (rows @ found - targets) / np.linalg.norm(rows, axis=0)
        assert (found >= 0).all()
        assert (gradient >= -1e-8).all() and np.abs(gradient[found > 0]).max(initial=0.0) < 1e-8


def test_nonnegative_least_squares_refuses_shapes_that_do_not_fit() -> None:
    for rows, targets in [((3, 2), (4,)), ((3, 9), (3,)), ((3, 0), (3,))]:
        with pytest.raises(ValueError, match="needed"):
            fit_nonnegative(np.ones(rows), np.ones(targets))
