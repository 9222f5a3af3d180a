"""A setting is the same whether a flag or the file names it, and nothing else is accepted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from splitnn.runtime.settings import read


@dataclass(frozen=True)
class Settings:
    models: str = field(metadata={"help": "what to serve, 100% of it"})
    max_waiting: int = 64
    grace_s: float = 10.0
    insecure: bool = False
    profile: tuple[str, ...] = ()
    when: Literal["now", "never"] = "now"

    def __post_init__(self) -> None:
        if self.max_waiting < 1:
            raise ValueError(f"--max-waiting is at least 1, not {self.max_waiting}")


def settings(*arguments: str) -> Settings:
    return read(Settings, arguments, program="test", purpose="nothing")


def test_flags_and_file_say_the_same(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(
        'models = "a"\nmax-waiting = 3\ngrace-s = 2\ninsecure = true\nprofile = ["x", "y"]\nwhen = "never"\n'
    )
    flags = [
        "--models",
        "a",
        "--max-waiting",
        "3",
        "--grace-s",
        "2",
        "--insecure",
        "--profile",
        "x,y",
        "--when",
        "never",
    ]
    assert settings("--config", str(file)) == settings(*flags) == Settings("a", 3, 2.0, True, ("x", "y"), "never")


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('models = "a"\nmax-waiting = 3\ninsecure = true\n')
    got = settings("--config", str(file), "--max-waiting", "5", "--no-insecure")
    assert got == Settings("a", 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max-wating = 3", "unknown key 'max-wating'; did you mean 'max-waiting'?"),
        ("max_waiting = 3", "did you mean 'max-waiting'?"),
        ("qqqqqqq = 3", "there are grace-s, insecure"),
        ('max-waiting = "3"', "max-waiting came as '3'; expected int"),
        ("max-waiting = true", "expected int"),
        ("max-waiting = 0", "at least 1, not 0"),
        ("models = 3", "models came as 3; expected str"),
        ('profile = "x"', "expected a list of strings"),
        ('when = "later"', "expected one of now, never"),
        ("models = ", "not TOML"),
        ("", "--models is missing"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text if text.startswith("models") or not text else f'models = "a"\n{text}\n')
    with pytest.raises(ValueError) as refusal:
        settings("--config", str(file))
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("flags", ["--modles a", "--models a --max-waiting x", "--models a --when later", "--mod a"])
def test_a_wrong_flag_is_refused_in_one_line(flags: str) -> None:
    with pytest.raises(ValueError, match="see test --help") as refusal:
        settings(*flags.split())
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        settings("--config", str(tmp_path / "none.toml"))


def test_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        settings("--help")
    assert left.value.code == 0
    assert "100% of it" in capsys.readouterr().out
