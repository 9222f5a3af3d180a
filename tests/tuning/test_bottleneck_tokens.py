"""Bottlenecks at what is no image: tokens, series and features, seen as planes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from splitnn.cli.main import main
from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.graph.package import load, save
from splitnn.runtime.verify import check
from splitnn.tuning.bottleneck import crossing_tensor, cut_tensor, insert
from splitnn.tuning.fitting import Ground, ground, transform_versions
from splitnn.tuning.planes import planes_of
from splitnn.tuning.training import by_count, learned_versions, with_residuals
from splitnn.tuning.transform import basis, transform_bottleneck
from splitnn.zoo.autoencoder import Bottleneck
from splitnn.zoo.datasets import Samples
from splitnn.zoo.planes import Form, Planes
from tests.models import captured, captured_real


class Reader(nn.Module):
    """Tokens (N, 8, 12) through a block of attention; a mask says which of them count, and is read behind it, too."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(40, 12)
        self.block = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True, dropout=0.0)
        self.last = nn.Linear(12, 5)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.block(self.words(ids)) * mask[:, :, None]
        y: Tensor = self.last((x.tanh() * mask[:, :, None]).sum(1))
        return y


class Listener(nn.Module):
    """A series (N, 2, 16) through convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 6, 3, padding=1), nn.Conv1d(6, 4, 3)
        self.last = nn.Linear(4 * 14, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.second(self.first(x).relu()).flatten(1))
        return y


class Rows(nn.Module):
    """Features (N, 20)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(9, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x).relu())
        return y


CUTS: dict[Form, str] = {"tokens": "block", "series": "relu", "features": "first"}


@cache
def made(form: Form) -> Model:
    torch.manual_seed(5)
    module, example = {
        "tokens": (Reader(), (torch.randint(40, (1, 8)), torch.ones(1, 8))),
        "series": (Listener(), (torch.randn(1, 2, 16),)),
        "features": (Rows(), (torch.randn(1, 9),)),
    }[form]
    for name, parameter in module.named_parameters():
        if name.startswith("last"):
            nn.init.normal_(parameter)
    return capture(module.eval(), example)


def data_of(form: Form, count: int, seed: int) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    if form == "tokens":
        length = torch.randint(3, 9, (count, 1), generator=generator)
        inputs = {"ids": torch.randint(40, (count, 8), generator=generator), "mask": (torch.arange(8) < length).float()}
    else:
        shape = (2, 16) if form == "series" else (9,)
        inputs = {"x": torch.randn(count, *shape, generator=generator)}
    return Samples(inputs, None, tuple(map(str, range(count))), "made up")


@cache
def ground_of(form: Form) -> Ground:
    model = made(form)
    return ground(model, cut_tensor(model, CUTS[form]), fit_to=data_of(form, 96, 1), judge_by=data_of(form, 40, 2))


@pytest.mark.parametrize(
    ("form", "shape"), [("tokens", (3, 8, 12)), ("series", (3, 6, 16)), ("features", (3, 20)), ("image", (3, 2, 4, 4))]
)
def test_planes_have_channels_second_and_go_back(form: Form, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    planes = Planes(form).of(x)
    assert planes.dim() == 4 and planes.shape[1] == (shape[2] if form == "tokens" else shape[1])
    assert torch.equal(Planes(form).back(planes), x)
    if form == "tokens":
        assert torch.equal(planes[1, :, 5, 0], x[1, 5])


def test_the_operators_before_a_tensor_say_where_its_channels_are() -> None:
    assert {form: planes_of(made(form).graph, cut_tensor(made(form), CUTS[form])).form for form in CUTS} == {
        form: form for form in CUTS
    }
    vit = captured_real("vit_b_16").graph
    tokens = [name for name, spec in vit.tensors.items() if spec.shape == (1, 197, 768) and name in vit.producer]
    assert tokens and {planes_of(vit, name).form for name in tokens} == {"tokens"}
    flat = next(name for name, spec in vit.tensors.items() if spec.shape == (1, 768, 196))  # channels before places
    assert planes_of(vit, flat).form == "series"
    turned = next(name for name, spec in vit.tensors.items() if spec.shape == (1, 196, 768))
    assert planes_of(vit, turned).form == "tokens"


@pytest.mark.parametrize(("form", "patch"), [("tokens", 1), ("tokens", 2), ("series", 4), ("features", 1)])
def test_version_is_a_model_that_every_cut_leaves_alone(form: Form, patch: int, tmp_path: Path) -> None:
    given = ground_of(form)
    coarse, fine = transform_versions(given, steps=[1.0, 0.1], patch=patch)
    version = load(save(fine, tmp_path / "version"))
    assert check(version, random_cuts=5, seed=0).passed
    crossing = version.graph.tensors[crossing_tensor(version)]
    assert crossing.dtype == "int8" and crossing.shape[2] == given.values.shape[2] // patch

    data = data_of(form, 40, 2)
    (answer,) = version.graph.outputs
    whole, other = (tensor_values(each, [answer], data.inputs)[answer] for each in (given.model, version))
    assert isinstance(whole, Tensor) and isinstance(other, Tensor)
    assert fine.recipe is not None and fine.recipe.drop is not None and coarse.recipe is not None
    assert abs(fine.recipe.drop.estimate - (whole.argmax(1) != other.argmax(1)).float().mean()) <= 1.5 / 40
    if form != "features":  # so few symbols that nothing makes them smaller
        assert fine.recipe.figures["median_bytes"] > coarse.recipe.figures["median_bytes"]


@pytest.mark.parametrize(("form", "patch"), [("tokens", 1), ("tokens", 2), ("series", 2), ("features", 1)])
def test_closed_form_projects_as_principal_components_do(form: Form, patch: int) -> None:
    """Without knowing what the answer feels, the first k directions span what numpy's eigenvectors do."""
    given = ground_of(form)
    values = given.planes.back(given.values).numpy()
    if form == "tokens":
        rows = values.reshape(-1, patch, 12).transpose(0, 2, 1).reshape(-1, 12 * patch)  # channels, then places
    elif form == "series":
        rows = values.reshape(len(values), 6, -1, patch).transpose(0, 2, 1, 3).reshape(-1, 6 * patch)
    else:
        rows = values
    sizes, axes = np.linalg.eigh(np.cov(rows.T.astype(np.float64), bias=True))
    found = basis(given.values, torch.zeros_like(given.values), patch=given.planes.sides(patch))
    for kept in (1, 3, 5):
        assert sizes[-kept] > 1.02 * sizes[-kept - 1]  # else the span is not one thing
        ours, theirs = found.directions[:kept].numpy(), axes[:, -kept:]
        np.testing.assert_allclose(ours.T @ ours, theirs @ theirs.T, atol=2e-3)
    assert found.spread == pytest.approx(np.sqrt(sizes.clip(0).mean()), rel=1e-4)


@pytest.mark.parametrize(("form", "patch"), [("tokens", 1), ("tokens", 2), ("series", 2), ("features", 1)])
def test_all_directions_and_a_fine_step_give_the_tensor_back_within_the_step(form: Form, patch: int) -> None:
    """An orthonormal basis undone by its transpose is off by at most 0.6 of a step a direction."""
    given = ground_of(form)
    found = basis(given.values, torch.zeros_like(given.values), patch=given.planes.sides(patch))
    step = 0.06
    undone = transform_bottleneck(given.values, found, step=step, kernel=(1, 1))
    assert undone.encoder(given.values).abs().max() < 127, "a symbol at its limit would be off by more"
    directions = len(undone.encoder.project.weight)
    rows = found.directions[:directions]
    torch.testing.assert_close(rows @ rows.T, torch.eye(directions), atol=1e-4, rtol=0)
    with torch.no_grad():
        unit = step * found.spread
        undone.decoder.linear.weight.copy_((rows * unit).T.reshape(undone.decoder.linear.weight.shape))
        undone.decoder.linear.bias.copy_(found.mean)  # type: ignore[union-attr]
    version = insert(given.model, given.tensor, undone)
    (decoded,) = version.graph.outputs
    back = given.planes.back(undone(given.values))
    off = (back - given.planes.back(given.values)).flatten(1).norm(dim=1)
    places = given.values[0].numel() / len(found.directions)
    # directions that were left out never reach a symbol: they are within 0.6 of a step, too
    assert (off <= 0.61 * unit * np.sqrt(len(found.directions) * places)).all()
    answer = given.answer.output
    whole, other = (
        tensor_values(each, [answer], data_of(form, 96, 1).inputs)[answer] for each in (given.model, version)
    )
    assert decoded == answer and isinstance(whole, Tensor) and isinstance(other, Tensor)
    tail = given.answering()
    torch.testing.assert_close(other, tail(undone(given.values), torch.arange(96)), atol=1e-4, rtol=1e-4)
    assert (other - whole).abs().max() < 0.1 * whole.std()


@pytest.mark.parametrize("form", ["tokens", "series", "features"])
def test_training_goes_through_and_repeats(form: Form) -> None:
    given = ground_of(form)
    (one,), (again,) = (list(learned_versions(given, steps=[0.7], pace=lambda: by_count(6), seed=3)) for _ in range(2))
    assert one.digest == again.digest and one.recipe is not None
    assert check(one, random_cuts=3, seed=0).passed
    kernels = {
        tuple(weight.shape[2:]) for name, weight in one.weights.items() if "bottleneck" in name and weight.dim() == 4
    }
    assert kernels == ({(1, 1)} if form == "features" else {(1, 1), (3, 1)})


def test_a_bottleneck_of_tokens_is_read_back_from_its_weights() -> None:
    given = ground_of("tokens")
    found = basis(given.values, torch.zeros_like(given.values), patch=(2, 1))
    net = with_residuals(transform_bottleneck(given.values, found, step=0.5, kernel=(3, 1)), around=(3, 1))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    again = Bottleneck.of_weights(net.state_dict(), dead_zone=net.encoder.dead_zone)
    assert torch.equal(again(given.values), net(given.values))


def test_what_cannot_be_seen_as_planes_is_refused_by_shape() -> None:
    with pytest.raises(ValueError, match=r"tokens \(N, T, C\).*int64"):
        planes_of(captured("tied").graph, "ids")
    given = ground_of("tokens")
    with pytest.raises(InvalidInput, match="patches of 3 x 1 do not tile 8 x 1"):
        next(iter(transform_versions(given, steps=[1.0], patch=3)))
    residual = captured("residual")
    with pytest.raises(ValueError, match="'x' is needed too"):
        ground(
            residual, cut_tensor(residual, "a"), fit_to=data_of("features", 4, 1), judge_by=data_of("features", 4, 2)
        )


def test_command_makes_versions_at_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package, rows = str(save(made("tokens"), tmp_path / "net")), str(tmp_path / "rows.safetensors")
    save_file({name: each.contiguous() for name, each in data_of("tokens", 200, 4).inputs.items()}, rows)
    asked = ["bottleneck", package, "--cut", "block", "--data", rows, "--step", "0.5", "--json"]
    for options in (["--patch", "2"], ["--method", "learned", "--batches", "3"]):
        assert main([*asked, *options, "--out", str(tmp_path / options[1])]) == 0
        (version,) = json.loads(capsys.readouterr().out)["versions"]
        assert main(["check", version["folder"], "--cuts", "2"]) == 0
        capsys.readouterr()
    assert main([*asked, "--patch", "4", "--out", str(tmp_path / "four")]) == 0
