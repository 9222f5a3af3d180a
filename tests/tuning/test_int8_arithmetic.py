"""int8 versions: every cut goes through either arithmetic, engines compute in int8 indeed, rounding is corrected."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from splitnn.errors import EngineMismatch, InvalidInput
from splitnn.graph import package
from splitnn.graph.ancestors import layers_before
from splitnn.graph.capture import capture
from splitnn.graph.graft import tensor_values
from splitnn.graph.grid import Grid, grid_nodes, is_on_grid
from splitnn.graph.model import Model
from splitnn.runtime.compiled import check_results, compiled
from splitnn.runtime.engines.exchange import onnx_model, unrounded
from splitnn.runtime.stage import stage
from splitnn.runtime.verify import check
from splitnn.tuning.compress import int8_version, int8_weights_version
from splitnn.tuning.correction import corrected
from splitnn.tuning.ranges import in_eight_bits
from splitnn.tuning.rebuild import rebuilt
from splitnn.zoo.datasets import Samples


class Mobile(nn.Module):
    """A stem with batch normalisation, a depthwise block with a skip around it, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.pool = nn.MaxPool2d(2)
        self.block = nn.Sequential(
            nn.Conv2d(16, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU6(),
            nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.ReLU6(),
            nn.Conv2d(48, 16, 1),
        )  # fmt: skip
        self.last = nn.Conv2d(16, 24, 3)
        self.fc = nn.Linear(24, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(x))
        y: torch.Tensor = self.fc(self.last(x + self.block(x)).relu().mean((2, 3)))
        return y


@pytest.fixture(scope="module")
def net() -> Model:
    torch.manual_seed(3)
    module = Mobile().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 2.0)
            nn.init.normal_(part.bias)
            part.running_mean = torch.randn(part.num_features) * 0.3
    return capture(module, (torch.randn(1, 3, 12, 12),))


@pytest.fixture(scope="module")
def noise() -> Samples:
    torch.manual_seed(5)
    return Samples({"x": torch.randn(64, 3, 12, 12)}, None, tuple(map(str, range(64))), "noise")


@pytest.fixture(scope="module")
def small(net: Model, noise: Samples) -> Model:
    return int8_version(net, noise)


def answers(model: Model, x: torch.Tensor) -> torch.Tensor:
    found = stage(model, model.graph.inputs, model.graph.outputs).run({"x": x})["output"]
    assert isinstance(found, torch.Tensor)
    return found


def away(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_a_grid_holds_zero_and_its_program_rounds_as_torchs_own_quantiser_does() -> None:
    torch.manual_seed(0)
    values = torch.randn(5000) * 3
    for low, high in ((-1.0, 5.0), (0.0, 6.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0)):
        grid = Grid.between(low, high)
        assert grid.rounded(torch.zeros(1)).item() == 0
        known = torch.fake_quantize_per_tensor_affine(values, grid.step, -grid.low, 0, 255)
        assert (grid.rounded(values) - known).abs().max() <= grid.step * 1.001  # ties may go either way
        assert ((grid.rounded(values) - known).abs() > grid.step / 2).float().mean() < 1e-3
    with pytest.raises(ValueError, match="a grid has a step above 0"):
        Grid(float("nan"), 0)
    assert is_on_grid(grid_nodes("y", "x", grid)[-1])


def test_what_convolutions_and_sums_read_is_in_eight_bits_and_what_the_model_returns_is_not(net: Model) -> None:
    found = in_eight_bits(net)
    assert "output" not in found
    assert "x" in found
    assert "stem.2" in found  # rounded where it is made; the largest of four of its values is on the same grid
    assert not {"pool", "stem.0", "stem.1"} & set(found)


def test_crossing_tensors_have_at_most_256_values(small: Model, noise: Samples) -> None:
    values = tensor_values(small, ["stem.2", "block.5"], {"x": noise.inputs["x"][:4]})
    for value in values.values():
        assert isinstance(value, torch.Tensor)
        assert len(value.unique()) <= 256 < value.numel()


def test_version_loads_again_and_every_cut_is_exact_in_torch(small: Model, tmp_path: Path) -> None:
    loaded = package.load(package.save(small, tmp_path / "small"))
    assert loaded.digest == small.digest
    assert check(loaded, random_cuts=10, seed=0, budget_s=10).passed


def test_correction_makes_up_for_coarse_weights(net: Model, noise: Samples) -> None:
    fine = int8_weights_version(net)
    coarse = dict(fine.weights)
    for name, tensor in fine.weights.items():
        if name.endswith(".int8"):  # to four bits
            coarse[name] = (tensor.float() / 16).round().to(torch.int8)
            coarse[name.removesuffix("int8") + "scale"] = fine.weights[name.removesuffix("int8") + "scale"] * 16
    rounded = rebuilt(fine, coarse)
    x = noise.inputs["x"]
    want = answers(net, x)
    before, after = (away(answers(model, x), want) for model in (rounded, corrected(net, rounded, noise)))
    assert after < 0.7 * before


def test_int8_answers_are_near_the_base(net: Model, small: Model, noise: Samples) -> None:
    assert 0 < away(answers(small, noise.inputs["x"]), answers(net, noise.inputs["x"])) < 0.03


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_cut_on_an_engine_is_as_near_as_rounding(small: Model, noise: Samples, engine: str) -> None:
    pytest.importorskip(engine)
    x = noise.inputs["x"][:1]
    want = answers(small, x)
    for number in range(0, len(small.graph), 6):
        cut = small.graph.crossing([layer.name for layer in small.graph.layers[: number + 1]])
        head, tail = stage(small, ["x"], cut), stage(small, cut, small.graph.outputs)
        values = tensor_values(small, cut)
        fast = compiled(head, engine, small.example).run({"x": x})
        found = compiled(tail, engine, values).run(fast)["output"]
        assert isinstance(found, torch.Tensor)
        assert away(found, want) < 0.03


def test_onnx_runtime_gets_integers_and_no_float_weight_of_a_convolution(small: Model) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    whole = stage(small, small.graph.inputs, small.graph.outputs)
    made = onnx_model(whole.call, list(small.example.values()))
    onnx.checker.check_model(made)
    producer = {name: node.op_type for node in made.graph.node for name in node.output}
    kinds = Counter(node.op_type for node in made.graph.node)
    assert kinds["Conv"] == 5
    for node in made.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [producer.get(name) for name in node.input[1:]] == ["DequantizeLinear"] * 2
    sizes = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert Counter(sizes.values())[onnx.TensorProto.INT8] >= 12  # steps and zeros of six weights


class Normalised(nn.Module):
    """An image's bytes, as many as are read at once of each colour, with a mean and a scale for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = (
            nn.Buffer(torch.tensor(values).view(1, 3, 1, 1)) for values in ((124.0, 116.0, 104.0), (58.0, 57.0, 56.0))
        )
        self.conv, self.fc = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pixels = image.permute(0, 3, 1, 2).contiguous().float()
        y: torch.Tensor = self.fc(self.conv((pixels - self.mean) / self.std).relu().mean((2, 3)))
        return y


def test_numbers_of_a_channel_lie_along_whole_rows_for_engines_that_put_channels_last() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    torch.manual_seed(6)
    images = torch.randint(0, 256, (16, 10, 14, 3), dtype=torch.uint8)
    model = capture(Normalised().eval(), (images[:1],))
    whole = stage(model, model.graph.inputs, model.graph.outputs)
    version = int8_version(model, Samples({"image": images}, None, tuple(map(str, range(16))), "noise"))
    small = stage(version, version.graph.inputs, version.graph.outputs)
    found, left = (onnx_model(each.call, [images[:1]]) for each in (small, whole))
    onnx.checker.check_model(found)
    shapes = [{tensor.name: tuple(tensor.dims) for tensor in made.graph.initializer} for made in (found, left)]
    for made, known, width in ((found, shapes[0], 14), (left, shapes[1], 1)):
        pair = [node for node in made.graph.node if node.op_type in ("Sub", "Div")]
        assert [known[node.input[1]] for node in pair] == [(1, 3, 1, width)] * 2
    pytest.importorskip("onnxruntime")
    fast = compiled(small, "onnxruntime", version.example).run(version.example)["output"]
    slow = small.run(version.example)["output"]
    assert isinstance(fast, torch.Tensor) and isinstance(slow, torch.Tensor)
    assert away(fast, slow) < 0.02


def test_an_engine_that_is_much_further_off_than_rounding_is_refused(small: Model) -> None:
    call = stage(small, small.graph.inputs, small.graph.outputs).call
    x = list(small.example.values())
    plain = unrounded(call)
    assert plain is not None
    with torch.inference_mode():
        (want,), (exact,) = call(*x), plain(*x)
    assert not torch.equal(want, exact)
    check_results("near", call, x, [want + 1.5 * (exact - want)])
    with pytest.raises(EngineMismatch, match="rounding to eight bits changes"):
        check_results("far", call, x, [want + 3 * (exact - want)])
    with pytest.raises(EngineMismatch, match="far is inf of the largest value away"):
        check_results("far", call, x, [want * torch.nan])


def test_until_keeps_the_tail_in_floats(net: Model, noise: Samples) -> None:
    until = "block.2"
    small = int8_version(net, noise, until=until)
    head = layers_before(net.graph, [until])
    tail = {name for layer in net.graph.layers if layer.name not in head for name in layer.weights}
    for name in tail:
        assert torch.equal(small.weights[name], net.weights[name])
    gridded = {node.name for node in small.program.nodes if is_on_grid(node)}
    assert gridded
    assert all(name == "x.grid" or small.graph.producer[name] in head for name in gridded)
    assert check(small, random_cuts=5, seed=0, budget_s=5).passed
    again = int8_version(small, noise)  # the rest
    assert any(f"{name}.int8" in again.weights for name in tail)
    assert check(again, random_cuts=5, seed=0, budget_s=5).passed
    with pytest.raises(InvalidInput, match="in int8 already"):
        int8_version(again, noise)


def test_infinity_in_the_middle_is_refused() -> None:
    class Overflow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(300, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.fc((x * 1e38).exp())
            return y

    model = capture(Overflow().eval(), (torch.zeros(1, 300),))
    data = Samples({"x": torch.ones(3, 300)}, None, ("a", "b", "c"), "ones")
    with pytest.raises(InvalidInput, match="gets NaN or infinity"):
        int8_version(model, data)


def test_a_channel_of_no_weights_with_a_large_bias_stays_what_it_is(noise: Samples) -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)).eval()
    first = module[0]
    assert isinstance(first, nn.Conv2d) and first.bias is not None
    with torch.no_grad():
        first.weight[3] = 0.0
        first.bias[3] = 7.0
    (name,) = (model := capture(module, (torch.randn(1, 3, 12, 12),))).graph.inputs
    small = int8_version(model, Samples({name: noise.inputs["x"]}, None, noise.origins, "noise"))
    whole = stage(small, small.graph.inputs, small.graph.outputs)
    pytest.importorskip("onnxruntime")
    fast = compiled(whole, "onnxruntime", small.example)
    (out,) = small.graph.outputs
    one, other = fast.run(small.example)[out], whole.run(small.example)[out]
    assert isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    assert away(one, other) < 0.01


class ComputedBias(nn.Module):
    """One bias is made of a weight, the other of data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.linear(x, self.first.weight, self.first.bias * 2).relu()
        return nn.functional.linear(y, self.second.weight, y.mean(0))


def test_layers_whose_bias_is_computed_are_in_int8_too() -> None:
    torch.manual_seed(4)
    base = capture(ComputedBias().eval(), (torch.randn(1, 16),))
    (name,) = base.graph.inputs
    rows = torch.randn(64, 16)
    version = int8_version(base, Samples({name: rows}, None, tuple(map(str, range(64))), "noise"))
    assert sum(weight.endswith(".int8") for weight in version.weights) == 2
    found, wanted = (
        torch.cat([next(iter(tensor_values(each, each.graph.outputs, {name: row[None]}).values())) for row in rows])  # type: ignore[misc]
        for each in (version, base)
    )
    assert away(found, wanted) < 0.02
