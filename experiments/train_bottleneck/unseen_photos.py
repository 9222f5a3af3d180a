"""Photos that a bottleneck was not trained on, from more packages than those that it was trained on."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator
from pathlib import Path

from splitnn.zoo.pictures import installed_photos

INSTALL = (
    'pip install "splitnn[samples]" matplotlib; '
    "apt-get install lomiri-wallpapers-16.04 mate-backgrounds plasma-workspace-wallpapers"
)
ENOUGH = 30  # photos, for an interval that is worth having

_WHEELS = {
    "skimage": (
        "data",
        (
            "brick.png", "camera.png", "clock_motion.png", "coins.png", "grass.png", "gravel.png",
            "hubble_deep_field.jpg", "moon.png", "retina.jpg",
        ),
    ),
    "matplotlib": ("mpl-data/sample_data", ("grace_hopper.jpg",)),
}  # fmt: skip
_PLASMA = Path("/usr/share/wallpapers")
_PLASMA_PHOTOS = (
    "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "Kite",
    "OneStandsOut", "Path", "summer_1am",
)  # fmt: skip


def unseen_photos(trained_on: Collection[str]) -> dict[str, Path]:
    """Installed photos by file name, without those; the wallpapers of Plasma, and pictures in wheels, are among them.

    Raises:
        FileNotFoundError: there are none; the message says what to install.
    """
    try:
        found = installed_photos()
    except FileNotFoundError:
        found = {}
    found |= {path.name: path for path in _in_wheels()}
    for name in _PLASMA_PHOTOS:
        # the packager's reduced copies beside the original differ by release
        sizes = [path for path in (_PLASMA / name).glob("contents/images/*x*.jpg") if path.is_file()]
        if sizes:
            found[f"{name}.jpg"] = max(sizes, key=_width)
    unseen = {name: path for name, path in found.items() if name not in trained_on}
    if not unseen:
        raise FileNotFoundError(f"no photo is installed that nothing was trained on: {INSTALL}")
    return unseen


def _in_wheels() -> Iterator[Path]:
    for package, (folder, names) in _WHEELS.items():
        spec = importlib.util.find_spec(package)
        for root in [] if spec is None else spec.submodule_search_locations or ():
            yield from (path for name in names if (path := Path(root) / folder / name).is_file())


def _width(path: Path) -> int:
    width = path.stem.partition("x")[0]
    return int(width) if width.isdecimal() else 0
