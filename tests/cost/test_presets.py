"""Presets give back what was published, recover devices that obey the model, and say that they are predictions."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from splitnn.cost.features import features
from splitnn.cost.presets import Preset, preset, preset_profile, presets
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.cost.published import WORK, Work
from splitnn.errors import ProfileMismatch
from splitnn.graph.graph import Graph, Layer, TensorSpec


def graph_of(work: Work) -> Graph:
    """Two convolutions, an activation after each and a reshape, with that much work."""
    half = TensorSpec((work.moved_bytes // 4,), "uint8")  # each activation reads one and writes one
    return Graph(
        layers=(
            Layer("conv", "aten.conv2d.default", ("x",), ("a",), weights=("w",), flops=work.flops // 4),
            Layer("relu", "aten.relu.default", ("a",), ("b",)),
            Layer("again", "aten.conv2d.default", ("b",), ("c",), weights=("v",), flops=work.flops - work.flops // 4),
            Layer("silu", "aten.silu.default", ("c",), ("d",)),
            Layer("flat", "aten.view.default", ("d",), ("e",)),
        ),
        tensors=dict.fromkeys("xabcde", half),
        inputs=("x",),
        outputs=("e",),
        weight_bytes={"w": work.weight_bytes // 10, "v": work.weight_bytes - work.weight_bytes // 10},
    )


OTHER = Work(2_000_000_000, 60_000_000, 30_000_000)  # of no reference model


@pytest.mark.parametrize("name", presets())
def test_a_reference_model_itself_takes_what_was_published(name: str) -> None:
    device = preset(name)
    for model, latency_s in device.latencies_s.items():
        found = preset_profile(device, graph_of(WORK[model]), model="m")
        assert sum(found.seconds(layer) for layer in found.layers) == pytest.approx(latency_s)
        assert found.whole.wall_s == pytest.approx(latency_s)
        assert f"published latency of {model}" in found.machine["predicted"]


def test_a_device_of_three_rates_is_recovered() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    generator = np.random.default_rng(seed)
    rates = generator.uniform(1, 10, 3) * (1e-11, 1e-9, 1e-9)
    device = Preset("d", "made up", 1, {model: float(np.dot(rates, work)) for model, work in WORK.items()})
    assert device.error == pytest.approx(0.0, abs=1e-6)
    found = preset_profile(device, graph_of(OTHER), model="m")
    assert found.whole.wall_s == pytest.approx(float(np.dot(rates, OTHER)), rel=1e-6)
    assert found.seconds("relu") == pytest.approx(rates[1] * OTHER.moved_bytes / 2, rel=1e-6)
    assert found.seconds("flat") == 0.0


def test_what_is_held_out_is_not_seen() -> None:
    """A figure that is wrong by ten is wrong by ten in the held-out error, however well the rest fits."""
    latencies_s = {model: float(np.dot((3e-11, 2e-9, 1e-9), work)) for model, work in WORK.items()}
    spoilt = Preset("d", "made up", 1, latencies_s | {"googlenet": 10 * latencies_s["googlenet"]})
    assert spoilt.held_out()["googlenet"] == pytest.approx(1 / 10 - 1, abs=1e-6)


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_usable_and_says_how_wrong_it_is(name: str) -> None:
    found = preset_profile(preset(name), graph_of(OTHER), model="m", host="device")
    found.check_fits(graph_of(OTHER), "m")
    assert all(seconds.wall_s >= 0 for seconds in found.layers.values()) and found.whole.wall_s > 0
    assert found.error is not None and 0 < found.error < 1
    assert "not measured" in found.machine["predicted"] and name in found.machine["predicted"]
    assert "ncnn" in found.machine["processor"] and "threads" in found.machine["processor"]
    assert Profile.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_measured_host_lends_its_shares_and_its_codecs() -> None:
    graph, device = graph_of(OTHER), preset("raspberry-pi-4")
    names = [layer.name for layer in graph.layers]
    there = Profile(
        "m",
        "cloud",
        {name: Timing(s, s) for name, s in zip(names, (0.03, 0.01, 0.01, 0.0, 0.0), strict=True)},
        Timing(0.05, 0.05),
        codecs={"a": {"int8": CodecCost(10, 1e-3, 2e-3)}},
    )
    alone = preset_profile(device, graph, model="m")
    found = preset_profile(device, graph, model="m", reference=there)
    multiplying = alone.seconds("conv") + alone.seconds("again")
    assert found.seconds("conv") == pytest.approx(0.75 * multiplying)
    assert found.seconds("again") == pytest.approx(0.25 * multiplying)
    assert found.seconds("relu") == pytest.approx(alone.seconds("relu") + alone.seconds("silu"))
    assert found.whole.wall_s == pytest.approx(alone.whole.wall_s)
    slower = found.whole.wall_s / 0.05
    assert found.codecs["a"]["int8"].size_bytes == 10
    assert found.codecs["a"]["int8"].encode_s == pytest.approx(1e-3 * slower)
    assert found.codecs["a"]["int8"].decode_s == pytest.approx(2e-3 * slower)
    assert "cloud" in found.machine["predicted"] and not alone.codecs


def test_stages_and_messages_are_scaled_from_the_measured_host_and_it_is_said() -> None:
    """Otherwise a preset would be flattered by what every measured host pays."""
    graph, device = graph_of(OTHER), preset("raspberry-pi-4")
    layers = {layer.name: Timing(0.01, 0.01) for layer in graph.layers}
    there = Profile("m", "cloud", layers, Timing(0.05, 0.05), stage_s=1e-3, message_s=2e-3)
    found = preset_profile(device, graph, model="m", reference=there, slowdown=3.0)
    slower = found.whole.wall_s / 0.05
    assert found.stage_s == pytest.approx(1e-3 * slower) and found.message_s == pytest.approx(2e-3 * slower)
    assert "measured on cloud over loopback" in found.machine["handling"]
    silent = replace(there, stage_s=0.0, message_s=0.0)
    for reference in (None, silent):
        unknown = preset_profile(device, graph, model="m", reference=reference)
        assert unknown.stage_s == unknown.message_s == 0 and "not known" in unknown.machine["handling"]


def test_a_reference_of_another_model_is_refused() -> None:
    graph = graph_of(OTHER)
    there = Profile("another", "cloud", {layer.name: Timing(1, 1) for layer in graph.layers}, Timing(5, 5))
    with pytest.raises(ProfileMismatch, match="another"):
        preset_profile(preset("raspberry-pi-4"), graph, model="m", reference=there)


def test_a_slower_runtime_multiplies_every_time() -> None:
    device, graph = preset("raspberry-pi-5"), graph_of(OTHER)
    slow = preset_profile(device, graph, model="m", slowdown=3.0)
    assert slow.whole.wall_s == pytest.approx(3 * preset_profile(device, graph, model="m").whole.wall_s)
    assert slow.machine["simulated_slowdown"] == "3" and slow.slowdown == 1


def test_an_unknown_preset_lists_them_with_the_nearest_first() -> None:
    with pytest.raises(ValueError, match=r"'Raspberry_Pi 4'.*did you mean raspberry-pi-4.*jetson-nano-gpu.*rtx-3090"):
        preset("Raspberry_Pi 4")


@pytest.mark.parametrize(
    "latencies_s",
    [{}, {"vgg16": 1.0, "alexnet": 1.0}, {"vgg16": 1.0, "alexnet": 1.0, "resnet18": 0.0},
     {"vgg16": 1.0, "alexnet": 1.0, "nobody": 1.0}, {"vgg16": 1.0, "alexnet": 1.0, "resnet18": float("nan")}],
)  # fmt: skip
def test_a_preset_needs_usable_latencies(latencies_s: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="preset 'd'"):
        Preset("d", "made up", 1, latencies_s)


def test_faster_boards_are_faster() -> None:
    graph = graph_of(OTHER)
    order = ["raspberry-pi-zero-2w", "raspberry-pi-3b-plus", "raspberry-pi-4", "raspberry-pi-5"]
    seconds = [preset_profile(preset(name), graph, model="m").whole.wall_s for name in order]
    assert seconds == sorted(seconds, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "alexnet"])
def test_the_work_in_the_table_is_that_of_the_zoo(name: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("skimage")
    from splitnn import zoo
    from splitnn.graph.capture import capture

    module, _ = zoo.resolve(name)
    graph = capture(module.get_submodule("classifier"), (torch.ones(1, 3, 224, 224),)).graph
    found = [features(graph, layer) for layer in graph.layers]
    moved = sum(layer.moved_bytes for layer in found if layer.kind == "memory")
    assert Work(sum(layer.flops for layer in found), moved, sum(graph.weight_bytes.values())) == WORK[name]
