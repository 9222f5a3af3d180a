"""The README is executed: its Python runs, its commands end with status 0, and both print lines of the shape it shows.

- A ``python`` block runs in a namespace of its own. A ``text`` block right after it is what it prints.
- In a ``console`` block, lines that start with ``$ `` are commands, run by bash in order, in one temporary directory
  for the whole README; the lines after a command are what it prints. What installs (``_INSTALLERS``) is left to CI.
- Printed lines are compared by shape: any number stands for any number, ``...`` for anything, and the command may print
  more lines than the README shows.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from splitnn.cost.codec_names import CODEC_NAMES

ROOT = Path(__file__).parents[1]
_INSTALLERS = ("make", "git", "pip", "cd", "sudo", "apt-get")
_NUMBER = r"[-+]?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """Something that the README runs, and the lines that it says it prints."""

    line: int  # of the README, for the test's name
    source: str
    printed: tuple[str, ...]


def python_steps(text: str) -> list[Step]:
    """The ``python`` blocks of a Markdown text."""
    fences = list(_FENCE.finditer(text))
    steps = []
    for fence, after in zip(fences, [*fences[1:], None], strict=True):
        if fence[1] != "python":
            continue
        prints = after is not None and after[1] == "text" and not text[fence.end() : after.start()].strip()
        printed = tuple(after[2].splitlines()) if after is not None and prints else ()
        steps.append(Step(_line(text, fence), fence[2], printed))
    return steps


def console_steps(text: str) -> list[Step]:
    """The commands of the ``console`` blocks of a Markdown text, in order."""
    steps = []
    for fence in _FENCE.finditer(text):
        if fence[1] != "console":
            continue
        for part in re.split(r"^\$ ", fence[2], flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            ends = next(i for i, line in enumerate(lines) if not line.endswith("\\"))
            steps.append(Step(_line(text, fence), "\n".join(lines[: ends + 1]), tuple(lines[ends + 1 :])))
    return steps


def shape_mismatch(shown: tuple[str, ...], printed: str) -> str | None:
    """The first line shown that no printed line has the shape of, in order; None where all do."""
    remaining = iter(printed.splitlines())
    for line in shown:
        if line.strip() in ("", "..."):
            continue
        pattern = re.compile(_shape(line))
        if not any(pattern.fullmatch(candidate.strip()) for candidate in remaining):
            return line
    return None


def _shape(line: str) -> str:
    parts = re.split(rf"(\.\.\.|{_NUMBER}|\s+)", line.strip())
    shapes = {"...": ".*"}
    return "".join(
        shapes.get(part) or (r"\s+" if part.isspace() else _NUMBER if re.fullmatch(_NUMBER, part) else re.escape(part))
        for part in parts
    )


def _line(text: str, fence: re.Match[str]) -> int:
    return text.count("\n", 0, fence.start()) + 1


README = (ROOT / "README.md").read_text()


def _id(step: Step) -> str:
    return f"line {step.line}: {step.source.strip().splitlines()[0][:40]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all commands: a later one may read what an earlier one wrote."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.slow
@pytest.mark.parametrize("step", python_steps(README), ids=_id)
def test_python_of_the_readme_runs_and_prints_what_it_shows(
    step: Step, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(step.source, "README.md", "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    missing = shape_mismatch(step.printed, printed)
    assert missing is None, f"README shows {missing!r}; printed was:\n{printed}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", [step for step in console_steps(README) if step.source.split()[0] not in _INSTALLERS], ids=_id
)
def test_command_of_the_readme_succeeds_and_prints_what_it_shows(step: Step, folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
    }
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", step.source],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, f"exit status {run.returncode}\n{run.stdout}\n{run.stderr}"
    missing = shape_mismatch(step.printed, run.stdout)
    assert missing is None, f"README shows {missing!r}; printed was:\n{run.stdout}"


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        ("cut after conv3: 12.5 ms", "cut  after conv7:  3 ms\n", None),
        ("best: ...", "more\nbest: device | cloud\n", None),
        ("a 1\n...\nb 2", "a 3\nanything\nb 4", None),
        ("b 2\na 1", "a 1\nb 2", "a 1"),
        ("espresso .95", "espresso .40", None),
        ("espresso 0.95", "daisy 0.95", "espresso 0.95"),
    ],
)
def test_lines_are_compared_by_shape(shown: str, printed: str, missing: str | None) -> None:
    assert shape_mismatch(tuple(shown.splitlines()), printed) == missing


def test_blocks_are_read_as_markdown_shows_them() -> None:
    fence = "`" * 3
    text = (
        f"{fence}python\nprint(1)\n{fence}\n\n{fence}text\n1\n{fence}\n\n"
        f"{fence}console\n$ echo a \\\n    b\na b\n$ true\n{fence}\n"
    )
    assert python_steps(text) == [Step(1, "print(1)\n", ("1",))]
    assert console_steps(text) == [Step(9, "echo a \\\n    b", ("a b",)), Step(9, "true", ())]


def test_codecs_that_the_readme_names_exist() -> None:
    section = README.partition("\n## Codecs\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    named = set(re.findall(r"`(\w{2,}[\w.+]*)`", "\n".join(rows)))
    assert rows and named and not named - CODEC_NAMES


def test_readme_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target
