"""The planner's benchmark runs, and what it times is right: every exact way finds the same cut."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from experiments.planner_scaling.__main__ import differs_from_brute_force, headline, measure
from experiments.planner_scaling.graphs import FAMILIES, Family


@pytest.fixture(autouse=True)
def without_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is judged here, and a collection before each timing visits what all tests before have left."""
    monkeypatch.setattr("experiments.planner_scaling.__main__.gc", SimpleNamespace(collect=lambda: 0))


@pytest.mark.parametrize("family", FAMILIES)
def test_all_exact_ways_and_the_envelope_agree(seed: int, family: Family) -> None:
    row = measure(random.Random(seed), family, 60, rounds=1)
    assert row.mismatches == 0
    assert set(row.rivals_s) == {"networkx", "dads", "qdmp"}
    assert row.chain_scan_loss >= 0
    if family == "chain":
        assert row.chain_scan_loss == 0


def test_small_problems_agree_with_trying_all_placements(seed: int) -> None:
    rng = random.Random(seed)
    assert not any(differs_from_brute_force(rng) for _ in range(30))


def test_headline_has_the_keys_that_are_kept_over_time(seed: int) -> None:
    row = measure(random.Random(seed), "chain", 1000, rounds=1)
    assert {
        "plan_1000_layers_s", "envelope_1000_layers_s", "decision_s", "best_rival_ratio", "mismatches",
    } <= headline([row], 1e-6).keys()  # fmt: skip
