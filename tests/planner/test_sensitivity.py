"""Thresholds are where the planner changes its mind: it is asked again just before and just behind each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import pytest

from splitnn.cost.network import Host, Link, Topology
from splitnn.planner.conditions import Conditions
from splitnn.planner.constraints import Constraints
from splitnn.planner.forms import FormProblem
from splitnn.planner.hull import hull_candidates
from splitnn.planner.min_cut import plan
from splitnn.planner.sensitivity import Axis, Sensitivity, Standing, axes_of
from tests.planner.random_problems import CODECS, Problem, every_placement, random_problem

PROBLEMS = 40
NEAR = Fraction(1, 10**6)


def form_problem(problem: Problem) -> FormProblem:
    return FormProblem(
        problem.graph, problem.profiles, problem.topology, codecs=CODECS, constraints=Constraints(pins=problem.pins)
    )


def rounding_ns(problem: Problem) -> int:
    """By how much a form and an estimate may differ: every number that the estimate rounds on its own."""
    return 3 * len(problem.graph.tensors) * len(problem.topology.hosts) + len(problem.graph) + 4


def topology_at(topology: Topology, conditions: Conditions) -> Topology:
    """The topology that has those conditions."""
    return Topology(
        tuple(
            Host(host.name, host.slowdown * float(factor))
            for host, factor in zip(topology.hosts, conditions.slowdown, strict=True)
        ),
        tuple(
            Link(float(1 / bit), float(trip)) for bit, trip in zip(conditions.up, conditions.round_trip_s, strict=True)
        ),
        tuple(Link(float(1 / bit)) for bit in conditions.down),
    )


def some_problems(seed: int, *, count: int = PROBLEMS, layers: int = 8, tiers: int = 3) -> Iterator[Problem]:
    """Random problems without pins: pins are the planner's tests."""
    rng = random.Random(seed)
    for _ in range(count):
        yield random_problem(rng, layers=rng.randint(1, layers), tiers=rng.randint(2, tiers), pinned=False)


def test_form_costs_what_the_planner_says_under_any_conditions(seed: int) -> None:
    rng = random.Random(seed)
    for problem in some_problems(seed):
        forms = form_problem(problem)
        for axis in axes_of(forms, round_trips_s=(0.0, 1e-5), bandwidths_bps=(1e6, 1e9), slowdowns=(0.1, 10)):
            conditions = axis.conditions(axis.low + Fraction(rng.random()) * (axis.high - axis.low))
            topology = topology_at(problem.topology, conditions)
            best = plan(problem.graph, problem.profiles, topology, codecs=CODECS)
            found = forms.solve(conditions)
            slack = rounding_ns(problem) * max(1, *map(float, conditions.slowdown))
            assert abs(found.at(conditions) - best.predicted.latency_ns) <= slack, f"seed {seed}, {axis.kind}"
            same = forms.priced(best.tiers, conditions)
            assert found.at(conditions) <= same.at(conditions) <= best.predicted.latency_ns + slack


def test_no_placement_is_below_the_best_of_an_axis_and_winners_are_on_it(seed: int) -> None:
    """Against every placement there is."""
    rng = random.Random(seed)
    never = 0
    for problem in some_problems(seed, count=25, layers=5):
        forms = form_problem(problem)
        axis = rng.choice(axes_of(forms, round_trips_s=(0.0, 1e-4)))
        sensitivity = Sensitivity(forms, axis)
        best = forms.solve(axis.conditions(axis.now))
        for tiers in every_placement(problem.graph, len(forms.hosts), {}):
            standing = sensitivity.standing(tiers, against=best.tiers)
            never += not standing.wins
            for place in _places(rng, axis):
                here = axis.conditions(place)
                behind = forms.priced(tiers, here).at(here) - forms.solve(here).at(here)
                assert behind >= standing.behind
                assert (behind == 0) or not _inside(place, standing.wins)
                ahead = forms.priced(best.tiers, here).at(here) - forms.priced(tiers, here).at(here)
                assert ahead >= 0 if _inside(place, standing.beats) else ahead <= 0, f"seed {seed}"
            there = axis.conditions(standing.closest)
            assert forms.priced(tiers, there).at(there) - forms.solve(there).at(there) == standing.behind
    assert never, "every placement wins somewhere: the problems are too easy"


def test_planner_changes_its_mind_exactly_at_a_threshold(seed: int) -> None:
    """Asked just inside the stretch where a placement wins it finds nothing better, just outside it does."""
    rng = random.Random(seed)
    checked = 0
    for problem in some_problems(seed, layers=8):
        forms = form_problem(problem)
        axis = rng.choice(axes_of(forms, round_trips_s=(0.0, 1e-4)))
        best = forms.solve(axis.conditions(axis.now))
        sensitivity = Sensitivity(forms, axis)
        for span in sensitivity.best:
            tiers = span.line.form.tiers
            standing = sensitivity.standing(tiers, against=best.tiers)
            for low, high in standing.wins:
                for edge, inwards in ((low, 1), (high, -1)):
                    if edge in (axis.low, axis.high):
                        continue
                    for step, wins in ((inwards, True), (-inwards, False)):
                        here = axis.conditions(edge + step * NEAR * min(edge, high - low))
                        assert (forms.priced(tiers, here).at(here) == forms.solve(here).at(here)) == wins
                        checked += 1
    assert checked > 50, f"only {checked} thresholds: the problems are too easy"


def test_threshold_holds_for_the_planner_itself(seed: int) -> None:
    """Not only for forms: a plan made 1 % beyond a threshold in bandwidth costs what the winner costs."""
    checked = 0
    for problem in some_problems(seed, layers=8):
        # Long transfers and slow layers: a nanosecond of rounding is nothing beside them.
        slow = {name: found.scaled(1e4) for name, found in problem.profiles.items()}
        links = [
            tuple(Link(link.bandwidth_bps / 1e4, link.latency_s * 1e4) for link in way)
            for way in (problem.topology.up, problem.topology.down)
        ]
        problem = replace(problem, profiles=slow, topology=Topology(problem.topology.hosts, *links))
        forms = form_problem(problem)
        axis = axes_of(forms)[0]
        sensitivity = Sensitivity(forms, axis)
        for before, behind in zip(sensitivity.best, sensitivity.best[1:], strict=False):
            for winner, loser, factor in ((before, behind, Fraction(99, 100)), (behind, before, Fraction(101, 100))):
                place = before.high * factor
                if not winner.low < place < winner.high:
                    continue
                topology = topology_at(problem.topology, axis.conditions(place))
                best = plan(problem.graph, problem.profiles, topology, codecs=CODECS)
                assert abs(best.predicted.latency_ns - winner.line.at(place)) <= rounding_ns(problem)
                if loser.line.at(place) - winner.line.at(place) > 2 * rounding_ns(problem):
                    assert best.predicted.latency_ns < loser.line.at(place)
                    checked += 1
    assert checked > 20


def test_nearest_stretch_is_the_least_change(seed: int) -> None:
    forms = form_problem(next(some_problems(seed)))
    bandwidth, round_trip = axes_of(forms)[:2]
    now = bandwidth.now
    ends = [(now / 8, now / 4), (now * 3, now * 9)]
    assert _standing(bandwidth).nearest(ends) == ends[1]
    assert _standing(bandwidth).nearest([]) is None
    trips = [(round_trip.now + 1, round_trip.now + 2), (round_trip.now + 3, round_trip.now + 4)]
    assert _standing(round_trip).nearest(trips) == trips[0]


@pytest.mark.parametrize("tiers", [2, 3])
def test_hull_holds_the_best_plan_at_every_bandwidth_load_and_round_trip(seed: int, tiers: int) -> None:
    rng = random.Random(seed)
    most = 0
    for problem in some_problems(seed, count=25, layers=14, tiers=tiers):
        forms = form_problem(problem)
        axes = axes_of(forms, bandwidths_bps=(1e5, 1e10), slowdowns=(0.1, 100))
        bandwidth, round_trip, load = axes[0], axes[1], axes[-1]
        candidates = hull_candidates(forms, bandwidth, load)
        most = max(most, len(candidates))
        for _ in range(8):
            x, s = (
                axis.low + Fraction(10 ** rng.uniform(-4, 0)) * (axis.high - axis.low) for axis in (bandwidth, load)
            )
            there = bandwidth.conditions(x)
            there = replace(there, slowdown=load.conditions(s).slowdown)
            trips = round_trip.conditions(Fraction(rng.choice((0.0, 1e-6, 1e-5, 1e-4)))).round_trip_s
            there = replace(there, round_trip_s=trips)
            assert min(form.at(there) for form in candidates) == forms.solve(there).at(there), f"seed {seed}"
    assert most > 4, "the random problems are too easy"


def test_hull_needs_two_axes() -> None:
    forms = form_problem(next(some_problems(1)))
    bandwidth, round_trip = axes_of(forms)[:2]
    for pair in ((bandwidth, bandwidth), (bandwidth, round_trip)):
        with pytest.raises(ValueError, match="two axes"):
            hull_candidates(forms, *pair)


def _standing(axis: Axis) -> Standing:
    return Standing(axis, (), (), axis.now, Fraction(0))


def _places(rng: random.Random, axis: Axis) -> list[Fraction]:
    return [axis.now, *(axis.low + Fraction(10 ** rng.uniform(-5, 0)) * (axis.high - axis.low) for _ in range(3))]


def _inside(place: Fraction, stretches: tuple[tuple[Fraction, Fraction], ...]) -> bool:
    return any(low <= place <= high for low, high in stretches)
