"""A timetable of ways chooses what the map over bandwidth and deadline does, and prices as the cost model does."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from splitnn.cost.accuracy import policy_drop
from splitnn.cost.expected import expected_cost
from splitnn.cost.network import Host, Link, Topology
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exit, Exits
from splitnn.planner.accuracy import Option, drop_of_plan
from splitnn.planner.deadlines import compute_deadline_map, every_policy
from splitnn.planner.timetable import Way, policies_of, timetable, ways_between
from tests.planner.random_exits import random_exit_problem
from tests.planner.random_problems import CODECS, Problem

LOW_BPS, HIGH_BPS = 1e5, 1e8


def _at_rate(topology: Topology, bandwidth_bps: float) -> Topology:
    return replace(topology, up=(Link(bandwidth_bps, topology.up[0].latency_s), *topology.up[1:]))


def _ways(problem: Problem, exits: Exits, **options: object) -> list[Way]:
    given: dict[str, object] = {"codecs": CODECS, "drops": None, "limit": 0.0, **options}
    return [way for policy in policies_of(exits) for way in _ways_of(problem, policy, **given)]  # type: ignore[arg-type]


def _ways_of(
    problem: Problem,
    policy: Exits,
    drops: Mapping[Option, float] | None,
    *,
    limit: float,
    codecs: Sequence[str] = ("raw",),
) -> list[Way]:
    return ways_between(
        problem.graph,
        problem.profiles,
        problem.topology,
        policy=policy,
        codecs=codecs,
        drops=drops,
        limit=limit,
        low_bps=LOW_BPS,
        high_bps=HIGH_BPS,
    )


def test_look_up_is_as_accurate_as_the_map_for_every_deadline_and_never_late() -> None:
    answered = 0
    for seed in range(20):
        print(f"seed {seed}")
        rng = random.Random(seed)
        problem, exits = random_exit_problem(rng, layers=rng.randint(2, 6), tiers=2)
        chart = compute_deadline_map(
            problem.graph, problem.profiles, problem.topology, policies=every_policy(exits), codecs=CODECS, mode="fast"
        )
        ways = _ways(problem, exits)
        for _ in range(6):
            bandwidth_bps = 10 ** rng.uniform(5, 8)
            table = timetable(ways, problem.graph, problem.profiles, _at_rate(problem.topology, bandwidth_bps))
            assert [way.accuracy for way in table] == sorted((way.accuracy for way in table), reverse=True)
            assert [way.worst_s for way in table] == sorted((way.worst_s for way in table), reverse=True)
            deadline_s = rng.choice([way.worst_s for way in table]) * rng.uniform(0.7, 1.5) + 1e-6
            in_time = [way for way in table if way.worst_s <= deadline_s]
            try:
                best = chart.at(bandwidth_bps, deadline_s)
            except InfeasiblePlan:
                assert not in_time
                continue
            answered += 1
            assert in_time[0].accuracy == best.exits.accuracy
            assert in_time[0].mean_s == pytest.approx(best.mean.latency_s(bandwidth_bps), abs=1e-8)
    assert answered > 30


def test_ways_are_priced_at_the_present_conditions_not_at_those_they_were_found_under() -> None:
    for seed in range(20):
        print(f"seed {seed}")
        rng = random.Random(seed)
        problem, exits = random_exit_problem(rng, layers=5, tiers=2)
        topology = _at_rate(problem.topology, 10 ** rng.uniform(5, 8))
        first, second = topology.hosts
        topology = replace(topology, hosts=(Host(first.name, first.slowdown * 3), second))
        for way in timetable(_ways(problem, exits), problem.graph, problem.profiles, topology):
            costs = [
                expected_cost(
                    problem.graph,
                    way.plan.placement,
                    problem.profiles,
                    topology,
                    exits=each,
                    codecs=way.plan.codecs,
                ).latency_s
                for each in (way.exits, way.exits.at_worst())
            ]
            assert [way.mean_s, way.worst_s] == costs


def test_lossy_codecs_cost_accuracy_and_stay_within_their_limit() -> None:
    lossy = 0
    for seed in range(40):
        print(f"seed {seed}")
        rng = random.Random(seed)
        problem, exits = random_exit_problem(rng, layers=5, tiers=2)
        drops: dict[Option, float] = {
            (tensor, codec): rng.choice((0.01, 0.04)) for tensor in problem.graph.tensors for codec in ("int8", "fp16")
        }
        for way in _ways(problem, exits, codecs=("raw",), drops=drops, limit=0.05):
            lost = drop_of_plan(way.plan, drops)
            assert lost <= 0.05
            assert way.accuracy == way.exits.accuracy - lost
            lossy += lost > 0
        assert all(drop_of_plan(way.plan, drops) == 0 for way in _ways(problem, exits, codecs=("raw",), limit=0.05))
        for kept, limit in ((drops, 0.001), (drops, -0.4), ({}, 0.05)):  # too much, used up by the exits, not measured
            for way in _ways(problem, exits, codecs=("raw", "int8", "fp16"), drops=kept, limit=limit):
                assert drop_of_plan(way.plan, {}) == 0, "a codec that was named is used beyond what may be lost"
                assert way.accuracy == way.exits.accuracy
    assert lossy > 5


def test_where_two_lossy_tensors_lose_too_much_together_the_quickest_plan_with_fewer_is_found() -> None:
    tried = 0
    for seed in range(250):
        rng = random.Random(seed)
        problem, exits = random_exit_problem(rng, layers=9, tiers=2)
        drops: dict[Option, float] = {(tensor, "int8"): rng.choice((0.025, 0.03)) for tensor in problem.graph.wires}
        alike: dict[Option, float] = {  # more codecs to choose from take nothing away
            (tensor, codec): drop for (tensor, _), drop in drops.items() for codec in ("int8+zstd", "fp16", "fp16+zstd")
        }
        if all(drop_of_plan(way.plan, drops) < 0.04 for way in _ways_of(problem, exits, drops, limit=1.0)):
            continue  # two of them never cross together
        print(f"seed {seed}")
        tried += 1
        allowed = [
            way
            for chosen in [(), *((option,) for option in drops)]  # two of them lose at least .05
            for way in _ways_of(problem, exits, {option: drops[option] for option in chosen}, limit=1.0)
            if drop_of_plan(way.plan, drops) <= 0.04
        ]
        found = _ways_of(problem, exits, drops | alike, limit=0.04)
        assert all(drop_of_plan(way.plan, drops | alike) <= 0.04 for way in found)
        for _ in range(8):
            topology = _at_rate(problem.topology, 10 ** rng.uniform(5, 8))
            best_s, found_s = (
                min(way.worst_s for way in timetable(some, problem.graph, problem.profiles, topology))
                for some in (allowed, found)
            )
            assert found_s <= best_s
            assert found_s == best_s or any(set(way.plan.hops[0].values()) - {"raw", "int8"} for way in found)
    assert tried >= 5


def test_of_many_exits_each_alone_and_all_together_are_weighed() -> None:
    exits = Exits.counted(
        [Exit(f"exit {at}", f"t{at}", threshold=0.5 * (at < 5)) for at in range(6)],
        [([False] * 6, [True] * 6)],
        against="labels",
        data="made up",
    )
    assert len(policies_of(exits)) == 7
    assert policies_of(exits)[-1] == exits
    assert policy_drop(exits, ["exit 5"]).high == 0
