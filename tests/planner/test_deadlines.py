"""Edgent's problem against the oracle that tries every policy, placement and host of an exit, at many bandwidths."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from splitnn.cost.expected import expected_cost
from splitnn.cost.network import Link
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
from splitnn.planner.constraints import Constraints
from splitnn.planner.deadlines import DeadlineMap, compute_deadline_map, every_policy
from splitnn.planner.exits import weigh
from tests.planner.random_exits import random_exit_problem
from tests.planner.random_problems import CODECS, Problem, every_placement


def _at_rate(problem: Problem, bandwidth_bps: float) -> Problem:
    """The same problem with another rate of the first hop's way up."""
    topology = problem.topology
    up = (Link(bandwidth_bps, topology.up[0].latency_s), *topology.up[1:])
    return replace(problem, topology=replace(topology, up=up))


def _trials(problem: Problem, exits: Exits) -> list[tuple[int, int]]:
    """Worst case and mean of every placement, in nanoseconds."""
    hosts = [host.name for host in problem.topology.hosts]
    found = []
    for tiers in every_placement(problem.graph, len(hosts), {}):
        placement = {layer.name: hosts[tier] for layer, tier in zip(problem.graph.layers, tiers, strict=True)}
        try:
            worst, mean = (
                expected_cost(
                    problem.graph, placement, problem.profiles, problem.topology, exits=each, codecs=CODECS
                ).latency_ns
                for each in (exits.at_worst(), exits)
            )
        except ValueError:
            continue
        found.append((worst, mean))
    return found


def _map(problem: Problem, exits: Exits) -> DeadlineMap:
    return compute_deadline_map(
        problem.graph, problem.profiles, problem.topology, policies=every_policy(exits), codecs=CODECS, mode="fast"
    )


@pytest.mark.parametrize("tiers", [2, 3])
def test_choice_is_as_accurate_as_the_best_of_all_trials_and_in_time(tiers: int) -> None:
    answered = 0
    for seed in range(25 if tiers == 2 else 10):
        print(f"seed {seed}")
        rng = random.Random(seed)
        problem, exits = random_exit_problem(rng, layers=rng.randint(2, 6 if tiers == 2 else 4), tiers=tiers)
        found = _map(problem, exits)
        for _ in range(4):
            bandwidth_bps = 10 ** rng.uniform(5, 9)
            here = _at_rate(problem, bandwidth_bps)
            trials = {policy: _trials(here, policy) for policy in every_policy(exits)}
            slack_ns = 5 * len(problem.graph)  # terms are rounded to nanoseconds one by one
            for deadline_ns in {worst + slack_ns for rows in trials.values() for worst, _ in rows[:3]}:
                possible = [p.accuracy for p, rows in trials.items() if any(worst <= deadline_ns for worst, _ in rows)]
                clear = [
                    p.accuracy
                    for p, rows in trials.items()
                    if any(worst <= deadline_ns - slack_ns for worst, _ in rows)
                ]
                choice = found.at(bandwidth_bps, deadline_ns * 1e-9)
                answered += 1
                assert max(clear) <= choice.exits.accuracy <= max(possible) + 1e-12
                cost = expected_cost(
                    here.graph,
                    choice.plan.placement,
                    here.profiles,
                    here.topology,
                    exits=choice.exits.at_worst(),
                    codecs=CODECS,
                )
                assert cost.latency_ns <= deadline_ns + slack_ns
    assert answered > 50


def test_without_a_deadline_that_binds_the_mean_is_the_lowest_of_all() -> None:
    for seed in range(15):
        print(f"seed {seed}")
        rng = random.Random(500 + seed)
        problem, exits = random_exit_problem(rng, layers=5, tiers=2)
        found = _map(problem, exits)
        bandwidth_bps = 10 ** rng.uniform(5, 9)
        here = _at_rate(problem, bandwidth_bps)
        choice = found.at(bandwidth_bps, 10.0)
        best = max(each.accuracy for each in every_policy(exits))
        assert choice.exits.accuracy == pytest.approx(best)
        rivals = [mean for p in every_policy(exits) if p.accuracy >= best for _, mean in _trials(here, p)]
        assert choice.mean.latency_s(bandwidth_bps) * 1e9 == pytest.approx(min(rivals), abs=5 * len(problem.graph))


def test_needed_bandwidth_is_where_a_policy_begins_to_be_in_time() -> None:
    for seed in range(15):
        print(f"seed {seed}")
        rng = random.Random(900 + seed)
        problem, exits = random_exit_problem(rng, layers=5, tiers=2)
        found = _map(problem, exits)
        for policy in found.policies:
            deadline_s = rng.uniform(1, 80) * 1e-6
            needed = found.needed_bps(policy, deadline_s)
            alone = compute_deadline_map(
                problem.graph, problem.profiles, problem.topology, policies=[policy], codecs=CODECS, mode="fast"
            )
            if needed == math.inf:
                with pytest.raises(InfeasiblePlan):
                    alone.at(1e10, deadline_s)
                continue
            alone.at(max(needed * 1.001, 1e4), deadline_s)
            if needed > 1e4:
                with pytest.raises(InfeasiblePlan, match="the quickest choice takes"):
                    alone.at(needed * 0.999, deadline_s)


def test_choices_of_a_deadline_are_those_of_the_look_up_at_every_bandwidth() -> None:
    for seed in range(15):
        print(f"seed {seed}")
        rng = random.Random(1300 + seed)
        problem, exits = random_exit_problem(rng, layers=5, tiers=2)
        found = _map(problem, exits)
        deadline_s = rng.uniform(20, 80) * 1e-6
        choices = found.choices(deadline_s)
        for _ in range(30):
            bandwidth_bps = 10 ** rng.uniform(4, 10)
            here = [choice for choice in choices if choice.low_bps < bandwidth_bps < choice.high_bps]
            if not here:
                with pytest.raises(InfeasiblePlan):
                    found.at(bandwidth_bps, deadline_s)
                continue
            wanted = found.at(bandwidth_bps, deadline_s)
            assert here[0].exits.accuracy == wanted.exits.accuracy
            assert here[0].is_in_time(bandwidth_bps, deadline_s)


def test_policies_weighed_at_one_bandwidth_agree_with_the_map() -> None:
    same = 0
    for seed in range(15):
        print(f"seed {seed}")
        rng = random.Random(1700 + seed)
        problem, exits = random_exit_problem(rng, layers=5, tiers=2)
        found = _map(problem, exits)
        bandwidth_bps = 10 ** rng.uniform(5, 9)
        here = _at_rate(problem, bandwidth_bps)
        for deadline_s in (rng.uniform(1, 80) * 1e-6, 1.0):
            first = weigh(
                here.graph,
                here.profiles,
                here.topology,
                policies=every_policy(exits),
                codecs=CODECS,
                mode="fast",
                constraints=Constraints(deadline_s=deadline_s),
            )[0]
            if not first.is_within:
                with pytest.raises(InfeasiblePlan):
                    found.at(bandwidth_bps, deadline_s)
                continue
            choice = found.at(bandwidth_bps, deadline_s)
            assert first.exits.accuracy == choice.exits.accuracy
            mean_s = choice.mean.latency_s(bandwidth_bps)
            assert first.mean.latency_s <= mean_s + 1e-7
            if any(choice is each for each in found.of(choice.exits)[0]):  # the lowest mean of all is in time
                same += 1
                assert first.mean.latency_s == pytest.approx(mean_s, abs=1e-7)
    assert same > 5
