"""Bottlenecks: what they keep, what they send, and that the version with one is an ordinary model."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from splitnn.cli.main import main
from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.model import Model
from splitnn.graph.package import load, save
from splitnn.runtime.stage import stage
from splitnn.runtime.verify import check
from splitnn.transport.codec import CODECS
from splitnn.tuning.bottleneck import crossing_tensor, cut_tensor, patches_of, pixels_of
from splitnn.tuning.fitting import Ground, ground, transform_basis, transform_versions
from splitnn.tuning.symbol_bits import LogisticBits, rounded
from splitnn.tuning.training import Training, by_clock, by_count, varied, with_residuals
from splitnn.tuning.transform import transform_bottleneck
from splitnn.zoo.sources import open_model


class Net(nn.Module):
    """Eight channels in the middle, of which the answer sees the first four."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh())
        self.tail = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 7 * 7, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.tail(self.head(x)[:, :4])
        return y


@dataclass(frozen=True)
class Data:
    inputs: dict[str, torch.Tensor]
    origins: tuple[str, ...]
    labels: torch.Tensor | None = None
    source: str = "made up"


def smooth(count: int, seed: int) -> Data:
    """Pictures (N, 3, 16, 16) with large features, as photos have."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 5, 5, generator=generator)
    return Data({"x": nn.functional.interpolate(coarse, 16, mode="bicubic") * 2}, tuple(map(str, range(count))))


@cache
def made() -> tuple[Model, Ground]:
    torch.manual_seed(3)
    model = capture(Net().eval(), (torch.randn(1, 3, 16, 16),))
    tensor = cut_tensor(model, "head")
    return model, ground(model, tensor, fit_to=smooth(64, 1), judge_by=smooth(48, 2))


def versions(steps: list[float], patch: int = 1) -> list[Model]:
    return list(transform_versions(made()[1], steps=steps, patch=patch))


@pytest.mark.parametrize("patch", [1, 2])
def test_version_is_a_model_that_every_cut_leaves_alone_and_its_recipe_is_true(patch: int, tmp_path: Path) -> None:
    model, _ = made()
    (version,) = versions([0.5], patch)
    version = load(save(version, tmp_path / "version"))
    assert check(version, random_cuts=5, seed=0).passed
    assert version.digest != model.digest

    crossing, (answer,) = crossing_tensor(version), version.graph.outputs
    changed, sizes = 0, []
    run, run_whole = stage(version, ["x"], [crossing, answer]).run, stage(model, ["x"], [answer]).run
    for picture in smooth(48, 2).inputs["x"].split(1):
        values = run({"x": picture})
        symbols, logits, whole = values[crossing], values[answer], run_whole({"x": picture})[answer]
        assert (
            isinstance(symbols, torch.Tensor) and isinstance(logits, torch.Tensor) and isinstance(whole, torch.Tensor)
        )
        assert symbols.dtype == torch.int8
        changed += int(logits.argmax() != whole.argmax())
        sizes.append(len(CODECS["entropy"].encode(symbols)))
    recipe = version.recipe
    assert recipe is not None and recipe.drop is not None
    assert recipe.base == model.digest and recipe.samples == 48
    assert abs(recipe.drop.estimate - changed / 48) <= 1.5 / 48  # a batch rounds its sums otherwise than one sample
    assert abs(recipe.figures["median_bytes"] - sorted(sizes)[24]) <= 2


def test_smaller_steps_send_more_and_change_less() -> None:
    found = [version.recipe for version in versions([0.05, 0.5, 2.0])]
    drops = [recipe.drop.estimate for recipe in found if recipe and recipe.drop]
    sizes = [recipe.figures["median_bytes"] for recipe in found if recipe]
    assert drops[0] <= 0.03 and drops[0] <= drops[1] < drops[2]
    assert sizes == sorted(sizes, reverse=True)


def test_what_the_answer_does_not_see_is_hardly_sent() -> None:
    _, given = made()
    found = transform_basis(given, patch=1, seed=0)
    bottleneck = transform_bottleneck(given.values, found, step=0.3)
    with torch.inference_mode():
        error = (bottleneck(given.held_out) - given.held_out).square().mean((0, 2, 3))
    spread = given.held_out.var((0, 2, 3))
    assert (error / spread)[:4].mean() < 0.5 * (error / spread)[4:].mean()


def test_patches_and_pixels_are_inverse() -> None:
    x = torch.randn(2, 3, 4, 6)
    for patch in ((1, 1), (2, 2), (2, 1)):
        assert torch.equal(pixels_of(patches_of(x, patch), patch=patch), x)
    assert torch.equal(patches_of(x, (2, 2)), nn.functional.pixel_unshuffle(x, 2))


def test_training_lowers_what_it_is_to_lower() -> None:
    _, given = made()
    found = transform_basis(given, patch=1, seed=0)
    net = with_residuals(transform_bottleneck(given.values, found, step=1.0))
    training = Training(given, net, exchange=1e-4, seed=0)
    rows = torch.arange(64)
    before = training.loss(rows)
    training.run(by_count(100))
    assert training.batches == 100
    assert training.loss(rows) < 0.95 * before


def test_training_for_a_number_of_batches_repeats_to_the_last_bit() -> None:
    _, given = made()
    found = transform_basis(given, patch=1, seed=0)

    def trained(seed: int) -> dict[str, torch.Tensor]:
        net = with_residuals(transform_bottleneck(given.values, found, step=1.0), seed=seed)
        Training(given, net, exchange=1e-4, seed=seed).run(by_count(12))
        return net.state_dict()

    first, again, other = trained(1), trained(1), trained(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_clock_ends_training_when_its_time_is_over() -> None:
    ticks = itertools.count()
    pace = by_clock(4.0, now=lambda: float(next(ticks)))
    assert [pace(done) for done in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.25]


def test_varied_samples_are_made_of_the_given_ones_and_differ_from_them() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.arange(6.0).view(6, 1, 1, 1) + torch.linspace(0, 0.5, 8).view(1, 1, 1, 8).expand(6, 2, 8, 8)
    kinds = set()
    for _ in range(60):
        found = varied(values, generator)
        assert found.shape == values.shape and found.min() >= 0 and found.max() <= 5.5
        mixed = (found.amax((1, 2, 3)) - found.amin((1, 2, 3))) > 0.6  # a piece of another sample is in it
        kinds.add("patched" if mixed.any() else "whole")
        mirrored = (found[:, 0, 0, 0] > found[:, 0, 0, 7]).float().mean()
        kinds.add("some mirrored" if 0 < mirrored < 1 else "all alike")
    assert {"patched", "whole", "some mirrored"} <= kinds


def test_residual_decoder_starts_as_the_linear_one() -> None:
    _, given = made()
    plain = transform_bottleneck(given.values, transform_basis(given, patch=2, seed=0), step=0.5)
    torch.testing.assert_close(with_residuals(plain)(given.held_out), plain(given.held_out))


def logistic(count: int, scale: float, *, seed: int = 0) -> torch.Tensor:
    """Whole numbers (count, 1, 150, 150) that depend on nothing around them."""
    uniform = torch.rand(count, 1, 150, 150, generator=torch.Generator().manual_seed(seed)).clamp(1e-6, 1 - 1e-6)
    return (scale * (uniform / (1 - uniform)).log()).round()


def test_bits_of_logistic_numbers_are_their_entropy() -> None:
    scale = 3.0
    numbers = logistic(16, scale)
    bits = LogisticBits(torch.tensor([2 * math.log(2) * scale]))
    with torch.no_grad():
        bits.by_near.zero_()
        bits.by_place.zero_()
        estimate = bits(numbers).sum() / numbers.numel()
    share = torch.unique(numbers, return_counts=True)[1] / numbers.numel()
    torch.testing.assert_close(estimate, -(share * share.log2()).sum(), rtol=0.01, atol=0)


def test_numbers_whose_size_their_neighbours_tell_take_fewer_bits() -> None:
    numbers = torch.cat((logistic(4, 0.7), logistic(4, 6.0)))  # quiet pictures and lively ones, in one channel
    bits = LogisticBits(numbers.abs().mean((0, 2, 3)))
    with torch.no_grad():
        bits.by_place.zero_()
        bits.by_near.fill_(0.9)
        told = bits(numbers).mean()
        bits.by_near.zero_()
        untold = bits(numbers).mean()
    assert told < 0.97 * untold


def test_rounding_is_whole_numbers_forwards_and_nothing_backwards() -> None:
    x = torch.tensor([0.4, 1.6, 200.0], requires_grad=True)
    y = rounded(x)
    y.sum().backward()
    assert y.tolist() == [0.0, 2.0, 127.0]
    assert x.grad is not None and x.grad.tolist() == [1.0, 1.0, 0.0]


def test_command_writes_versions_that_check_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = made()
    package, data = str(save(model, tmp_path / "net")), tmp_path / "data.safetensors"
    save_file({"x": smooth(160, 4).inputs["x"]}, data)
    command = ["bottleneck", package, "--data", str(data), "--count", "96", "--held-out", "40"]
    out = ["--out", str(tmp_path / "versions")]
    assert main([*command, "--cut", "head", "--step", "0.3", "--step", "1", "--json", *out]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [Path(each["folder"]).name for each in printed["versions"]] == ["transform-0.3", "transform-1"]
    assert main(["check", printed["versions"][0]["folder"], "--cuts", "2"]) == 0
    assert "made by transform bottleneck" in capsys.readouterr().out

    again = ["--out", str(tmp_path / "more")]
    learned = ["--method", "learned", "--minutes", "0.02", "--step", "0.7"]
    assert main([*command, "--cut", "head", *learned, *again]) == 0
    assert "learned bottleneck" in capsys.readouterr().out
    digests = []
    for name in ("one", "other"):
        out_of = ["--out", str(tmp_path / name), "--json"]
        assert main([*command, "--cut", "head", *learned, "--batches", "3", *out_of]) == 0
        (version,) = json.loads(capsys.readouterr().out)["versions"]
        assert version["recipe"]["settings"]["batches"] == 3
        digests.append(version["digest"])
    assert digests[0] == digests[1]

    for wrong, said in (
        (["--cut", "nowhere", *again], "'nowhere'"),
        (["--cut", "output", *again], "a bottleneck lies between layers"),
        (["--cut", "head", "--step", "1", *out], "exists"),
        (["--cut", "head", "--step", "1e9", *again], "leaves nothing"),
        (["--cut", "head", "--max-accuracy-drop", "0.001%", "--step", "1", *again], "the nearest loses"),
        (["--cut", "head", "--max-accuracy-drop", "lots", *again], "no share"),
    ):
        assert main([*command, *wrong]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--cut", "head", "--step", "-1", *again])


def test_bottleneck_for_a_model_with_exits_is_refused_and_told_why() -> None:
    with pytest.raises(InvalidInput, match="the model has exits"):
        cut_tensor(open_model("fashion_exits"), "stage1")
