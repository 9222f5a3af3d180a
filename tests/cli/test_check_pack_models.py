"""``check``, ``models`` and ``pack`` in-process: what they print, what they write, and their exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from splitnn import zoo
from splitnn.cli.main import BAD_INPUT, main
from splitnn.graph.model import Value
from splitnn.graph.package import load
from splitnn.runtime import verify
from splitnn.runtime.stage import Stage, stages
from splitnn.runtime.verify import identical
from tests.models import captured

FACTORY = "factories_of_check:chain"


@pytest.fixture(autouse=True)
def _factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factories as a user has them: in a module of the folder where the command is called."""
    (tmp_path / "factories_of_check.py").write_text(
        "import torch\nfrom tests.models import TINY\n\n"
        "def chain():\n    return TINY['chain']()\n\n"
        "class Undecided(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x * 2 if x.sum().item() > 0 else x - 1\n\n"
        "def undecided():\n    return Undecided(), (torch.ones(1, 3),)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed: nothing on stdout, one line on stderr."""
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def test_check_of_a_sound_model_says_so_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", FACTORY, "--cuts", "5"]) == 0
    printed = capsys.readouterr().out
    model = captured("chain")
    assert printed.splitlines()[0] == f"{FACTORY} ({model.digest[:12]}): {len(model.graph)} layers"
    assert printed.splitlines()[-1] == "every cut is bit-identical to the whole model"


def test_check_as_json_counts_every_cut(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", FACTORY, "--cuts", "3", "--seed", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model = captured("chain")
    assert (found["passed"], found["different"], found["worst_difference"]) == (True, [], 0)
    assert (found["digest"], found["layers"], found["seed"]) == (model.digest, len(model.graph), 4)
    assert (found["prefix_cuts"], found["random_cuts"]) == (len(model.graph) + 1, 3)


def test_check_leaves_the_number_of_threads_as_it_was() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert main(["check", FACTORY, "--cuts", "0"]) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_cut_that_differs_in_one_bit_is_found_and_the_status_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its oracle a check proves nothing: one stage, of one cut, is made to be wrong by one unit."""
    model = captured("chain")
    third = model.graph.layers[2].name
    honest = stages

    class Wrong:
        def __init__(self, part: Stage) -> None:
            self._part, self.inputs = part, part.inputs

        def run(self, tensors: dict[str, Value]) -> dict[str, Value]:
            return {
                name: torch.nextafter(torch.as_tensor(value), torch.tensor(torch.inf))
                for name, value in self._part.run(tensors).items()
            }

    def one_is_wrong(model: object, layers: dict[str, list[str]]) -> tuple[object, ...]:
        head, tail = honest(model, layers)  # type: ignore[arg-type]
        return (head, Wrong(tail)) if head.layers[-1:] == (third,) else (head, tail)

    monkeypatch.setattr(verify, "stages", one_is_wrong)
    assert main(["check", FACTORY, "--cuts", "0"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"1 cuts DIFFER: after {third}"
    assert main(["check", FACTORY, "--cuts", "0", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], found["different"]) == (False, [third])
    assert found["worst_difference"] > 0


@pytest.mark.parametrize("command", [["check"], ["pack", "-o", "packed"]])
def test_a_model_that_cannot_be_captured_is_one_line_and_status_2(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "factories_of_check:undecided"]) == BAD_INPUT
    assert one_line(capsys).startswith(f"splitnn {command[0]}: ")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("name", ["resnet19", "factories_of_check:none", "no_such_module:make"])
def test_a_model_that_is_none_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", name]) == BAD_INPUT
    line = one_line(capsys)
    assert line.startswith("splitnn check: ")
    assert name.partition(":")[0] in line


def test_models_as_json_is_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in found] == [entry.name for entry in zoo.models()]
    assert all(entry["licence"] and entry["source"] and entry["input"] and entry["output"] for entry in found)
    assert {entry["weights"] for entry in found} == {"real", "random"}


def test_the_table_of_models_names_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(entry.name in printed for entry in zoo.models())


def test_what_pack_writes_is_the_model_and_checks_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", FACTORY, "-o", "packed", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    model, packed = captured("chain"), load(tmp_path / "packed")
    assert (told["digest"], packed.digest, told["layers"]) == (model.digest, model.digest, len(model.graph))
    assert told["bytes"] == sum(file.stat().st_size for file in (tmp_path / "packed").iterdir())
    assert all(identical(packed.weights[name], weight) for name, weight in model.weights.items())
    assert main(["check", "packed", "--cuts", "2"]) == 0


def test_pack_never_writes_into_a_folder_that_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    assert main(["pack", FACTORY, "-o", "mine"]) == BAD_INPUT
    assert "mine" in one_line(capsys)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["letter"]
