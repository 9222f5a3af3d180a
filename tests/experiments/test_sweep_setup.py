"""What a sweep refuses before it starts anything, and what it says that it will take."""

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.bandwidth_sweep import __main__ as sweep
from experiments.bandwidth_sweep import run
from experiments.bandwidth_sweep.cells import Cell
from experiments.bandwidth_sweep.setup import QUICK, Setup, parse
from experiments.bandwidth_sweep.store import Store
from experiments.emulation.shape import Shape
from experiments.machine import commit

CELL = Cell("m", Shape(1e6, 1e6), is_calibrated=True, ways=(), load=0.0)
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
        (("--codecs", "raw,png,raw"), "--codecs names one twice"),
        (("--methods", "proxy,proxy"), "--methods names one twice"),
        (("--photos", "china,china"), "--photos names one twice"),
        (("--device-share", "0.0009"), "0.001 at least"),
        (("--links", "1000Gbps/10ms"), "can be emulated at all"),
        (("--links", "5Mbps/1000s"), "can be emulated at all"),
        (("--output", f"{__file__}/sub/folder"), f"{__file__} is no folder"),
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


BEGUN = ("--models", "alexnet,vgg16", "--links", "1Mbps/10ms,2Mbps:20Mbps/40ms", "--rounds", "7", "--oracle", "all",
         "--codecs", "raw,png", "--methods", "proxy", "--photos", "china", "--profiling-s", "2.5")  # fmt: skip


@pytest.mark.parametrize("begun", [(), ("--quick",), BEGUN, ("--quick", *BEGUN)])
def test_a_sweep_is_gone_on_with_as_it_was_begun(begun: tuple[str, ...], tmp_path: Path) -> None:
    setup, _ = parse([*SMALL, *begun], description="")
    Store(tmp_path).add(CELL, vars(setup))
    for again in ((), (*SMALL, *begun), ("--rounds", str(setup.rounds))):
        assert parse(["--resume", str(tmp_path), *again], description="")[0] == setup
    assert Store(tmp_path).load(vars(setup)) == [CELL]


def test_what_differs_from_what_a_sweep_was_begun_with_is_refused_by_the_names_of_its_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path).add(CELL, vars(parse([*SMALL, *BEGUN], description="")[0]))
    for given, named in (
        (("--device-share", "0.05", "--oracle", "2", "--rounds", "7"), "other --device-share, --oracle;"),
        (("--quick",), "other --quick;"),
    ):
        with pytest.raises(SystemExit):
            parse(["--resume", str(tmp_path), *given], description="")
        assert named in capsys.readouterr().err


def test_other_models_may_join_a_sweep(tmp_path: Path) -> None:
    begun, _ = parse([*SMALL, *BEGUN], description="")
    Store(tmp_path).add(CELL, vars(begun))
    again, _ = parse(["--resume", str(tmp_path), "--models", "resnet18"], description="")
    assert again == dataclasses.replace(begun, models=("resnet18",))


def test_quick_given_again_keeps_the_models_that_a_sweep_was_begun_with(tmp_path: Path) -> None:
    begun, _ = parse(["--quick", "--models", "vgg16"], description="")
    Store(tmp_path).add(CELL, vars(begun))
    assert parse(["--quick", "--resume", str(tmp_path)], description="")[0] == begun


def end(signal_or_none: BaseException, *, after_a_cell: bool) -> Callable[..., Any]:
    """A sweep that this ends."""

    def sweep(setup: Setup, folder: Path, *_: Any, **__: Any) -> Any:
        def run() -> None:
            if after_a_cell:
                Store(folder).add(CELL, vars(setup))
            raise signal_or_none

        return SimpleNamespace(run=run)

    return sweep


@pytest.mark.parametrize("after_a_cell", [True, False])
@pytest.mark.parametrize("ended", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupted_sweep_says_how_it_goes_on_and_leaves_no_empty_folder(
    *,
    ended: BaseException,
    after_a_cell: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sweep, "_RESULTS", tmp_path)
    monkeypatch.setattr(run, "Sweep", end(ended, after_a_cell=after_a_cell))
    try:
        status = sweep.main(list(SMALL))
    except SystemExit as left:
        status = int(left.code or 0)
    assert status == (143 if isinstance(ended, SystemExit) else 130)
    folders = list(tmp_path.iterdir())
    assert len(folders) == after_a_cell
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == (f"interrupted; --resume {folders[0]} goes on" if after_a_cell else "interrupted")


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
