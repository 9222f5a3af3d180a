"""Photos on this machine, found by name, and crops of them. The photos stay where their packages put them."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from splitnn.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image

_WHEELS = {
    "skimage": ("data", ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}
_BACKGROUNDS = Path("/usr/share/backgrounds")
_NATURAL = ("*_by_*.jpg", "mate/nature/*.jpg")  # lomiri-wallpapers-16.04, mate-backgrounds; the others are drawings
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_SHORT_SIDE = 1024  # photos are kept no larger than this while they are cropped
_LEAST, _MOST = 0.35, 1.0  # of the short side: the side of a crop
_MAX_PIXELS = 100_000_000


def installed_photos() -> dict[str, Path]:
    """Photographs in installed packages, by file name.

    Raises:
        FileNotFoundError: there are none.
    """
    found = {path.name: path for path in _in_wheels()}
    for pattern in _NATURAL:
        found |= {path.name: path for path in sorted(_BACKGROUNDS.glob(pattern)) if path.is_file()}
    if not found:
        raise FileNotFoundError(
            'no photo is installed: pip install "splitnn[samples]", '
            "and for more of them apt-get install lomiri-wallpapers-16.04 mate-backgrounds"
        )
    return found


def _in_wheels() -> Iterator[Path]:
    for package, (folder, names) in _WHEELS.items():
        spec = importlib.util.find_spec(package)
        for root in [] if spec is None else spec.submodule_search_locations or ():
            yield from (path for name in names if (path := Path(root) / folder / name).is_file())


def image_files(folder: Path) -> dict[str, Path]:
    """The images under a folder, by path within it.

    Raises:
        InvalidInput: there are none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not paths:
        raise InvalidInput(f"{folder} holds no image ({', '.join(sorted(_SUFFIXES))})")
    return {path.relative_to(folder).as_posix(): path for path in paths}


def crops(
    found: Mapping[str, Path], *, height: int, width: int, count: int, seed: int
) -> tuple[list[str], torch.Tensor]:
    """Random crops, as many of each photo, half of them mirrored: whose each is, and uint8 (count, height, width, 3).

    A crop has the shape that is asked for, and 35 to 100 % of the largest size that fits into its photo.

    Raises:
        InvalidInput: a file is no image.
    """
    from PIL.Image import Resampling, Transpose

    rng = random.Random(seed)
    keys = sorted(found)
    rng.shuffle(keys)
    origins = [keys[number % len(keys)] for number in range(count)]
    pixels = torch.empty(count, height, width, 3, dtype=torch.uint8)
    for key in dict.fromkeys(origins):
        photo = _opened(found[key], short_side=_SHORT_SIDE)
        for number in (number for number, origin in enumerate(origins) if origin == key):
            scale = min(photo.width / width, photo.height / height) * rng.uniform(_LEAST, _MOST)
            left, top = rng.uniform(0, photo.width - width * scale), rng.uniform(0, photo.height - height * scale)
            box = (left, top, left + width * scale, top + height * scale)
            crop = photo.resize((width, height), Resampling.BICUBIC, box=box)
            pixels[number] = _bytes(crop.transpose(Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop)
    return origins, pixels


def whole_images(paths: Sequence[Path], *, height: int, width: int) -> torch.Tensor:
    """The largest centred piece of each image that has the shape, resized: uint8 (N, height, width, 3).

    Raises:
        InvalidInput: a file is no image.
    """
    from PIL.Image import Resampling

    found = torch.empty(len(paths), height, width, 3, dtype=torch.uint8)
    for number, path in enumerate(paths):
        image = _opened(path, short_side=max(height, width))
        scale = min(image.width / width, image.height / height)
        left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
        box = (left, top, left + width * scale, top + height * scale)
        found[number] = _bytes(image.resize((width, height), Resampling.BICUBIC, box=box))
    return found


def _opened(path: Path, *, short_side: int) -> Image:
    """The image in RGB, its short side at most twice ``short_side``."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            if file.width * file.height > _MAX_PIXELS:
                raise InvalidInput(f"{path} has {file.width}x{file.height} pixels, more than {_MAX_PIXELS}")
            file.draft("RGB", (short_side, short_side))  # a JPEG is decoded at a half, a quarter or an eighth
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise InvalidInput(f"{path} is no image: {error}") from error
    shrink = min(image.width, image.height) // short_side
    return image.reduce(shrink) if shrink > 1 else image


def _bytes(image: Image) -> torch.Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3)
