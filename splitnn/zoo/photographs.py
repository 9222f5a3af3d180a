"""Real photos out of installed packages, cut to the square that a model takes, and the names of what they show."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CENTRE = 0.85  # of the short side: the crop that the labels were checked with
_SOURCES = {
    "coffee": "skimage.data:coffee",
    "chelsea": "skimage.data:chelsea",
    "motorcycle": "skimage.data:stereo_motorcycle",
    "china": "sklearn.datasets:china.jpg",
    "flower": "sklearn.datasets:flower.jpg",
}


def photo_names() -> list[str]:
    """The photos' names, without opening any."""
    return list(_SOURCES)


def photos(side: int = 224) -> dict[str, NDArray[np.uint8]]:
    """The photos by name: the centre of each, resized (bicubic) to (side, side, 3), RGB.

    Raises:
        ModuleNotFoundError: scikit-image or scikit-learn is not installed; the message says how to.
    """
    return {name: photo(name, side) for name in _SOURCES}


def photo(name: str, side: int) -> NDArray[np.uint8]:
    """One of the photos: (side, side, 3), RGB."""
    import numpy as np
    from PIL import Image

    module_name, _, item = _SOURCES[name].partition(":")
    module = _import_or_say_how(module_name)
    if module_name == "sklearn.datasets":
        pixels = module.load_sample_image(item)
    elif name == "motorcycle":
        pixels = module.stereo_motorcycle()[0]  # the left one of a stereo pair
    else:
        pixels = getattr(module, item)()
    height, width = pixels.shape[:2]
    half = min(height, width) * _CENTRE / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.array(image, dtype=np.uint8)


def labels() -> list[str]:
    """The names of ImageNet's 1000 categories, in the order of the logits.

    Raises:
        ModuleNotFoundError: torchvision is not installed; the message says how to.
    """
    from splitnn.zoo.vision import import_torchvision

    import_torchvision()
    return list(_import_or_say_how("torchvision.models._meta")._IMAGENET_CATEGORIES)


def _import_or_say_how(module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        message = f'{error.name} is not installed: pip install "splitnn[models]"'
        raise ModuleNotFoundError(message, name=error.name) from error
