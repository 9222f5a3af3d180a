"""Of plans that are worth the same the quicker one is taken, however little what is wanted costs: no weight is lost."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from splitnn.planner.choice import choose
from splitnn.planner.constraints import Constraints
from splitnn.planner.forms import FormProblem
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import BYTES, COST, Objective
from tests.planner.every_plan import every_plan
from tests.planner.random_problems import CODECS, Problem, random_problem

PROBLEMS = 60
TINY = Tariff(per_server_s=0.0, per_gb=3e-18)  # a byte costs 3e-27


@pytest.mark.parametrize("objective", [BYTES, COST, Objective({"bytes": 1e-20})])
def test_a_tiny_price_is_weighed_before_latency_and_latency_decides_between_equals(
    seed: int, objective: Objective
) -> None:
    rng = random.Random(seed)
    tied = 0
    for number in range(PROBLEMS):
        problem = _problem(rng)
        plans = [cost for _, cost in every_plan(problem)]
        if not plans:
            continue
        forms = FormProblem(
            problem.graph, problem.profiles, problem.topology, codecs=CODECS,
            constraints=Constraints(pins=problem.pins), objective=objective, tariff=TINY,
        )  # fmt: skip
        found = forms.solve(forms.now)
        least = min(cost.traffic_bytes for cost in plans)
        equals = [cost.latency_ns for cost in plans if cost.traffic_bytes == least]
        where = f"seed {seed}, problem {number}"
        assert found.traffic_bytes == least, where
        assert float(found.at(forms.now)) == pytest.approx(min(equals), abs=50), where
        tied += len(set(equals)) > 1
        chosen = choose(
            problem.graph, problem.profiles, problem.topology, codecs=CODECS, mode="fast",
            constraints=Constraints(pins=problem.pins), objective=objective, tariff=TINY,
        )  # fmt: skip
        assert chosen.amounts["bytes"] == least, where
    assert tied, "nothing was ever tied"  # 9 of 60 are, usually


def test_what_sends_nothing_is_worth_exactly_nothing(seed: int) -> None:
    rng = random.Random(seed)
    problem = replace(_problem(rng), pins={})
    forms = FormProblem(problem.graph, problem.profiles, problem.topology, objective=BYTES)
    assert forms.solve(forms.now).worth(forms.now) == 0


@pytest.mark.parametrize(("weights", "name"), [({"bytes": 1.0}, "latency"), ({"latency": 2.0}, "throughput")])
def test_a_name_of_other_weights_is_refused(weights: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is the name of the weights"):
        Objective(weights, name)  # type: ignore[arg-type]


def _problem(rng: random.Random) -> Problem:
    tiers = rng.choice((2, 2, 3))
    problem = random_problem(rng, layers=rng.randint(1, {2: 5, 3: 4}[tiers]), tiers=tiers, pinned=rng.random() < 0.3)
    profiles = {
        host: replace(found, stage_s=rng.choice((0.0, 2e-6)), message_s=rng.choice((0.0, 1e-6)))
        for host, found in problem.profiles.items()
    }
    return replace(problem, profiles=profiles)
