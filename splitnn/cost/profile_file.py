"""A profile on disk, as ``splitnn profile`` writes it."""

from __future__ import annotations

import json
from pathlib import Path

from splitnn.cost.profile import Profile

_MAX_BYTES = 64 * 2**20


def open_profile(path: str | Path) -> Profile:
    """The profile in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no profile; the message names the file.
    """
    with Path(path).open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError(f"not a profile: more than {_MAX_BYTES} bytes")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not a profile, for it is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"not a profile: a JSON {type(found).__name__}")
        return Profile.from_json(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_profile(path: str | Path, profile: Profile) -> None:
    """The whole file or none of it.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(path)
    part = target.with_name(target.name + ".part")
    part.write_text(json.dumps(profile.to_json(), allow_nan=False) + "\n", encoding="utf-8")
    part.replace(target)
