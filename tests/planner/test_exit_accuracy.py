"""Exits, cut and codecs within one budget of accuracy, against the oracle that tries all of them."""

from __future__ import annotations

import itertools
import random

from splitnn.cost.accuracy import policy_drop
from splitnn.cost.expected import expected_cost
from splitnn.planner.accuracy import Option
from splitnn.planner.deadlines import every_policy
from splitnn.planner.exit_accuracy import weigh_within
from tests.planner.random_exits import random_exit_problem
from tests.planner.random_problems import CODECS, every_placement


def test_exits_cut_and_codecs_within_a_budget_equal_brute_force() -> None:
    lossy_plans = 0
    for seed in range(60):
        print(f"seed {seed}")
        rng = random.Random(seed)
        problem, exits = random_exit_problem(rng, layers=rng.randint(3, 5), tiers=2)
        graph = problem.graph
        drops: dict[Option, float] = {
            (tensor, codec): rng.choice((0.0, 0.02, 0.1)) for tensor in graph.tensors for codec in ("int8", "fp16")
        }
        limit = rng.choice((0.03, 0.12))
        best = None
        for policy in every_policy(exits):
            spare = limit - max(0.0, policy_drop(exits, [each.name for each in policy.exits]).high)
            for tiers in every_placement(graph, 2, {}):
                names = [layer.name for layer in graph.layers]
                placement = {name: problem.topology.hosts[tier].name for name, tier in zip(names, tiers, strict=True)}
                crossing = graph.crossing([name for name, tier in zip(names, tiers, strict=True) if tier == 0])
                for chosen in itertools.product(CODECS, repeat=len(crossing)):
                    codecs = {tensor: (codec,) for tensor, codec in zip(crossing, chosen, strict=True)}
                    try:
                        cost = expected_cost(
                            graph, placement, problem.profiles, problem.topology, exits=policy, codecs=codecs
                        )
                    except ValueError:
                        continue
                    lost = sum(drops[t.tensor, t.codec] for t in cost.transfers if t.codec != "raw")
                    if lost <= spare + 1e-12 and (best is None or cost.latency_ns < best):
                        best = cost.latency_ns
        found = weigh_within(
            graph, problem.profiles, problem.topology, exits=exits, codecs=CODECS, drops=drops, limit=limit
        )[0]
        assert found.mean.latency_ns == best
        lossy_plans += found.plan.mode == "fast"
    assert lossy_plans > 3
