"""A version's recipe travels with its package, whatever it says, and a broken one is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from splitnn.graph.package import load, save
from splitnn.graph.recipe import Drop, Recipe
from tests.models import captured

RECIPE = Recipe(
    method="transform",
    base="0123456789abcdef",
    settings={"step": 0.5, "patch": 2, "cut": "relu"},
    drop=Drop(0.004, 0.001, 0.011),
    data="photos",
    samples=550,
    figures={"median_bytes": 3100.0},
)


def test_package_carries_the_recipe_and_the_digest_does_not(tmp_path: Path) -> None:
    plain = captured("chain")
    noted = replace(plain, recipe=RECIPE)
    assert noted.digest == plain.digest
    assert load(save(noted, tmp_path / "noted")).recipe == RECIPE
    assert load(save(plain, tmp_path / "plain")).recipe is None


def test_recipe_reads_back_from_json_and_says_what_it_cost() -> None:
    again = Recipe.from_json(json.loads(json.dumps(RECIPE.to_json())))
    assert again == RECIPE
    assert "0.40% (0.10% to 1.10%)" in str(again) and "median_bytes 3100" in str(again)
    assert "was not measured" in str(replace(RECIPE, drop=None))


@pytest.mark.parametrize(
    "change",
    [
        {"format": "splitnn-recipe-2"},
        {"drop": {"estimate": 0.5, "low": 0.6, "high": 0.7}},
        {"drop": {"estimate": float("nan"), "low": 0.0, "high": 0.7}},
        {"against": "hope"},
        {"settings": {"step": [1]}},
        {"figures": {"median_bytes": float("inf")}},
        {"samples": None},
    ],
)
def test_what_is_no_recipe_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"recipe|drop|judged"):
        Recipe.from_json(RECIPE.to_json() | change)
