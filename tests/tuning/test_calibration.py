"""Calibration against the whole model by hand, its intervals against simulation, and data that do not fit."""

from __future__ import annotations

import json
import random
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from splitnn import zoo
from splitnn.cli.main import main
from splitnn.cost.accuracy import Calibration
from splitnn.cost.profile import Profile, Timing
from splitnn.cost.profile_file import open_profile, write_profile
from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.extract import extract
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.graph.package import save
from splitnn.graph.recipe import NO_DROP
from splitnn.transport.codec import CODECS
from splitnn.tuning.answers import Answer, answer_of
from splitnn.tuning.calibration import calibrate, candidates
from splitnn.tuning.drops import drop_of
from splitnn.tuning.evaluation import check_data
from splitnn.zoo.datasets import samples
from tests.models import captured, captured_real


@dataclass(frozen=True)
class Data:
    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor | None
    origins: tuple[str, ...]
    source: str = "made up"


def noise(model: Model, count: int, *, labels: torch.Tensor | None = None) -> Data:
    generator = torch.Generator().manual_seed(7)
    inputs = {
        name: torch.randn(count, *model.graph.tensors[name].shape[1:], generator=generator)
        for name in model.graph.inputs
    }
    return Data(inputs, labels, tuple(f"sample {i}" for i in range(count)))


def test_drop_of_a_codec_is_what_the_rest_of_the_model_says_on_the_decoded_tensor() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 10 * 10, 10))
    model = capture(net.eval(), (torch.randn(1, 3, 12, 12),))
    data = noise(model, 50)
    tensor, (read,), (answer,) = model.graph.layer("1").outputs[0], model.graph.inputs, model.graph.outputs
    found = calibrate(
        model, data, codecs={name: CODECS[name] for name in ("raw", "int8", "int2")}, tensors=[tensor]
    ).tensors[tensor]

    def head(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = tensor_values(model, [tensor, answer], {read: x})
        assert isinstance(values[tensor], torch.Tensor)
        return values[tensor], values[answer]  # type: ignore[return-value]

    tail = extract(model, (tensor,), (answer,))
    value, whole = head(data.inputs[read])
    for name in ("int8", "int2"):
        payloads = [CODECS[name].encode(value[i : i + 1]) for i in range(50)]
        decoded = [CODECS[name].decode(payload, (1, *value.shape[1:]), "float32") for payload in payloads]
        again = tail(torch.cat(decoded))[0]
        assert found[name].drop.estimate == int((again.argmax(1) != whole.argmax(1)).sum()) / 50
        assert found[name].median_bytes == statistics.median_low(len(payload) for payload in payloads)
    assert found["int2"].drop.estimate > 0, "a codec that costs nothing tests nothing"
    assert found["raw"].drop == NO_DROP


def test_labels_judge_both_and_gains_count_against_losses() -> None:
    whole = torch.eye(4)[[0, 1, 2, 3, 0, 1]]
    other = torch.eye(4)[[0, 1, 2, 0, 1, 2]]
    answer = Answer("logits")
    assert answer.changes(whole, other, None) == [0, 0, 0, 1, 1, 1]
    assert answer.changes(whole, other, torch.tensor([0, 1, 3, 3, 1, 3])) == [0, 0, 0, 1, -1, 0]


def test_interval_holds_the_truth_in_nineteen_of_twenty_draws_even_when_crops_change_together(seed: int) -> None:
    rng = random.Random(seed)
    for photos, crops in ((300, 1), (40, 10)):
        held = 0
        for _ in range(300):
            changed, origins = [], []
            for photo in range(photos):
                share = rng.choice((0.0, 0.2)) if crops > 1 else 0.1  # the truth is 0.1 either way
                changed += [int(rng.random() < share) for _ in range(crops)]
                origins += [f"{photo}"] * crops
            drop = drop_of(changed, origins)
            held += drop.low <= 0.1 <= drop.high
        assert held >= 0.89 * 300, (photos, held)  # four standard deviations below 0.943, as measured


def test_no_change_among_few_samples_is_no_proof_of_none() -> None:
    few, many = (drop_of([0] * count, [str(i) for i in range(count)]) for count in (20, 2000))
    assert few.estimate == many.estimate == 0
    assert few.high > 0.05 and 0 < many.high < 0.002


def test_candidates_suffice_alone_and_shrink() -> None:
    model = captured("chain")
    found = candidates(model, answer_of(model))
    sizes = [model.graph.tensors[tensor].size_bytes for tensor in found]
    assert found[0] == "x" and sizes == sorted(sizes, reverse=True)
    for tensor in found:
        model.program.needed((tensor,), model.graph.outputs)
    assert len(candidates(model, answer_of(model), most=2)) == 2


def test_tensors_that_are_read_beside_an_input_are_measured_with_it_as_it_was() -> None:
    """A mask of tokens is read by every block: the codec alone may change what the last one answers."""
    model = captured_real("bert_l6")
    ids = torch.randint(1000, 30000, (12, 16), generator=torch.Generator().manual_seed(3))
    mask = (torch.arange(16) < torch.arange(5, 17)[:, None]).long()
    data = Data(dict(zip(model.graph.inputs, (ids, mask), strict=True)), None, tuple(map(str, range(12))))
    found = candidates(model, answer_of(model))
    assert len(found) > 2
    shapes = {model.graph.tensors[tensor].shape for tensor in found}
    assert (1, 16, 384) in shapes and shapes <= {(1, 16, 384), (1, 384)}  # no mask, and no scores of attention
    tensor = model.graph.layer("layers.2.outer_norm").outputs[0]
    module, _ = zoo.load("bert_l6")
    cosines = []
    for row in range(12):
        x = {name: each[row : row + 1] for name, each in data.inputs.items()}
        value = tensor_values(model, [tensor], x)[tensor]
        assert isinstance(value, torch.Tensor)
        decoded = CODECS["int3"].decode(CODECS["int3"].encode(value), tuple(value.shape), "float32", value.stride())
        with torch.no_grad():
            weight = x[model.graph.inputs[1]].float()
            bias = (1 - weight)[:, None, None, :] * torch.finfo(torch.float32).min
            y = decoded
            for block in list(module.layers)[3:]:  # type: ignore[arg-type]
                y = block(y, bias)
            mean = (y * weight[:, :, None]).sum(1)
            whole = module(*x.values())
        cosines.append(float(nn.functional.cosine_similarity(mean, whole)))
    between = sum(sorted(cosines)[5:7]) / 2
    answer = answer_of(model, cosine=between)
    measured = calibrate(model, data, codecs={"int3": CODECS["int3"]}, tensors=[tensor], answer=answer)
    assert measured.tensors[tensor]["int3"].drop.estimate == pytest.approx(0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": {"y": torch.zeros(5, 3, 12, 12)}},
        {"inputs": {"x": torch.zeros(5, 3, 12, 13)}},
        {"inputs": {"x": torch.zeros(5, 3, 12, 12, dtype=torch.float64)}},
        {"inputs": {"x": torch.zeros(4, 3, 12, 12)}},
        {"inputs": {"x": torch.zeros(0, 3, 12, 12)}, "origins": ()},
    ],
)
def test_data_of_another_shape_are_refused(change: dict[str, object]) -> None:
    model = captured("chain")
    values: dict[str, object] = {
        "inputs": {"x": torch.zeros(5, 3, 12, 12)}, "labels": None, "origins": tuple("abcde"), **change
    }  # fmt: skip
    with pytest.raises(InvalidInput, match="made up"):
        calibrate(model, Data(**values), codecs=dict(CODECS))  # type: ignore[arg-type]


def test_command_writes_the_calibration_and_its_sizes_into_the_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = captured("chain")
    package = str(save(model, tmp_path / "chain"))
    profile, data = tmp_path / "device.json", tmp_path / "data.safetensors"
    save_file({"x": torch.randn(200, 3, 12, 12)}, data)
    assert main(["profile", package, "-o", str(profile), "--repeats", "1"]) == 0
    command = ["calibrate", package, "--profile", str(profile)]
    assert main([*command, "--data", str(data), "--codecs", "raw,int8", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = open_profile(profile)
    assert found.accuracy == Calibration.from_json(printed)
    assert found.accuracy is not None and printed["digest"] == model.digest
    tensor = next(name for name in found.accuracy.tensors if name != "x")
    assert found.codecs[tensor]["int8"].size_bytes == found.accuracy.tensors[tensor]["int8"].median_bytes

    for wrong, said in (
        (["--data", str(tmp_path / "absent")], "no such folder or file"),
        (["--data", str(data), "--codecs", "int99"], "no codec is called 'int99'"),
        (["--data", str(data), "--tensors", "nowhere"], "no tensor 'nowhere'"),
        (["--data", "fashion-mnist"], "reads"),
    ):
        assert main([*command, *wrong]) == 2
        assert said in capsys.readouterr().err


def test_codecs_that_refuse_the_values_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = captured("chain")
    package = str(save(model, tmp_path / "chain"))
    profile, data = tmp_path / "device.json", tmp_path / "data.safetensors"
    save_file({"x": torch.full((60, 3, 12, 12), 1e6)}, data)  # beyond float16
    assert main(["profile", package, "-o", str(profile), "--repeats", "1"]) == 0
    capsys.readouterr()
    assert main(["calibrate", package, "--profile", str(profile), "--data", str(data), "--codecs", "raw,fp16",
                 "--tensors", "x"]) == 0  # fmt: skip
    said = capsys.readouterr().err
    assert "x: fp16 could not encode its values here" in said
    assert "fp16 holds finite values up to 65504 only" in said
    assert list(Calibration.from_json(open_profile(profile).accuracy.to_json()).tensors["x"]) == ["raw"]  # type: ignore[union-attr]


@pytest.mark.parametrize("row", [299, 3])  # of the 300 most are drawn by no command here
@pytest.mark.parametrize("command", ["calibrate", "bottleneck", "compress", "exits"])
def test_a_row_that_is_nan_is_refused_by_its_number_in_the_file_drawn_or_not(
    row: int, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = captured("chain")
    package, profile, out = str(save(model, tmp_path / "chain")), tmp_path / "device.json", str(tmp_path / "out")
    layers = {layer.name: Timing(1, 1) for layer in model.graph.layers}
    write_profile(profile, Profile(model.digest, "device", layers, Timing(1, 1)))
    rows = torch.randn(300, 3, 12, 12)
    rows[row, 0, 0, 0] = torch.nan
    save_file({"x": rows}, tmp_path / "data.safetensors")
    layer = model.graph.layers[0].name
    options = {
        "calibrate": ["--profile", str(profile), "--codecs", "raw", "--count", "5"],
        "bottleneck": ["--cut", layer, "--count", "5", "--held-out", "5", "--out", out],
        "compress": ["--method", "int8-weights", "--samples", "5", "--held-out", "5", "--out", out],
        "exits": ["--at", layer, "--train-samples", "5", "--samples", "5", "--out", out],
    }[command]
    assert main([command, package, "--data", str(tmp_path / "data.safetensors"), *options]) == 2
    assert f"'x' holds NaN (sample {row})" in capsys.readouterr().err


def test_samples_of_a_file_are_named_by_their_rows_after_shuffling(tmp_path: Path) -> None:
    model, path = captured("chain"), tmp_path / "data.safetensors"
    rows = torch.randn(300, 3, 12, 12)
    rows[:, 0, 0, 0] = torch.arange(300.0)
    save_file({"x": rows}, path)
    data = samples(str(path), model, count=40)
    row = int(data.inputs["x"][20, 0, 0, 0])
    assert row != 20
    data.inputs["x"][20] = torch.inf  # which the model makes NaN of, in its second batch
    with pytest.raises(InvalidInput, match=rf"what the model answers holds NaN \(sample {row}\)"):
        calibrate(model, data, codecs={"raw": CODECS["raw"]})
    data.inputs["x"][20] = torch.nan
    with pytest.raises(InvalidInput, match=rf"'x' holds NaN \(sample {row}\)"):
        check_data(model, data)


def test_models_that_answer_nan_are_refused() -> None:
    model = captured("chain")
    data = noise(model, 4)
    data.inputs["x"][2] = torch.inf
    with pytest.raises(InvalidInput, match="holds NaN"):
        calibrate(model, data, codecs={"raw": CODECS["raw"]})
