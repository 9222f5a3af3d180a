"""What counts as the same answer: of classes, maps, tokens and embeddings; and which output it is read from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from splitnn.cli.main import main
from splitnn.cost.profile_file import open_profile
from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.extract import extract
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.graph.package import load, save
from splitnn.transport.codec import CODECS
from splitnn.tuning.answers import answer_of
from splitnn.tuning.calibration import calibrate
from splitnn.tuning.drops import drop_of
from splitnn.tuning.evaluation import check_labels
from splitnn.tuning.exit_heads import attach_exits
from splitnn.tuning.sensitivity import gradients
from splitnn.zoo.datasets import Samples, samples
from tests.models import captured


class Segmenter(nn.Module):
    """A map of four classes at 6 x 6 places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x).relu())  # (N, 4, 6, 6)
        return y


class Embedder(nn.Module):
    """A direction in 12 dimensions."""

    def __init__(self, *, unit: bool) -> None:
        super().__init__()
        self.unit = unit
        self.first, self.last = nn.Linear(9, 16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        found = self.last(self.first(x).tanh())
        return nn.functional.normalize(found, dim=1) if self.unit else found


class Detector(nn.Module):
    """Boxes and classes of five candidates, and a number of them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.box, self.kind = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x).tanh()  # (N, 5, 8)
        return {"boxes": self.box(y), "classes": self.kind(y), "count": y.sum((1, 2))}


def made(module: nn.Module, *shape: int) -> Model:
    torch.manual_seed(4)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.6)
    return capture(module.eval(), (torch.randn(1, *shape),))


def data_of(model: Model, count: int, labels: Tensor | None = None) -> Samples:
    (name,) = model.graph.inputs
    torch.manual_seed(8)
    x = torch.randn(count, *model.graph.tensors[name].shape[1:])
    return Samples({name: x}, labels, tuple(map(str, range(count))), "made up")


def decoded_answers(model: Model, data: Samples, tensor: str, codec: str, output: str) -> tuple[np.ndarray, np.ndarray]:
    """What the model answers without a codec, and with one at that tensor, sample by sample."""
    (name,) = model.graph.inputs
    tail = extract(model, (tensor,), (output,))
    whole, other = [], []
    for row in range(len(data)):
        values = tensor_values(model, [tensor, output], {name: data.inputs[name][row : row + 1]})
        value = values[tensor]
        assert isinstance(value, Tensor) and isinstance(values[output], Tensor)
        decoded = CODECS[codec].decode(CODECS[codec].encode(value), tuple(value.shape), "float32")
        whole.append(values[output].numpy())  # type: ignore[union-attr]
        other.append(tail(decoded)[0].detach().numpy())
    return np.concatenate(whole), np.concatenate(other)


def test_a_map_is_judged_at_each_of_its_places() -> None:
    model = made(Segmenter(), 3, 6, 6)
    data = data_of(model, 20)
    answer = answer_of(model)
    tensor = model.graph.layer("first").outputs[0]
    whole, other = decoded_answers(model, data, tensor, "int2", answer.output)
    changed = (whole.argmax(1) != other.argmax(1)).reshape(20, -1).mean(1)
    found = calibrate(model, data, codecs={"int2": CODECS["int2"]}, tensors=[tensor])
    assert 0 < changed.mean() < 1
    assert found.tensors[tensor]["int2"].drop.estimate == pytest.approx(changed.mean(), abs=1 / 36 / 20 + 1e-9)
    assert found.data == "made up, judged by 'output', by its largest entries"


def test_labels_of_a_map_are_one_a_place() -> None:
    model = made(Segmenter(), 3, 6, 6)
    labels = torch.randint(4, (20, 6, 6), generator=torch.Generator().manual_seed(1))
    data = data_of(model, 20, labels)
    tensor = model.graph.layer("first").outputs[0]
    whole, other = decoded_answers(model, data, tensor, "int2", "output")
    lost = (whole.argmax(1) == labels.numpy()).mean() - (other.argmax(1) == labels.numpy()).mean()
    found = calibrate(model, data, codecs={"int2": CODECS["int2"]}, tensors=[tensor])
    assert found.against == "labels"
    assert found.tensors[tensor]["int2"].drop.estimate == pytest.approx(lost, abs=1 / 36 / 20 + 1e-9)
    for wrong in (torch.zeros(20, dtype=torch.int64), labels + 1):
        with pytest.raises(InvalidInput, match=r"one a place|must be from 0 to 3"):
            check_labels(model, data_of(model, 20, wrong), answer_of(model))


@pytest.mark.parametrize("least", [None, 0.997])
def test_embeddings_are_the_same_from_a_cosine_on(least: float | None) -> None:
    model = made(Embedder(unit=least is None), 9)
    data = data_of(model, 40)
    answer = answer_of(model, cosine=least)
    least = least or 0.99
    assert answer.cosine == least
    tensor = model.graph.layer("first").outputs[0]
    whole, other = decoded_answers(model, data, tensor, "int4", answer.output)
    cosines = (whole * other).sum(1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(other, axis=1)
    assert 0 < (cosines < least).mean() < 1
    found = calibrate(model, data, codecs={"int4": CODECS["int4"]}, tensors=[tensor], answer=answer)
    assert found.tensors[tensor]["int4"].drop.estimate == pytest.approx((cosines < least).mean(), abs=1.5 / 40)
    with pytest.raises(InvalidInput, match="data without labels"):
        calibrate(model, data_of(model, 4, torch.zeros(4, dtype=torch.int64)), codecs={}, answer=answer)


def test_logits_and_probabilities_are_no_embeddings() -> None:
    assert answer_of(captured("chain")).cosine is None
    sure = nn.Sequential(nn.Linear(9, 4), nn.Softmax(1))
    torch.manual_seed(0)
    nn.init.normal_(sure[0].weight, std=1e4)  # type: ignore[arg-type]
    model = capture(sure.eval(), (torch.randn(1, 9),))
    (rows,) = tensor_values(model, model.graph.outputs).values()
    assert isinstance(rows, Tensor) and abs(rows.norm() - 1) < 1e-3  # as long as a unit vector
    assert answer_of(model).cosine is None


def test_of_several_outputs_one_must_be_named() -> None:
    model = made(Detector(), 5, 6)
    with pytest.raises(InvalidInput, match=r"boxes.*--answer"):
        answer_of(model)
    answer = answer_of(model, "classes")
    assert (answer.output, answer.axis) == ("classes", 2)
    values = torch.tensor([[[0.0, 1.0, 0.0], [3.0, 1.0, 0.0]]])
    other = torch.tensor([[[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]]])
    assert answer.changes(values, other, None) == [0.5]
    with pytest.raises(InvalidInput, match="no output of the model"):
        answer_of(model, "nowhere")
    with pytest.raises(InvalidInput, match="wrap the model"):
        answer_of(model, "count")


def test_a_single_number_is_no_answer() -> None:
    with pytest.raises(InvalidInput, match="two classes or more"):
        answer_of(capture(nn.Linear(3, 1).eval(), (torch.randn(1, 3),)))


def test_parts_of_samples_count_as_parts() -> None:
    parts = drop_of([0.5, 0.25, -0.25, 0.0], list("abcd"))
    assert parts.estimate == 0.125
    assert drop_of([1.0, -1.0, 1.0, 0.0], list("abcd")) == drop_of([1, -1, 1, 0], list("abcd"))


@pytest.mark.parametrize("kind", ["classes", "map", "embedding"])
def test_sampled_gradients_are_the_curvature_of_the_divergence(kind: str, seed: int) -> None:
    """The second moment of the gradients, against the Hessian of the divergence by automatic differentiation."""
    module, shape = {
        "classes": (nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4)), (5,)),
        "map": (nn.Sequential(nn.Conv2d(2, 2, 1), nn.Tanh(), nn.Conv2d(2, 3, 1)), (2, 2, 2)),
        "embedding": (nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4)), (5,)),
    }[kind]
    model = made(module, *shape)
    answer = answer_of(model, cosine=0.9 if kind == "embedding" else None)
    tensor = model.graph.layer("0").outputs[0]
    tail = nn.Sequential(*list(module)[1:])
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(1, *model.graph.tensors[tensor].shape[1:], generator=generator)
    many = value.expand(20000, *value.shape[1:]).contiguous()
    felt = gradients(model, tensor, many, beside={}, answer=answer, seed=seed).flatten(1)
    moment = felt.T @ felt / len(felt)
    teacher = tail(value).detach()

    def divergence(given: Tensor) -> Tensor:
        said = tail(given.view_as(value))
        if kind == "embedding":
            return 1 - (nn.functional.normalize(said, dim=1) * nn.functional.normalize(teacher, dim=1)).sum()
        p, q = teacher.softmax(1), said.softmax(1)
        nats: Tensor = (p * (p / q).log()).sum(1).mean()
        return nats

    curved = torch.autograd.functional.hessian(divergence, value.flatten())
    assert isinstance(curved, Tensor)
    assert (moment - curved).norm() < 0.06 * curved.norm()
    nearby = value + 0.01
    torch.testing.assert_close(answer.divergence(teacher, tail(nearby)), divergence(nearby), rtol=1e-3, atol=1e-7)


def test_commands_judge_embeddings_maps_and_named_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases: list[tuple[nn.Module, tuple[int, ...], list[str], str]] = [
        (Embedder(unit=True), (9,), [], "first"),
        (Embedder(unit=False), (9,), ["--cosine", "0.9"], "first"),
        (Segmenter(), (3, 6, 6), [], "first"),
        (Detector(), (5, 6), ["--answer", "classes"], "body"),
    ]
    for number, (module, shape, options, cut) in enumerate(cases):
        model = made(module, *shape)
        folder = str(save(model, tmp_path / f"net{number}"))
        rows = str(tmp_path / f"rows{number}.safetensors")
        save_file({"x": torch.randn(160, *shape)}, rows)
        profile = str(tmp_path / f"{number}.json")
        assert main(["profile", folder, "-o", profile, "--repeats", "1"]) == 0
        asked = ["calibrate", folder, "--data", rows, "--profile", profile, "--codecs", "raw,int8", *options]
        assert main(asked) == 0
        found = open_profile(Path(profile)).accuracy
        assert found is not None and "judged by" in found.data
        common = [folder, "--data", rows, "--held-out", "30", *options]
        out = str(tmp_path / f"small{number}")
        assert main(["bottleneck", *common, "--cut", cut, "--step", "0.2", "--out", out]) == 0
        assert main(["check", f"{out}/transform-0.2", "--cuts", "2"]) == 0
    capsys.readouterr()
    folder, rows = str(tmp_path / "net3"), str(tmp_path / "rows3.safetensors")
    for command in (
        ["calibrate", folder, "--data", rows, "--profile", str(tmp_path / "3.json")],
        ["bottleneck", folder, "--data", rows, "--cut", "body", "--out", str(tmp_path / "none")],
        ["compress", folder, "--data", rows, "--method", "int8-weights", "--out", str(tmp_path / "none")],
    ):
        assert main(command) == 2
        assert "say which holds its answer (--answer)" in capsys.readouterr().err


class Twins(nn.Module):
    """Two rows of logits, either of which may be the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.other = nn.Linear(9, 32), nn.Linear(32, 4), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        felt = self.body(x).relu()
        return self.one(felt), self.other(felt)


def test_of_several_outputs_reports_profiles_and_recipes_say_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made(Twins(), 9)
    first, second = model.graph.outputs
    folder, rows, profile = str(save(model, tmp_path / "net")), str(tmp_path / "rows.safetensors"), tmp_path / "p.json"
    save_file({"x": torch.randn(160, 9)}, rows)
    assert main(["profile", folder, "-o", str(profile), "--repeats", "1"]) == 0
    for answer in (first, second):
        common = [folder, "--data", rows, "--answer", answer]
        for command in (
            ["calibrate", *common, "--profile", str(profile), "--codecs", "int8"],
            ["bottleneck", *common, "--cut", "body", "--step", "0.2", "--out", str(tmp_path / f"thin-{answer}")],
            ["compress", *common, "--method", "int8-weights", "--out", str(tmp_path / f"small-{answer}")],
        ):
            capsys.readouterr()
            assert main(command) == 0
            assert f"judged by '{answer}'" in capsys.readouterr().out
        found, recipe = open_profile(profile).accuracy, load(tmp_path / f"small-{answer}").recipe
        assert found is not None and found.answer == answer
        assert recipe is not None and f"judged by '{answer}'" in recipe.data


def test_compression_of_an_embedding_is_judged_by_its_cosine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made(nn.Sequential(nn.Linear(9, 64), nn.Tanh(), nn.Linear(64, 12)), 9)
    folder, rows = str(save(model, tmp_path / "net")), str(tmp_path / "rows.safetensors")
    (name,) = model.graph.inputs
    torch.manual_seed(2)
    save_file({name: torch.randn(400, 9)}, rows)
    asked = ["compress", folder, "--data", rows, "--method", "int8-weights", "--cosine", "0.9999", "--json"]
    assert main([*asked, "--out", str(tmp_path / "small")]) == 0
    recipe = json.loads(capsys.readouterr().out)["recipe"]
    version = load(tmp_path / "small")
    held_out = samples(rows, model, count=256).inputs
    one, other = (tensor_values(each, ["output"], held_out)["output"] for each in (model, version))
    assert isinstance(one, Tensor) and isinstance(other, Tensor)
    lost = (nn.functional.cosine_similarity(one, other) < 0.9999).float().mean().item()
    assert 0 < lost < 1
    assert recipe["drop"]["estimate"] == pytest.approx(lost, abs=1.5 / len(one))
    assert "a cosine of 0.9999" in recipe["data"]


def test_exits_want_one_row_of_logits_and_say_what_to_do_otherwise() -> None:
    for module, shape, said in (
        (Segmenter(), (3, 6, 6), "sends less with a bottleneck only"),
        (Embedder(unit=True), (9,), "no exit can say how sure it is"),
        (Detector(), (5, 6), "--answer"),
    ):
        model = made(module, *shape)
        data = data_of(model, 120)
        with pytest.raises(InvalidInput, match=said):
            attach_exits(model, at=[model.graph.layers[0].name], train=data, held_out=data)
