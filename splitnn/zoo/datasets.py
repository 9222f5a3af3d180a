"""Data to measure and to train on, in the shape that a model reads, split into a part to train on and one to judge by.

A source is written as a user writes it after ``--data``:

photos          random crops of the photos that are installed: those in scikit-image and scikit-learn, and those of
                Debian's ``lomiri-wallpapers-16.04`` and ``mate-backgrounds``. No labels.
fashion-mnist   Debian's ``dataset-fashion-mnist``: 60,000 to train on, 10,000 to judge by, with labels.
DIR             a folder of images, searched to the bottom. Where every image lies in a folder whose name is a whole
                number, that number is its label and each image is one sample; else random crops are taken.
FILE            a ``.safetensors`` file that holds every input of the model by name, with the samples along the first
                dimension, and ``labels`` (int64) if there are any. Works for every model.

Whole photos go to one part: crops of a photo that was trained on would flatter what is judged by them. A quarter of the
photos, and of the rows of a file, is for judging.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from splitnn.errors import InvalidInput
from splitnn.zoo.pictures import crops, image_files, installed_photos, whole_images

if TYPE_CHECKING:
    from splitnn.graph.graph import TensorSpec
    from splitnn.graph.model import Model

Part = Literal["train", "test"]
_Key = TypeVar("_Key", str, int)

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts it."""

MAX_BYTES = 4 * 2**30
"""Samples that would need more memory than this are refused."""

_TEST_SHARE = 4  # one photo (or row of a file) in so many is for judging


@dataclass(frozen=True)
class Samples:
    """Samples for one model, stacked along the first dimension of each of its inputs."""

    inputs: Mapping[str, torch.Tensor]  # by input name, each (N, ...)
    labels: torch.Tensor | None  # int64 (N,), of maps (N, H, W); None where the source has none
    origins: tuple[
        str, ...
    ]  # of each sample the photo or row that it is of: those of one origin are no independent draws
    source: str

    def __len__(self) -> int:
        return len(self.origins)

    def batch(self, start: int, size: int = 1) -> dict[str, torch.Tensor]:
        """The inputs of ``size`` samples from ``start`` on (fewer at the end)."""
        return {name: tensor[start : start + size] for name, tensor in self.inputs.items()}


def samples(source: str, model: Model, *, count: int, part: Part = "test", seed: int = 0) -> Samples:
    """At most ``count`` samples of one part of a source, as the model reads them; the same ones every time.

    Crops can be had in any number; a source that holds fewer samples than ``count`` gives all that it has. Pixels go
    as bytes to a model that reads uint8, and as 0 to 1 to one that reads floats (which then is not normalised).

    Raises:
        InvalidInput: the model does not read what the source holds; the message says both shapes.
        FileNotFoundError: the source is neither a name nor a path, or its package is not installed; says what to do.
        ValueError: ``count`` is below 1, or asks for more than ``MAX_BYTES``.
    """
    if count < 1:
        raise ValueError(f"at least one sample, not {count}")
    specs = {name: model.graph.tensors[name] for name in model.graph.inputs}
    a_sample_bytes = sum(spec.size_bytes for spec in specs.values()) // model.graph.batch
    if count * a_sample_bytes > MAX_BYTES:
        raise ValueError(f"{count} samples of {a_sample_bytes} bytes are more than {MAX_BYTES} bytes; take fewer")
    if Path(source).is_file():
        return _from_file(Path(source), specs, count=count, part=part, seed=seed)
    name, spec = _only_input(source, specs)
    if source == "fashion-mnist":
        images, digits = fashion_mnist(part)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
        rows = tuple(f"{part} {number}" for number in order.tolist())
        return Samples({name: _as_input(images[order], source, name, spec)}, digits[order], rows, source)
    if source != "photos" and not Path(source).is_dir():
        raise FileNotFoundError(
            f"--data {source}: no such folder or file, and no name; names are photos, fashion-mnist"
        )
    height, width = _picture_size(source, name, spec)
    folder = None if source == "photos" else Path(source)
    found = installed_photos() if folder is None else image_files(folder)
    chosen = {key: photo for key, photo in found.items() if part_of(key) == part}
    if not chosen:
        raise InvalidInput(f"{source}: none of its {len(found)} images falls into the part {part!r}; give more images")
    classes = None if folder is None else _classes(chosen)
    if classes is not None:
        keys = _shuffled(list(chosen), seed)[:count]
        pixels = whole_images([chosen[key] for key in keys], height=height, width=width)
        found_labels = torch.tensor([classes[key] for key in keys])
    else:
        keys, pixels = crops(chosen, height=height, width=width, count=count, seed=seed)
        found_labels = None
    return Samples({name: _as_input(pixels, source, name, spec)}, found_labels, tuple(keys), source)


def part_of(origin: str) -> Part:
    """The part that a photo (or a row) belongs to by its name alone: it stays there whatever else is installed."""
    return "test" if hashlib.sha256(origin.encode()).digest()[0] % _TEST_SHARE == 0 else "train"


def fashion_mnist(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (N, 28, 28) and labels int64 (N,): 60,000 to train on or 10,000 to judge by, in their own order.

    Raises:
        FileNotFoundError: Debian's package is not installed.
    """
    stem = "train" if part == "train" else "t10k"
    try:
        images = gzip.decompress((FASHION_MNIST / f"{stem}-images-idx3-ubyte.gz").read_bytes())
        digits = gzip.decompress((FASHION_MNIST / f"{stem}-labels-idx1-ubyte.gz").read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError("Fashion-MNIST is not installed: apt-get install dataset-fashion-mnist") from error
    pixels = torch.frombuffer(bytearray(images), dtype=torch.uint8, offset=16).view(-1, 28, 28)
    return pixels, torch.frombuffer(bytearray(digits), dtype=torch.uint8, offset=8).long()


def _only_input(source: str, specs: Mapping[str, TensorSpec]) -> tuple[str, TensorSpec]:
    if len(specs) != 1:
        raise InvalidInput(
            f"{source} holds images, and the model reads {_read(specs)}; give a .safetensors file with those names"
        )
    return next(iter(specs.items()))


def _picture_size(source: str, name: str, spec: TensorSpec) -> tuple[int, int]:
    """Height and width of the colour image that the model reads, channels last (bytes) or first (either)."""
    if len(spec.shape) == 4 and spec.dtype in ("uint8", "float32"):
        if spec.shape[3] == 3:
            return spec.shape[1], spec.shape[2]
        if spec.shape[1] == 3:
            return spec.shape[2], spec.shape[3]
    raise InvalidInput(
        f"{source} holds colour images, (N, H, W, 3) or (N, 3, H, W); the model reads {_read({name: spec})}: "
        "give a .safetensors file"
    )


def _as_input(pixels: torch.Tensor, source: str, name: str, spec: TensorSpec) -> torch.Tensor:
    """Bytes (N, H, W) or (N, H, W, 3) as the model reads them."""
    wanted = spec.shape[1:]
    forms = [pixels, pixels[:, None], pixels[..., None]] if pixels.dim() == 3 else [pixels, pixels.permute(0, 3, 1, 2)]
    shapes = {tuple(form.shape[1:]): form for form in forms}
    if wanted not in shapes or spec.dtype not in ("uint8", "float32"):
        raise InvalidInput(
            f"{source} holds bytes {tuple(pixels.shape[1:])} a sample; the model reads {_read({name: spec})}"
        )
    fitting = shapes[wanted].contiguous()
    return fitting if spec.dtype == "uint8" else fitting.float() / 255


def _from_file(path: Path, specs: Mapping[str, TensorSpec], *, count: int, part: Part, seed: int) -> Samples:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if missing := sorted(specs.keys() - names):
                raise InvalidInput(f"{path} has no tensor {missing[0]!r}; the model reads {_read(specs)}")
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in (*specs, *(names & {"labels"}))}
            if len({shape[:1] for shape in shapes.values()}) != 1 or not all(shapes.values()):
                raise InvalidInput(f"{path}: the samples lie along the first dimension of all tensors, not {shapes}")
            for name, spec in specs.items():
                if shapes[name][1:] != spec.shape[1:]:
                    raise InvalidInput(f"{path}: {name!r} is {shapes[name]}; the model reads {_read(specs)}")
            total = next(iter(shapes.values()))[0]
            rows = [row for row in range(total) if part_of(f"{path.name} {row}") == part]
            rows = _shuffled(rows, seed)[:count]  # files are often sorted by label
            if not rows:
                raise InvalidInput(f"{path}: none of its {total} rows falls into the part {part!r}; give more rows")
            inputs = {name: file.get_tensor(name)[rows] for name in specs}
            found_labels = _labels(file.get_tensor("labels"), path)[rows] if "labels" in names else None
    except SafetensorError as error:
        raise InvalidInput(f"{path} is no safetensors file: {error}") from error
    for name, spec in specs.items():
        if str(inputs[name].dtype).removeprefix("torch.") != spec.dtype:
            raise InvalidInput(f"{path}: {name!r} is {inputs[name].dtype}; the model reads {_read(specs)}")
    return Samples(inputs, found_labels, tuple(f"{path.name} {row}" for row in rows), str(path))


def _labels(found: torch.Tensor, path: Path) -> torch.Tensor:
    """As int64 (N, ...). Raises InvalidInput: they are no whole numbers, or not along samples."""
    if found.dim() < 1 or found.dtype == torch.bool or found.is_floating_point() or found.is_complex():
        raise InvalidInput(
            f"{path}: labels are whole numbers, (N,) or one a place of a map, not {found.dtype} {tuple(found.shape)}"
        )
    return found.long()


def _classes(found: Mapping[str, Path]) -> dict[str, int] | None:
    """The label of each image by its folder's name; None unless every folder is named by a whole number."""
    folders = {key: path.parent.name for key, path in found.items()}
    return {key: int(name) for key, name in folders.items()} if all(n.isdecimal() for n in folders.values()) else None


def _shuffled(keys: Sequence[_Key], seed: int) -> list[_Key]:
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed))
    return [keys[number] for number in order.tolist()]


def _read(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{name!r} {spec.dtype} {spec.shape}" for name, spec in specs.items())
