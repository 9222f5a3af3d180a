"""Which models to serve, and how each comes into memory: from a folder of packages, or captured from the zoo."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from splitnn.cost.profile import Profile
from splitnn.cost.profile_file import open_profile
from splitnn.errors import PackageError, ProfileMismatch
from splitnn.graph.model import Model
from splitnn.graph.package import is_package, load
from splitnn.runtime.engines.serving import check_engine
from splitnn.zoo.sources import capture_model

_log = logging.getLogger(__name__)
_VERSION = re.compile("[1-9][0-9]{0,17}")
_PROFILE = "profile.json"


@dataclass(frozen=True)
class Loaded:
    """One version of a model in memory, with the speed of this machine where that is known."""

    name: str
    version: str
    model: Model
    profile: Profile | None = None


def load_models(models: str, profiles: Sequence[str] = (), *, engine: str = "torch") -> list[Loaded]:
    """Everything that ``models`` names now. A package that is broken is logged and left out; the others are served.

    The folder is read once: a package that is completed later waits for the next start of the server.

    ``profiles`` are files; one beside a package (``profile.json``) is read where none of them fits.

    Raises:
        PackageError: the folder holds no package that can be served.
        UnknownModel, CaptureError: a name is not in the zoo, or its model cannot be captured.
        ProfileMismatch: a profile is of none of these models, or of another engine than ``engine``.
        ValueError, OSError: a profile cannot be read.
    """
    given = {path: open_profile(path) for path in profiles}
    for profile in given.values():
        check_engine(profile, engine)
    folder = Path(models)
    found = list(_packages(folder, engine) if folder.is_dir() else _captured(models))
    if not found:
        raise PackageError(f"{models}: no model to serve; expected folders that `splitnn pack` wrote")
    for path, profile in given.items():
        fitting = [each for each in found if each.model.digest == profile.model]
        if not fitting:
            served = ", ".join(f"{each.name} {each.model.digest[:12]}" for each in found)
            raise ProfileMismatch(f"{path} is a profile of model {profile.model[:12]}; served are {served}")
        for each in fitting:
            profile.check_fits(each.model.graph, each.model.digest)
            found[found.index(each)] = replace(each, profile=profile)
    return found


def _captured(names: str) -> Iterator[Loaded]:
    for text in dict.fromkeys(name.strip() for name in names.split(",") if name.strip()):
        _log.info("capturing %s", text)
        yield Loaded(name=text.rpartition(":")[2], version="1", model=capture_model(text))


def _packages(folder: Path, engine: str) -> Iterator[Loaded]:
    """The package that the folder is, or those in ``NAME/`` and ``NAME/VERSION/``. Hidden folders are being written."""
    if is_package(folder):
        yield from _package(folder, name=folder.resolve().name, version="1", engine=engine)
        return
    for child in _folders(folder):
        if is_package(child):
            yield from _package(child, name=child.name, version="1", engine=engine)
            continue
        versions = _folders(child)
        if not versions:
            _log.warning("%s is no model package; left out", child)
        for version in versions:
            if _VERSION.fullmatch(version.name):
                yield from _package(version, name=child.name, version=version.name, engine=engine)
            else:
                _log.warning("%s: a version is a whole number from 1, not %r; left out", child, version.name)


def _package(folder: Path, *, name: str, version: str, engine: str) -> Iterator[Loaded]:
    try:
        model = load(folder)
    except (PackageError, OSError) as error:
        _log.error("model %s version %s is not served: %s", name, version, error)
        return
    yield Loaded(name, version, model, _profile_beside(folder, model, engine))


def _profile_beside(folder: Path, model: Model, engine: str) -> Profile | None:
    try:
        profile = open_profile(folder / _PROFILE)
        profile.check_fits(model.graph, model.digest)
        check_engine(profile, engine)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ProfileMismatch) as error:
        _log.warning("the profile is not used: %s", error)
        return None
    return profile


def _folders(folder: Path) -> list[Path]:
    found = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    for child in found:
        if not child.name.isprintable():
            _log.warning("a folder is called %r, which does not fit a line; left out", child.name)
    return [child for child in found if child.name.isprintable()]
