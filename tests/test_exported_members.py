"""The public names: one line, in the order of the path, and nothing happens on import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import splitnn

# In the order of use: open or capture, profile, plan, split, run; each verb with the values that it makes.
PUBLIC_NAMES = [
    *("open_model", "capture", "Model", "Graph"),
    *("profile", "Profile", "Host", "Link", "Topology", "estimate", "Cost"),
    *("plan", "Plan", "Objective", "Constraints", "choose", "Choice", "compute_envelope", "Envelope"),
    *("split", "Stage", "ModelHost", "LocalTransport", "Pipeline"),
]
TORCH_FREE = [
    "splitnn",
    "splitnn.errors",
    "splitnn.instrument",
    "splitnn.graph.graph",
    "splitnn.cost.network",
    "splitnn.cost.profile",
    "splitnn.cost.estimate",
    *sorted(f"splitnn.planner.{file.stem}" for file in Path(*splitnn.__path__, "planner").glob("[a-z]*.py")),
]


def test_public_names_are_these_in_the_order_of_the_path() -> None:
    assert splitnn.__all__ == PUBLIC_NAMES


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_resolves_and_is_listed(name: str) -> None:
    assert getattr(splitnn, name).__name__ == name
    assert name in dir(splitnn)


def test_every_public_name_is_named_to_the_type_checker_too() -> None:
    tree = ast.parse(Path(str(splitnn.__file__)).read_text())
    imported = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(PUBLIC_NAMES) <= imported


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'cut'"):
        splitnn.cut  # noqa: B018


def test_no_public_name_is_also_a_subpackage() -> None:
    modules = {path.stem for path in Path(*splitnn.__path__).iterdir()}
    assert not modules & set(PUBLIC_NAMES)


def test_planning_needs_no_torch() -> None:
    """Each module is imported as the first one of ours; other people's packages only once, which is what takes time."""
    source = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    for ours in [name for name in sys.modules if name.partition('.')[0] == 'splitnn']:\n"
        "        del sys.modules[ours]\n"
        "    importlib.import_module(module)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'{module} imports torch')\n"
        "from splitnn import Graph, Profile, Topology, estimate, plan\n"
        "sys.exit('a public name of planning imports torch' if 'torch' in sys.modules else 0)\n"
    )
    command = [sys.executable, "-c", source, *TORCH_FREE]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
