"""What a sweep refuses before it starts anything, and what it says that it will take."""

import dataclasses
import subprocess
from pathlib import Path

import pytest

from experiments.machine import commit
from experiments.sweep_setup import QUICK, Setup, parse

SMALL = ("--device-share", "0.1", "--server-share", "0.2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device-share", "nan"), "must be above 0, not nan"),
        (("--profiling-s", "nan"), "must be above 0, not nan"),
        (("--profiling-s", "inf"), "must be above 0, not inf"),
        (("--oracle", "0.9"), "at least 1, such as 1.4, or all, not '0.9'"),
        (("--oracle", "nan"), "or all, not 'nan'"),
        (("--oracle", "inf"), "or all, not 'inf'"),
        (("--oracle", "near"), "or all, not 'near'"),
        (("--codecs", "nonsense"), "no codec 'nonsense'"),
        (("--photos", "nope"), "no photo 'nope'"),
        (("--models", "nope"), "no model 'nope'"),
        (("--methods", "nope"), "emulated by 'nope'"),
        (("--links", ","), "--links names none"),
        (("--models", ","), "--models names none"),
        (("--methods", ","), "--methods names none"),
        (("--links", "1Mbps/10ms,1000kbps/10ms"), "--links names one twice"),
        (("--json", "no/such/folder/x.json"), "cannot be written"),
        (("--resume", "no/such/folder"), "no sweep to go on with"),
    ],
)
def test_what_cannot_be_swept_is_refused_at_once(
    arguments: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse([*SMALL, *arguments], description="")
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_a_folder_without_a_sweep_is_not_gone_on_with_and_one_with_a_sweep_is_not_begun_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse([*SMALL, "--resume", str(tmp_path)], description="")
    (tmp_path / "cells.jsonl").touch()
    for arguments in (("--output", str(tmp_path)), ("--resume", str(tmp_path), "--output", "elsewhere")):
        with pytest.raises(SystemExit):
            parse([*SMALL, *arguments], description="")
    said = capsys.readouterr().err
    assert "no sweep to go on with" in said
    assert "--resume goes on with it" in said
    assert "has no place beside it" in said
    assert parse([*SMALL, "--resume", str(tmp_path)], description="")[1].resume == tmp_path


def test_what_is_known_already_takes_no_time() -> None:
    cells = len(QUICK.models) * len(QUICK.links)
    assert QUICK.minutes(known=cells) < QUICK.minutes(known=cells - 1) < QUICK.minutes()
    assert dataclasses.replace(QUICK, models=("a",)).minutes() < QUICK.minutes() < Setup().minutes()


def test_the_commit_is_that_of_the_sources_wherever_we_are_and_says_what_is_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org")
        subprocess.run(["git", "-C", str(tmp_path / "sources"), *who, *arguments], check=True, capture_output=True)

    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "a").write_text("1")
    git("init")
    git("add", "a")
    git("commit", "-m", "a")
    monkeypatch.chdir(tmp_path)
    clean = commit(tmp_path / "sources")
    assert len(clean) >= 7
    (tmp_path / "sources" / "a").write_text("2")
    assert commit(tmp_path / "sources") == f"{clean}-dirty"
    assert commit(tmp_path) == "unknown"
