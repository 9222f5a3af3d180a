"""How sure a prediction is, against draws of what the profiles may have got wrong."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import pytest

from splitnn.planner.conditions import Form
from splitnn.planner.doubt import chance_quicker, interval_ns, relative_deviations
from splitnn.planner.forms import FormProblem
from tests.planner.random_problems import random_problem

DEVIATIONS = (0.05, 0.1)
DRAWS = 20_000


def a_form(tiers: tuple[int, ...], device_ns: int, cloud_ns: int) -> Form:
    weights = (device_ns, cloud_ns, 0, 0, 0)
    return Form(tiers, (), (device_ns, cloud_ns), (0, 0), (0,), weights, tuple(map(Fraction, weights)), Fraction(0))


def test_interval_holds_as_many_draws_as_it_says(seed: int) -> None:
    rng = random.Random(seed)
    form = a_form((0, 1), 100_000, 40_000)
    low, high = interval_ns(form, 200_000, DEVIATIONS, within=0.9)
    draws = [
        200_000 + sum(ns * rng.gauss(0, share) for ns, share in zip(form.compute_ns, DEVIATIONS, strict=True))
        for _ in range(DRAWS)
    ]
    assert sum(low <= draw <= high for draw in draws) / DRAWS == pytest.approx(0.9, abs=0.02)


def test_chance_is_the_share_of_draws_in_which_the_other_is_quicker(seed: int) -> None:
    rng = random.Random(seed)
    best, other = a_form((0, 0, 1), 100_000, 40_000), a_form((0, 1, 1), 80_000, 65_000)
    behind_ns = 5_000

    def off(form: Form) -> float:
        return sum(ns * rng.gauss(0, share) for ns, share in zip(form.compute_ns, DEVIATIONS, strict=True))

    quicker = sum(behind_ns + off(other) - off(best) < 0 for _ in range(DRAWS)) / DRAWS
    assert chance_quicker(other, best, DEVIATIONS, behind_ns=behind_ns) == pytest.approx(quicker, abs=0.02)


def test_same_layers_on_the_same_hosts_share_their_error() -> None:
    """Two codecs for one cut differ by what was measured, not by the layers."""
    form = a_form((0, 1), 100_000, 40_000)
    assert chance_quicker(form, form, DEVIATIONS, behind_ns=1) == 0
    assert chance_quicker(form, form, DEVIATIONS, behind_ns=0) == 0.5


def test_profiles_that_hide_their_error_leave_it_unknown(seed: int) -> None:
    problem = random_problem(random.Random(seed), layers=3, tiers=2, pinned=False)
    hosts = FormProblem(problem.graph, problem.profiles, problem.topology).hosts
    stated = {
        "device": replace(problem.profiles["device"], error=0.01, tail_error=0.5),
        "gateway": replace(problem.profiles["gateway"], error=0.5, tail_error=0.02),
    }
    assert relative_deviations(problem.profiles, hosts) is None
    assert relative_deviations(stated, hosts) == pytest.approx((0.01 / 0.6745, 0.02 / 0.6745), rel=1e-4)
