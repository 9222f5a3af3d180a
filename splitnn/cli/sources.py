"""What a user names on the command line (a model, a profile's file) as what it stands for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from splitnn.cost.profile import Profile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from splitnn.graph.model import Model

MODEL_HELP = "a name from the zoo, package.module:factory, or a folder that `splitnn pack` wrote"


def open_model(text: str) -> Model:
    """The model that a user named: from the zoo, from a factory, or from a package on disk.

    A folder that is called like a model of the zoo needs a ``./`` in front.

    Raises:
        UnknownModel: no such model, module or factory.
        CaptureError: the module cannot be exported.
        PackageError: the folder holds no complete model.
    """
    from splitnn import zoo

    if Path(text).is_dir() and text not in {entry.name for entry in zoo.models()}:
        from splitnn.graph import package

        return package.load(Path(text))
    from splitnn.graph.capture import capture

    module, example = zoo.resolve(text)
    return capture(module, example)


def open_profile(path: str | Path) -> Profile:
    """The profile in a file that ``splitnn profile`` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no profile; the message names the file.
    """
    content = Path(path).read_bytes()
    try:
        found = json.loads(content)
        if not isinstance(found, dict):
            raise ValueError(f"not a profile: a JSON {type(found).__name__}")
        return Profile.from_json(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def is_preset(text: str) -> bool:
    """Whether a host's profile is to be predicted from a preset: what looks like no file is one's name.

    Raises:
        ValueError: it looks like a preset's name, but there is none of that name; the message lists them.
    """
    if Path(text).exists() or Path(text).suffix or Path(text).name != text:
        return False
    from splitnn.cost.presets import preset

    preset(text)
    return True


def predict_profiles(
    presets: Mapping[str, str], model: Model, *, measured: Mapping[str, Profile]
) -> dict[str, Profile]:
    """Of each host, given with the preset that it is, a prediction, which takes codecs and shares from a measured one.

    Raises:
        ValueError: no such preset.
    """
    from splitnn.cost.presets import preset, preset_profile

    reference = next(iter(measured.values()), None)
    return {
        host: preset_profile(preset(name), model.graph, model=model.digest, host=host, reference=reference)
        for host, name in presets.items()
    }
