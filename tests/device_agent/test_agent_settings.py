"""What the agent is told: each wrong value is refused with its flag."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.__main__ import main
from device_agent.program import at_full_speed
from device_agent.settings import Settings
from splitnn.cost.profile_file import write_profile
from splitnn.graph.package import save
from splitnn.runtime.settings import read
from tests.device_agent.test_agent import captured, profile

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


def test_a_profile_that_is_scaled_already_is_not_scaled_again() -> None:
    model = captured("residual")
    measured = profile(model, "device", 0.05)
    emulating = settings("--slowdown", "20")
    assert at_full_speed(measured, emulating) is measured
    for scaled in (measured.scaled(20), measured.scaled(1 / 0.05)):
        found = at_full_speed(scaled, emulating)
        assert found.whole.cpu_s == pytest.approx(measured.whole.cpu_s) and found.slowdown == pytest.approx(1)
    slow = measured.scaled(20)  # and so is the machine: a quota makes it so, and nothing need be emulated
    assert at_full_speed(slow, settings()) is slow


def test_a_profile_that_is_scaled_otherwise_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitnn.runtime.process.leave", lambda status: status)
    model = captured("residual")
    save(model, tmp_path / "net")
    file = tmp_path / "device.json"
    write_profile(file, replace(profile(model, "device", 0.05), message_s=1e-4).scaled(20))
    told = ["--server", "127.0.0.1:1", "--model", str(tmp_path / "net"), "--log-level", "error"]
    assert main([*told, "--profile", str(file), "--slowdown", "10"]) == 2
    error = capsys.readouterr().err
    assert "device.json is scaled already, by 20: give that, or a profile made without --slowdown" in error
    assert error.count("\n") == 1
