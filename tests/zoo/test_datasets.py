"""Data for measuring and training: in the model's shape, repeatable, and split by photo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from splitnn.errors import InvalidInput
from splitnn.graph.capture import capture
from splitnn.graph.model import Model
from splitnn.zoo import datasets
from splitnn.zoo.datasets import FASHION_MNIST, fashion_mnist, part_of, samples


class _Mean(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float().flatten(1).mean(1)


def _reading(*shape: int, dtype: torch.dtype = torch.uint8) -> Model:
    return capture(_Mean(), (torch.zeros(shape, dtype=dtype),), batch="fixed")


def _images(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (number, 0, 0)).save(folder / name)
    return folder


def test_no_photo_is_in_both_parts(tmp_path: Path) -> None:
    folder = _images(tmp_path, [f"{number}.png" for number in range(40)])
    model = _reading(1, 8, 8, 3)
    train = samples(str(folder), model, count=200, part="train")
    test = samples(str(folder), model, count=200, part="test")
    assert len(train) == len(test) == 200
    assert set(train.origins).isdisjoint(test.origins)
    assert len(set(train.origins)) + len(set(test.origins)) == 40


def test_crops_show_the_photo_that_they_are_said_to_be_of(tmp_path: Path) -> None:
    folder = _images(tmp_path, [f"{number:02d}.png" for number in range(40)])  # photo n is all of redness n
    found = samples(str(folder), _reading(1, 8, 8, 3), count=50)
    for origin, image in zip(found.origins, found.inputs["x"], strict=True):
        assert torch.equal(image[..., 0], torch.full((8, 8), int(Path(origin).stem), dtype=torch.uint8))


def test_same_samples_every_time_and_others_for_another_seed() -> None:
    model = _reading(1, 16, 16, 3)
    first, again, other = (samples("photos", model, count=6, part="train", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.inputs["x"], again.inputs["x"])
    assert not torch.equal(first.inputs["x"], other.inputs["x"])


def test_bytes_become_what_the_model_reads() -> None:
    as_bytes = samples("photos", _reading(1, 16, 16, 3), count=2).inputs["x"]
    as_floats = samples("photos", _reading(1, 3, 16, 16, dtype=torch.float32), count=2).inputs["x"]
    assert torch.equal(as_floats, as_bytes.permute(0, 3, 1, 2) / 255)


def test_folders_named_by_numbers_are_labels(tmp_path: Path) -> None:
    folder = _images(tmp_path, [f"{label}/{number}.png" for label in (3, 7) for number in range(20)])
    found = samples(str(folder), _reading(1, 8, 8, 3), count=100)
    assert found.labels is not None
    assert found.labels.tolist() == [int(origin.partition("/")[0]) for origin in found.origins]
    assert len(found) == len(set(found.origins))  # each image once


def test_few_rows_of_a_file_sorted_by_label_are_of_all_labels(tmp_path: Path) -> None:
    labels = torch.arange(10).repeat_interleave(400)
    save_file({"x": torch.zeros(4000, 1, 1), "labels": labels}, tmp_path / "sorted.safetensors")
    model = _reading(1, 1, 1, dtype=torch.float32)
    first, again, other = (
        samples(str(tmp_path / "sorted.safetensors"), model, count=200, seed=seed) for seed in (0, 0, 5)
    )
    assert first.labels is not None
    assert min(torch.bincount(first.labels, minlength=10)) >= 5
    assert first.origins == again.origins
    assert set(first.origins) != set(other.origins)


def test_rows_of_a_file_keep_their_labels(tmp_path: Path) -> None:
    rows = torch.arange(100)
    save_file({"x": rows.view(100, 1, 1).float().contiguous(), "labels": rows}, tmp_path / "rows.safetensors")
    model = _reading(1, 1, 1, dtype=torch.float32)
    parts = [samples(str(tmp_path / "rows.safetensors"), model, count=100, part=part) for part in ("train", "test")]
    for part in parts:
        assert part.labels is not None
        assert torch.equal(part.inputs["x"].flatten().long(), part.labels)
    assert sorted(label for part in parts for label in part.labels.tolist()) == list(range(100))  # type: ignore[union-attr]


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_keeps_each_label_with_its_image() -> None:
    images, digits = fashion_mnist("test")
    assert images.shape == (10_000, 28, 28)
    assert torch.equal(digits.bincount(), torch.full((10,), 1000))
    found = samples("fashion-mnist", _reading(1, 1, 28, 28), count=500, seed=3)
    assert found.labels is not None
    rows = [int(origin.split()[1]) for origin in found.origins]
    assert torch.equal(found.inputs["x"][:, 0], images[rows])
    assert torch.equal(found.labels, digits[rows])


def test_missing_fashion_mnist_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "FASHION_MNIST", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist("train")


@pytest.mark.parametrize(
    ("shape", "source", "said"),
    [((1, 5), "photos", "holds colour images"), ((1, 32, 32), "fashion-mnist", r"bytes \(28, 28\)")],
)
def test_model_that_reads_something_else_is_told_both_shapes(shape: tuple[int, ...], source: str, said: str) -> None:
    if source == "fashion-mnist" and not FASHION_MNIST.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    with pytest.raises(InvalidInput, match=said):
        samples(source, _reading(*shape), count=1)


def test_bad_sources_are_named(tmp_path: Path) -> None:
    model = _reading(1, 8, 8, 3)
    with pytest.raises(FileNotFoundError, match="names are photos, fashion-mnist"):
        samples("imagenet", model, count=1)
    with pytest.raises(InvalidInput, match="holds no image"):
        samples(str(tmp_path), model, count=1)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InvalidInput, match=r"broken.png is no image|none of its 1 images"):
        samples(str(tmp_path), model, count=1, part=part_of("broken.png"))
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="no safetensors file"):
        samples(str(tmp_path / "broken.safetensors"), model, count=1)
    with pytest.raises(ValueError, match="take fewer"):
        samples("photos", model, count=10**9)
    with pytest.raises(ValueError, match="at least one sample"):
        samples("photos", model, count=0)


@pytest.mark.parametrize("labels", [torch.arange(100) + 0.5, torch.zeros(100, dtype=torch.bool)])
def test_labels_of_a_file_that_are_no_whole_numbers_are_refused(tmp_path: Path, labels: torch.Tensor) -> None:
    save_file({"x": torch.zeros(100, 1, 1), "labels": labels}, tmp_path / "rows.safetensors")
    with pytest.raises(InvalidInput, match="labels are whole numbers"):
        samples(str(tmp_path / "rows.safetensors"), _reading(1, 1, 1, dtype=torch.float32), count=10)
