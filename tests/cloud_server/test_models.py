"""A folder of packages is served as far as it is whole; the rest is named in the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from cloud_server.models import load_models
from splitnn.cost.profile import Profile, Timing
from splitnn.errors import PackageError, ProfileMismatch, UnknownModel
from splitnn.graph.capture import capture
from splitnn.graph.model import Model
from splitnn.graph.package import save
from tests.models import TINY, captured


@cache
def model_of(name: str) -> Model:
    return capture(*TINY[name]())


def profile_of(model: Model) -> Profile:
    layers = {layer.name: Timing(0.002, 0.002) for layer in model.graph.layers}
    return Profile(model.digest, "here", layers, whole=Timing(1.0, 1.0))


def write_profile(path: Path, profile: Profile) -> str:
    path.write_text(json.dumps(profile.to_json()))
    return str(path)


def test_every_package_of_a_folder_is_loaded_with_its_versions(tmp_path: Path) -> None:
    save(model_of("chain"), tmp_path / "chain")
    save(model_of("reused"), tmp_path / "many" / "2")
    save(model_of("residual"), tmp_path / "many" / "10")
    (tmp_path / ".being-written").mkdir()
    (tmp_path / "README").write_text("not a folder")
    loaded = {(each.name, each.version): each.model.digest for each in load_models(str(tmp_path))}
    assert loaded == {
        ("chain", "1"): model_of("chain").digest,
        ("many", "2"): model_of("reused").digest,
        ("many", "10"): model_of("residual").digest,
    }


def test_a_folder_that_is_a_package_is_served_under_its_name(tmp_path: Path) -> None:
    save(model_of("chain"), tmp_path / "chain")
    (only,) = load_models(str(tmp_path / "chain"))
    assert (only.name, only.version) == ("chain", "1")


def truncate(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def lose_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def flip(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, lose_manifest, lose_weights, flip])
def test_a_half_written_or_altered_package_is_named_and_the_others_are_served(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(model_of("chain"), tmp_path / "good")
    damage(save(model_of("reused"), tmp_path / "broken"))
    (only,) = load_models(str(tmp_path))
    assert only.name == "good"
    (line,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "'broken'" in repr(line.args) or "broken" in line.getMessage()
    assert "\n" not in line.getMessage()


def test_a_folder_without_a_whole_package_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no model to serve"):
        load_models(str(tmp_path))
    lose_weights(save(model_of("chain"), tmp_path / "chain"))
    with pytest.raises(PackageError, match="no model to serve"):
        load_models(str(tmp_path))


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownModel, match="resnet19"):
        load_models("resnet19")


def test_a_profile_beside_the_package_is_used_and_one_of_another_model_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save(model_of("chain"), tmp_path / "chain")
    profile = profile_of(model_of("chain"))
    write_profile(folder / "profile.json", profile)
    assert load_models(str(tmp_path))[0].profile == profile
    write_profile(folder / "profile.json", profile_of(model_of("reused")))
    assert load_models(str(tmp_path))[0].profile is None
    (folder / "profile.json").write_text("{")
    assert load_models(str(tmp_path))[0].profile is None
    assert caplog.text.count("profile is not used") == 2


def test_given_profiles_find_their_models(tmp_path: Path) -> None:
    for name in ("chain", "reused"):
        save(model_of(name), tmp_path / "models" / name)
    profile = profile_of(model_of("reused"))
    files = [write_profile(tmp_path / "reused.json", profile)]
    assert {each.name: each.profile for each in load_models(str(tmp_path / "models"), files)} == {
        "chain": None,
        "reused": profile,
    }


def test_a_given_profile_that_cannot_be_used_is_an_error_that_names_it(tmp_path: Path) -> None:
    save(model_of("chain"), tmp_path / "models" / "chain")
    other = write_profile(tmp_path / "other.json", profile_of(model_of("reused")))
    with pytest.raises(ProfileMismatch, match=rf"other.json.*{model_of('chain').digest[:12]}"):
        load_models(str(tmp_path / "models"), [other])
    (tmp_path / "wrong.json").write_text('{"format": 1}')
    with pytest.raises(ValueError, match=r"wrong\.json"):
        load_models(str(tmp_path / "models"), [str(tmp_path / "wrong.json")])
    with pytest.raises(FileNotFoundError):
        load_models(str(tmp_path / "models"), [str(tmp_path / "none.json")])


def test_loaded_models_compute_what_was_saved(tmp_path: Path) -> None:
    model = model_of("chain")
    save(model, tmp_path / "chain")
    (only,) = load_models(str(tmp_path))
    assert all(torch.equal(only.model.weights[name], weight) for name, weight in model.weights.items())


def test_version_has_one_spelling_and_a_name_fits_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for place in ("net/1", "net/01", "net/0", "two\nlines"):
        save(captured("chain"), tmp_path / place)
    assert [(found.name, found.version) for found in load_models(str(tmp_path), ())] == [("net", "1")]
    assert caplog.text.count("left out") == 3
