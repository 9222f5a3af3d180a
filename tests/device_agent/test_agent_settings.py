"""What the agent is told: each wrong value is refused with its flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_agent.__main__ import main
from device_agent.settings import Settings
from splitnn.runtime.settings import read

NEEDED = ["--server", "127.0.0.1:1", "--model", "resnet18"]


def settings(*arguments: str) -> Settings:
    return read(Settings, [*NEEDED, *arguments], program="splitnn-agent", purpose="")


def test_only_lossless_codecs_are_used_unless_others_are_named() -> None:
    assert settings().codecs == ("raw",)
    assert settings("--codecs", "raw,int8").codecs == ("raw", "int8")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--codecs", "raw,mp3"),
        ("--slowdown", "0.5"),
        ("--slowdown", "nan"),
        ("--deadline-s", "0"),
        ("--link", "nanMbps"),
        ("--link", "fast"),
        ("--server", "cloud"),
        ("--listen", "127.0.0.1"),
        ("--listen", "0.0.0.0:1"),
        ("--max-waiting", "0"),
        ("--max-accuracy-drop", "0.5%"),
    ],
)
def test_wrong_values_are_refused_by_flag(flag: str, value: str) -> None:
    with pytest.raises(ValueError, match=flag.lstrip("-")):
        settings(flag, value)


def test_the_program_ends_with_status_2_and_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitnn.runtime.process.leave", lambda status: status)
    assert main([*NEEDED, "--slowdown", "nan"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("splitnn-agent: ")
    assert error.count("\n") == 1


def test_a_file_may_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('server = "127.0.0.1:1"\nmodel = "resnet18"\ncodecs = ["raw", "fp16"]\ndeadline-s = 3\n')
    found = read(Settings, ["--config", str(file)], program="splitnn-agent", purpose="")
    assert found == settings("--codecs", "raw,fp16", "--deadline-s", "3")


def test_accuracy_that_may_be_lost_takes_a_profile_that_knows(tmp_path: Path) -> None:
    file = tmp_path / "device.json"
    assert settings("--max-accuracy-drop", "0.5%", "--profile", str(file)).max_accuracy_drop == "0.5%"
    with pytest.raises(ValueError, match="no share of answers"):
        settings("--max-accuracy-drop", "much", "--profile", str(file))
