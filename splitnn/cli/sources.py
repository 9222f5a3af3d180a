"""What a user names on the command line (a model, a profile's file) as what it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from splitnn.cost.profile_file import open_profile as open_profile
from splitnn.zoo.sources import open_model as open_model

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from splitnn.cost.profile import Profile
    from splitnn.graph.model import Model

MODEL_HELP = "a name from the zoo, package.module:factory, or a folder that `splitnn pack` wrote"

ANSWER_HELP = "the output that MODEL is judged by, if it has several"
COSINE_HELP = "it is an embedding: answers are the same from this cosine on (default .99 where rows have length 1)"


def open_profiles(files: Mapping[str, str], *, hosts: Collection[str]) -> dict[str, Profile]:
    """The profiles of hosts from the file of each; ``hosts`` are all of the plan.

    One that was measured under a name that no host has may stand for any.

    Raises:
        OSError, ValueError: a file that holds no profile, or that of another of these hosts.
    """
    found = {host: open_profile(file) for host, file in files.items()}
    for host, profile in found.items():
        if profile.host != host and profile.host in hosts:
            raise ValueError(
                f"{files[host]} was given for {host} but is a profile of {profile.host}: exchange the files, or "
                f"measure that host under its own name (`splitnn profile --host {host}`)"
            )
    return found


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
