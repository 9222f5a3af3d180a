"""Smaller versions: what they compute, how small they are, and that a head never meets another version's tail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from splitnn.cli.main import main
from splitnn.errors import EngineMismatch, InvalidInput
from splitnn.graph import package
from splitnn.graph.ancestors import layers_before
from splitnn.graph.capture import capture
from splitnn.graph.exits import Exit, Exits
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.runtime.stage import stage
from splitnn.runtime.verify import check
from splitnn.tuning.channels import groups, moments, without
from splitnn.tuning.compress import Judged, head_layers, int8_weights_version, with_recipe
from splitnn.tuning.int8 import quantised
from splitnn.tuning.learning import Lessons, learned
from splitnn.tuning.prune import pruned
from splitnn.tuning.rebuild import learnable, rebuilt
from splitnn.tuning.speed import in_onnxruntime
from splitnn.zoo.datasets import Samples, samples


class Net(nn.Module):
    """A stem, a depthwise block with a skip around it, and a classifier behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(16, 48, 1), nn.BatchNorm2d(48), nn.ReLU6(),
            nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.BatchNorm2d(48), nn.ReLU6(),
            nn.Conv2d(48, 16, 1),
        )  # fmt: skip
        self.last = nn.Sequential(nn.Conv2d(16, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.fc = nn.Sequential(nn.Linear(96, 32), nn.GELU(), nn.Linear(32, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y: torch.Tensor = self.fc(self.last(x + self.block(x)))
        return y


def make_net() -> tuple[nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(3)
    return Net().eval(), (torch.randn(1, 3, 8, 8),)


@pytest.fixture(scope="module")
def net() -> Model:
    return capture(*make_net())


@pytest.fixture(scope="module")
def noise() -> Samples:
    torch.manual_seed(5)
    return Samples({"x": torch.randn(64, 3, 8, 8)}, None, tuple(map(str, range(64))), "noise")


def run(model: Model, x: torch.Tensor) -> torch.Tensor:
    found = stage(model, model.graph.inputs, model.graph.outputs).run({"x": x})["output"]
    assert isinstance(found, torch.Tensor)
    return found


def test_rebuilt_with_its_own_weights_is_the_same_model(net: Model) -> None:
    assert rebuilt(net, net.weights).digest == net.digest


def test_int8_weights_are_rounded_and_nothing_else_changes(net: Model, noise: Samples) -> None:
    small = int8_weights_version(net)
    module, _ = make_net()
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, (nn.Conv2d, nn.Linear)) and part.weight.numel() >= 256:
                steps, scale = quantised(part.weight)
                part.weight.copy_(steps.float() * scale)
    x = noise.inputs["x"][:1]
    torch.testing.assert_close(run(small, x), module(x), rtol=1e-5, atol=1e-6)
    assert check(small, random_cuts=5, seed=0, budget_s=5).passed


def test_rounding_is_within_half_a_step_where_nothing_is_clipped() -> None:
    torch.manual_seed(0)
    weight = torch.rand(7, 60) * 2 - 1  # no outliers: the whole range is the best one
    steps, scale = quantised(weight)
    assert steps.dtype == torch.int8
    assert ((steps.float() * scale - weight).abs() <= scale * 0.5 + 1e-7).float().mean() > 0.9


def test_int8_package_is_a_quarter_and_loads_again(net: Model, tmp_path: Path) -> None:
    small = int8_weights_version(net)
    loaded = package.load(package.save(small, tmp_path / "small"))
    assert loaded.digest == small.digest != net.digest
    large = [name for name, tensor in net.weights.items() if tensor.dim() >= 2 and tensor.numel() >= 256]
    assert all(f"{name}.int8" in loaded.weights and name not in loaded.weights for name in large)
    assert sum(loaded.graph.weight_bytes.values()) < 0.4 * sum(net.graph.weight_bytes.values())


def test_until_keeps_the_tails_weights(net: Model) -> None:
    until = "block.2"
    small = int8_weights_version(net, until=until)
    head = layers_before(net.graph, [until])
    tail = {name for layer in net.graph.layers if layer.name not in head for name in layer.weights}
    for name in tail:
        assert torch.equal(small.weights[name], net.weights[name])
    assert any(name.endswith(".int8") for name in small.weights)
    assert small.digest != net.digest  # so that no head of one meets a tail of the other
    with pytest.raises(InvalidInput, match="no layer of the model makes a tensor 'nowhere'"):
        head_layers(net, "nowhere")


def test_channels_that_are_never_anything_but_zero_can_go_without_a_trace(net: Model, noise: Samples) -> None:
    module, example = make_net()
    dead = torch.arange(0, 48, 3)
    with torch.no_grad():
        norm = module.get_submodule("block.4")
        norm.get_parameter("weight")[dead] = 0.0
        norm.get_parameter("bias")[dead] = -1.0
    model = capture(module, example)
    (group,) = [each for each in groups(model) if each.source == "block.0"]
    assert group.channels == 48
    keep = torch.tensor([number for number in range(48) if number % 3])
    small = without(model, {"block.0": keep}, [group], moments(model, [group], noise))
    x = noise.inputs["x"][:9]
    torch.testing.assert_close(run(small, x), run(model, x), rtol=1e-3, atol=1e-4)
    assert small.graph.tensors["block.0"].shape == (1, 32, 8, 8)
    assert check(small, random_cuts=5, seed=0, budget_s=5).passed


def test_channel_that_doubles_another_one_is_made_up_for_by_it(net: Model, noise: Samples) -> None:
    module, example = make_net()
    with torch.no_grad():
        for name in ("last.0.weight", "last.0.bias"):
            part = module.get_parameter(name)
            part[1] = 2 * part[0]
    model = capture(module, example)
    (group,) = [each for each in groups(model) if each.source == "last.0"]  # read through a flatten
    keep = torch.tensor([number for number in range(24) if number != 1])
    small = without(model, {"last.0": keep}, [group], moments(model, [group], noise))
    x = noise.inputs["x"][:9]
    torch.testing.assert_close(run(small, x), run(model, x), rtol=2e-2, atol=2e-2)


def test_channels_that_reach_an_addition_stay(net: Model) -> None:
    sources = {group.source for group in groups(net)}
    assert sources == {"block.0", "last.0", "fc.0"}  # the stem and the block's end are added up


def test_pruning_keeps_the_share_of_operations_that_was_asked_for(net: Model, noise: Samples) -> None:
    small = pruned(net, noise, flops=0.7)
    share = sum(y.flops for y in small.graph.layers) / sum(y.flops for y in net.graph.layers)
    assert 0.4 < share <= 0.7
    assert check(small, random_cuts=5, seed=0, budget_s=5).passed
    with pytest.raises(InvalidInput, match="of the FLOPs are left when all channels are gone"):
        pruned(net, noise, flops=0.01)
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        pruned(net, noise, flops=1.5)


def test_learning_brings_the_answers_nearer_and_changes_named_weights_only(net: Model, noise: Samples) -> None:
    small = pruned(net, noise, flops=0.6)
    targets = run(net, noise.inputs["x"])
    names = learnable(small, head_layers(small, "block.2"))
    weights = learned(small, noise, targets, weights=names, lessons=Lessons(steps=60, rate=3e-3))
    after = rebuilt(small, weights)
    assert (run(after, noise.inputs["x"]) - targets).norm() < (run(small, noise.inputs["x"]) - targets).norm()
    changed = {name for name in small.weights if not torch.equal(after.weights[name], small.weights[name])}
    assert changed <= names
    assert not any("running" in name for name in changed)


@pytest.mark.parametrize("method", ["int8", "int8-weights", "prune", "distill"])
def test_command_writes_a_version_whose_recipe_says_what_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], noise: Samples, method: str, net: Model
) -> None:
    rows = torch.arange(64) % 5
    save_file({"x": noise.inputs["x"], "labels": rows}, tmp_path / "rows.safetensors")
    package.save(net, tmp_path / "net")
    into = ["--into", "tests.tuning.test_compress:make_net"] if method == "distill" else []
    asked = ["compress", str(tmp_path / "net"), "--data", str(tmp_path / "rows.safetensors"), "--method", method,
             "--out", str(tmp_path / "small"), "--steps", "4", "--json", *into]  # fmt: skip
    assert main(asked) == 0
    said = json.loads(capsys.readouterr().out)
    version = package.load(tmp_path / "small")
    assert version.digest == said["digest"]
    recipe = version.recipe
    assert recipe is not None
    assert recipe.method == method
    assert recipe.base == net.digest
    assert recipe.against == "labels"
    held_out = samples(str(tmp_path / "rows.safetensors"), net, count=256)
    assert held_out.labels is not None
    x = held_out.inputs["x"]
    lost = [(run(model, x).argmax(1) == held_out.labels).float().mean().item() for model in (net, version)]
    assert recipe.drop is not None
    assert recipe.drop.estimate == pytest.approx(lost[0] - lost[1])
    assert main(["check", str(tmp_path / "small"), "--cuts", "2"]) == 0
    assert f"made by {method} of {net.digest[:12]}" in capsys.readouterr().out


class Colours(nn.Module):
    """Mean colours of the quarters of an image to classes; ``last`` is the name of the layer that answers."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.add_module(last, nn.Linear(12, 4))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        *_, last = self.children()
        logits: torch.Tensor = last(self.pool(image.permute(0, 3, 1, 2).float() / 64 - 2).flatten(1))
        return logits


def make_small_colours() -> tuple[nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(2)
    return Colours("small").eval(), (torch.randint(0, 256, (1, 12, 12, 3), dtype=torch.uint8),)


def test_student_of_smaller_images_learns_in_the_models_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    base = capture(Colours("large").eval(), (torch.randint(0, 256, (1, 30, 30, 3), dtype=torch.uint8),))
    package.save(base, tmp_path / "base")
    colours = torch.randint(0, 256, (300, 2, 2, 3), dtype=torch.uint8)  # of quarters
    save_file({"image": colours.repeat_interleave(15, 1).repeat_interleave(15, 2)}, tmp_path / "rows.safetensors")
    asked = ["compress", str(tmp_path / "base"), "--data", str(tmp_path / "rows.safetensors"), "--method", "distill",
             "--into", "tests.tuning.test_compress:make_small_colours", "--out", str(tmp_path / "small"),
             "--steps", "300", "--rate", "0.03", "--json"]  # fmt: skip
    assert main(asked) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    version = package.load(tmp_path / "small")
    assert (version.graph.inputs, version.graph.outputs) == (base.graph.inputs, base.graph.outputs)
    assert version.graph.tensors["image"].shape == (1, 30, 30, 3)
    assert recipe["settings"]["rate"] == 0.03
    assert recipe["against"] == "model"
    assert recipe["drop"]["high"] < 0.2 < 0.4 < recipe["figures"]["untaught_drop_low"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "distill", "--into", "tests.tuning.test_compress:make_net"], "the model answers in 3 classes"),
        (["--method", "distill"], "--method distill needs --into MODEL"),
        (["--method", "int8", "--until", "nowhere"], "no layer of the model makes a tensor 'nowhere'"),
        (["--method", "int8", "--data", "photos"], "holds colour images"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], noise: Samples, options: list[str], said: str
) -> None:
    save_file({"input": torch.randn(20, 6)}, tmp_path / "rows.safetensors")

    data = [] if "--data" in options else ["--data", str(tmp_path / "rows.safetensors")]
    asked = ["compress", "tests.tuning.test_compress:make_rows", *data, *options, "--out", str(tmp_path / "out")]
    assert main(asked) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def make_rows() -> tuple[nn.Module, tuple[torch.Tensor]]:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)), (torch.randn(1, 6),)


class TwoExits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        self.early = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.first(x).relu()
        return self.early(y), self.third(self.second(y).relu())


def test_exits_of_a_version_are_counted_again() -> None:
    torch.manual_seed(2)
    base = capture(TwoExits().eval(), (torch.randn(1, 6),))
    (name,) = base.graph.inputs
    early, last = base.graph.outputs
    exits = [Exit("early", early, 1.0, 0.4), Exit("last", last)]
    base = replace(base, exits=Exits.counted(exits, [((False, True), (True, True))], against="model", data="base"))
    data = Samples({name: torch.randn(150, 6)}, torch.arange(150) % 4, tuple(map(str, range(150))), "rows")
    version = int8_weights_version(base)
    made = with_recipe(version, base, Judged.by(base, data), method="int8", settings={}, figures={})
    assert made.exits is not None
    assert made.exits.exits == tuple(exits)
    with torch.inference_mode():
        values = tensor_values(version, [early, last], data.inputs)
    first, second = values[early], values[last]
    assert isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    left = int((first.softmax(1).amax(1) >= 0.4).sum())
    assert 0 < left < 150
    assert made.exits.left == (left, 150 - left)
    labels = torch.arange(150) % 4
    assert made.exits.right_alone == tuple(int((each.argmax(1) == labels).sum()) for each in (first, second))


def test_figures_of_onnx_runtime_are_left_out_for_a_model_of_four_samples_at_once() -> None:
    torch.manual_seed(1)
    base = capture(nn.Linear(6, 4), (torch.randn(4, 6),), batch="fixed")
    (name,) = base.graph.inputs
    data = Samples({name: torch.randn(9, 6)}, None, tuple("abcdefghi"), "rows")
    with pytest.raises(EngineMismatch, match="captured for 4 samples at once"):
        in_onnxruntime(base, base, Judged.by(base, data))


def test_int8_takes_the_samples_asked_for_and_says_why_onnx_runtime_has_no_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    base = capture(nn.Sequential(nn.Linear(6, 64), nn.Linear(64, 3)), (torch.randn(2, 6),), batch="fixed")
    (name,) = base.graph.inputs
    save_file({name: torch.randn(200, 6)}, tmp_path / "rows.safetensors")
    package.save(base, tmp_path / "net")
    asked = ["compress", str(tmp_path / "net"), "--data", str(tmp_path / "rows.safetensors"), "--method", "int8"]
    for options, samples_used in (([], 32), (["--samples", "50"], 50)):
        assert main([*asked, *options, "--out", str(tmp_path / f"of{samples_used}"), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["recipe"]["settings"]["samples"] == samples_used
        assert "captured for 2 samples at once" in said["unmeasured"]["onnxruntime"]
    assert main([*asked, "--out", str(tmp_path / "told")]) == 0
    assert "no figures of onnxruntime: the model was captured for 2" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match="in int8 already"):
        int8_weights_version(package.load(tmp_path / "told"))
