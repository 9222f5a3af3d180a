"""The comparison of objectives on a synthetic model: every plan is the best one by its own measure."""

from __future__ import annotations

import random
from pathlib import Path

from experiments.objectives import LINKS, loss_matrix, plot, solve, to_json
from experiments.planner_scaling.graphs import synthetic_graph, synthetic_profiles


def test_no_plan_beats_another_at_its_own_objective(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    graph = synthetic_graph(rng, "inception", 40)
    server = synthetic_profiles(rng, graph, {"cloud": 1.0})["cloud"]
    cases = [solve("synthetic", graph, server, link) for link in LINKS[:2]]
    losses = loss_matrix(cases)
    for made_for, row in losses.items():
        for judge, found in row.items():
            assert found["worst"] >= -1e-9, f"made for {made_for}, judged by {judge}"
            assert made_for != judge or found["worst"] == 0
    plot(cases, tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 1000
    headline = to_json(cases, losses)["headline"]
    assert headline["plans"] == 10 and headline["unproven"] == 0
