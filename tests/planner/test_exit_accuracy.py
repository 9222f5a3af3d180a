"""Exits, cut and codecs within one budget of accuracy, against the oracle that tries all of them."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

from splitnn.cost.accuracy import Calibration, policy_drop
from splitnn.cost.exit_drops import ExitDrops
from splitnn.cost.expected import expected_cost
from splitnn.graph.exits import Exit, Exits
from splitnn.graph.recipe import NO_DROP, Drop
from splitnn.planner.accuracy import Option
from splitnn.planner.deadlines import every_policy
from splitnn.planner.exit_accuracy import policy_drops, weigh_within
from tests.planner.random_exits import random_exit_problem
from tests.planner.random_problems import CODECS, every_placement


def test_exits_cut_and_codecs_within_a_budget_equal_brute_force() -> None:
    lossy_plans = 0
    for seed in range(300):
        print(f"seed {seed}")
        rng = random.Random(seed)
        problem, exits = random_exit_problem(rng, layers=rng.randint(3, 5), tiers=2)
        graph = problem.graph
        ways = [tuple(each.name for each in policy.exits) for policy in every_policy(exits)]
        by_policy: dict[tuple[str, ...], dict[Option, float]] = {
            way: {(tensor, c): rng.choice((0.0, 0.02, 0.1)) for tensor in graph.tensors for c in ("int8", "fp16")}
            for way in ways
        }

        def drops(policy: Exits, known: dict[tuple[str, ...], dict[Option, float]] = by_policy) -> dict[Option, float]:
            return known[tuple(each.name for each in policy.exits)]

        limit = rng.choice((0.03, 0.12, 0.5, 0.9))  # few samples: with little only the last exit alone may be asked
        found = weigh_within(
            graph, problem.profiles, problem.topology, exits=exits, codecs=CODECS, drops=drops, limit=limit
        )[0]
        if seed >= 60 and found.plan.mode != "fast":
            continue  # lossy plans are rare among these: of the later seeds they alone are worth all trials
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
                    lost = sum(drops(policy)[t.tensor, t.codec] for t in cost.transfers if t.codec != "raw")
                    if lost <= spare + 1e-12 and (best is None or cost.latency_ns < best):
                        best = cost.latency_ns
        assert found.mean.latency_ns == best
        lossy_plans += found.plan.mode == "fast"
    assert lossy_plans > 3


def test_each_policy_is_charged_its_own_drop_and_unknown_ones_nothing_lossy() -> None:
    exits = Exits.counted(
        [Exit("exit1", "t1", threshold=0.5), Exit("exit2", "t2", threshold=0.7), Exit("last", "t3")],
        [([True, True, True], [True, True, True])],
        against="labels",
        data="made up",
    )
    dear, cheap = Drop(0.6, 0.5, 0.7), Drop(0.2, 0.1, 0.3)
    table = {("exit2",): dear, ("last",): cheap, ("exit1", "last"): dear}
    measured = ExitDrops(exits.exits, {"t0": {"int4": table, "zstd": dict.fromkeys(table, NO_DROP)}})
    calibration = Calibration({}, against="labels", data="made up", samples=9, exits=measured)
    codecs = ("raw", "zstd", "int4")
    assert policy_drops(calibration, codecs, exits.only("exit2")) == {("t0", "int4"): 0.7}
    assert policy_drops(calibration, codecs, exits.only("last")) == {("t0", "int4"): 0.3}
    assert policy_drops(calibration, codecs, exits.only("exit1", "last")) == {("t0", "int4"): 0.7}
    assert policy_drops(calibration, codecs, exits) == {}  # all three: nobody measured that
    assert policy_drops(replace(calibration, exits=None), codecs, exits.only("last")) == {}
    moved = replace(exits, exits=(replace(exits.exits[0], threshold=0.6), *exits.exits[1:]))
    assert policy_drops(calibration, codecs, moved.only("exit1", "last")) == {}  # other samples leave there now
    assert policy_drops(calibration, codecs, moved.only("last")) == {("t0", "int4"): 0.3}
