"""Versions with exits and without against each other: the best of all, by trying everything with each of them."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import cast

import pytest

from splitnn.cli.decided import Decided, best_version
from splitnn.cli.goals import Goals
from splitnn.cli.versions import Version, limit_among
from splitnn.cost.accuracy import Calibrated, Calibration, policy_drop
from splitnn.cost.estimate import estimate
from splitnn.cost.exit_drops import ExitDrops
from splitnn.cost.expected import expected_cost
from splitnn.cost.network import Topology
from splitnn.errors import InfeasiblePlan
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model
from splitnn.graph.recipe import Drop, Recipe
from splitnn.planner.constraints import Constraints
from splitnn.planner.deadlines import every_policy
from splitnn.planner.objective import LATENCY
from tests.planner.random_exits import random_exit_problem
from tests.planner.random_problems import every_placement

CODECS = ("raw", "int8")


def goals(deadline_s: float | None = None) -> Goals:
    return Goals(LATENCY, Constraints(deadline_s=deadline_s), None, None, "", "", None, deadline_s is not None)


def random_version(rng: random.Random, name: str, base: Version | None) -> tuple[Version, Topology]:
    """One with exits or without, calibrated, that lost something unless it is the first."""
    problem, exits = random_exit_problem(rng, layers=rng.randint(2, 4), tiers=2)
    found = exits if rng.random() < 0.7 else None
    ways = [tuple(each.name for each in policy.exits) for policy in every_policy(exits)]

    def drop() -> Drop:
        high = rng.choice((0.0, 0.01, 0.05))
        return Drop(0.0, 0.0, high)

    tensors = problem.graph.tensors
    accuracy = Calibration(
        {tensor: {"int8": Calibrated(drop(), 9, 9)} for tensor in tensors},
        against="labels",
        data="made up",
        samples=99,
        exits=ExitDrops(exits.exits, {t: {"int8": {way: drop() for way in ways}} for t in tensors}),
    )
    high = rng.choice((0.0, 0.02, 0.06))
    recipe = None if base is None else Recipe("made up", "base", drop=Drop(rng.choice((-0.01, 0.0, high)), -0.02, high))
    model = cast(Model, SimpleNamespace(graph=problem.graph, exits=found, recipe=recipe, digest=name))
    profiles = {host: replace(each, accuracy=accuracy) for host, each in problem.profiles.items()}
    return Version(name, model, profiles, base), problem.topology


@dataclass(frozen=True)
class Tried:
    """One plan of one policy: nanoseconds in the mean and at worst, and what it loses."""

    mean_ns: int
    worst_ns: int
    lost: float
    likely_lost: float


def policies(version: Version) -> list[Exits | None]:
    exits = version.model.exits
    return [None] if exits is None else [*every_policy(exits)]


def tried(version: Version, topology: Topology, policy: Exits | None, codecs: tuple[str, ...]) -> Iterator[Tried]:
    """Every plan of it."""
    graph, profiles, hosts = version.model.graph, version.profiles, [host.name for host in topology.hosts]
    accuracy = profiles[hosts[0]].accuracy
    assert accuracy is not None and accuracy.exits is not None
    recipe, drop = version.model.recipe, None
    own = (0.0, 0.0) if recipe is None or recipe.drop is None else (max(0.0, recipe.drop.high), recipe.drop.estimate)
    if policy is not None and version.model.exits is not None:
        drop = policy_drop(version.model.exits, [each.name for each in policy.exits])
        own = own[0] + max(0.0, drop.high), own[1] + drop.estimate
    names = [layer.name for layer in graph.layers]
    for tiers in every_placement(graph, 2, {}):
        placement = {name: hosts[tier] for name, tier in zip(names, tiers, strict=True)}
        crossing = graph.crossing([name for name, tier in zip(names, tiers, strict=True) if tier == 0])
        for chosen in itertools.product(codecs, repeat=len(crossing)):
            use = {tensor: (codec,) for tensor, codec in zip(crossing, chosen, strict=True)}
            try:
                if policy is None:
                    mean = worst = estimate(graph, placement, profiles, topology, codecs=use)
                else:
                    mean, worst = (
                        expected_cost(graph, placement, profiles, topology, exits=each, codecs=use)
                        for each in (policy, policy.at_worst())
                    )
            except ValueError:  # a codec that the profile does not have, or exits out of order
                continue
            asked = None if policy is None else tuple(each.name for each in policy.exits)
            lost = sum(
                accuracy.tensors[t.tensor]["int8"].drop.high
                if asked is None
                else accuracy.exits.drops[t.tensor]["int8"][asked].high
                for t in mean.transfers
                if t.codec == "int8"
            )
            yield Tried(mean.latency_ns, worst.latency_ns, own[0] + lost, own[1])


def within(
    versions: list[Version], topology: Topology, *, codecs: tuple[str, ...], limit: float, deadline_ns: float
) -> list[Tried]:
    """Of each version and policy the plan with the lowest mean of those that are never late."""
    found = []
    for version in versions:
        for policy in policies(version):
            plans = [
                each
                for each in tried(version, topology, policy, codecs)
                if each.lost <= limit + 1e-12 and each.worst_ns <= deadline_ns
            ]
            if plans:
                found.append(min(plans, key=lambda each: each.mean_ns))
    return found


def each_alone(
    versions: list[Version], topology: Topology, *, goals: Goals, codecs: tuple[str, ...], limit: float | None
) -> list[Decided]:
    """What is planned when only one of them is given, of those for which there is a plan."""
    found = []
    for version in versions:
        with contextlib.suppress(InfeasiblePlan):
            found.append(best_version([version], topology, goals=goals, codecs=codecs, mode="exact", limit=limit)[0])
    return found


def random_contest(seed: int) -> tuple[list[Version], Topology]:
    rng = random.Random(seed)
    first, topology = random_version(rng, "first", None)
    return [first, *(random_version(rng, name, first)[0] for name in ("second", "third"))], topology


def test_best_of_all_within_what_may_be_lost_equals_brute_force() -> None:
    with_exits = without = impossible = late = 0
    for seed in range(150):
        print(f"seed {seed}")
        versions, topology = random_contest(seed)
        rng = random.Random(seed)
        limit = rng.choice((0.0, 0.02, 0.3, 0.7))
        everything = within(versions, topology, codecs=CODECS, limit=1.0, deadline_ns=math.inf)
        times = sorted(each.worst_ns for each in everything)
        deadline_ns = rng.choice((None, times[0], times[len(times) // 2], times[-1]))
        latest_ns = math.inf if deadline_ns is None else deadline_ns
        usable = CODECS if limit else ("raw",)  # where nothing may be lost, nothing lossy is used, whatever it measured
        wanted = within(versions, topology, codecs=usable, limit=limit, deadline_ns=latest_ns)
        given = goals(None if deadline_ns is None else (deadline_ns + 0.5) * 1e-9)
        try:
            best, _ = best_version(versions, topology, goals=given, codecs=CODECS, mode="exact", limit=limit)
        except InfeasiblePlan:
            impossible += 1
            assert not wanted
            continue
        assert best.plan.predicted.latency_ns == min(each.mean_ns for each in wanted)
        alone = each_alone(versions, topology, goals=given, codecs=CODECS, limit=limit)
        assert best.worth == min(each.worth for each in alone)
        assert best.lost <= limit + 1e-9
        with_exits += bool(best.weighed)
        without += not best.weighed
        late += deadline_ns is not None
    assert min(with_exits, without, late) > 10 and impossible > 3


def test_without_a_limit_the_most_accurate_in_time_equals_brute_force() -> None:
    winners: set[str] = set()
    for seed in range(200, 300):
        print(f"seed {seed}")
        versions, topology = random_contest(seed)
        everything = within(versions, topology, codecs=("raw",), limit=1e9, deadline_ns=math.inf)
        times = sorted(each.worst_ns for each in everything)
        deadline_ns = times[random.Random(seed).randrange(len(times))]
        given = goals((deadline_ns + 0.5) * 1e-9)
        limit = limit_among(versions, goals=given)
        if all(version.model.exits is None for version in versions):
            assert limit == 0
            continue
        assert limit is None
        wanted = within(versions, topology, codecs=("raw",), limit=1e9, deadline_ns=deadline_ns)
        best, _ = best_version(versions, topology, goals=given, codecs=("raw",), mode="exact", limit=limit)
        least = min(each.likely_lost for each in wanted)
        assert best.likely_lost == pytest.approx(least)
        alone = each_alone(versions, topology, goals=given, codecs=("raw",), limit=None)
        assert best.worth == min(each.worth for each in alone if each.likely_lost == pytest.approx(least))
        winners.add(best.version.name)
    assert winners == {"first", "second", "third"}


def test_without_a_limit_or_a_deadline_nothing_is_lost_beyond_what_the_first_one_loses() -> None:
    counted = 0
    for seed in range(300, 340):
        versions, _ = random_contest(seed)
        exits = versions[0].model.exits
        limit = limit_among(versions, goals=goals())
        loses = 0.0 if exits is None else policy_drop(exits, [each.name for each in exits.exits]).high
        assert limit == max(0.0, loses)
        assert limit_among(versions[:1], goals=goals()) is None
        counted += bool(limit)
    assert counted > 5


def test_version_of_a_version_loses_what_both_lose_beside_it() -> None:
    versions, _ = random_contest(1)
    recipe = Recipe("made up", "older", drop=Drop(0.01, 0.0, 0.03))
    made = SimpleNamespace(**{**vars(versions[0].model), "recipe": recipe})
    first = replace(versions[0], model=cast(Model, made))
    second = replace(versions[1], base=first)
    own = second.model.recipe
    assert own is not None and own.drop is not None
    assert second.lost == max(0.0, own.drop.high) + 0.03
    assert second.likely_lost == own.drop.estimate + 0.01
