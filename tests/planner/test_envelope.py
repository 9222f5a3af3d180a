"""The envelope is the planner asked at every bandwidth at once."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise

import pytest

from splitnn.cost.estimate import estimate
from splitnn.cost.network import Link, Topology
from splitnn.errors import InfeasiblePlan
from splitnn.planner.envelope import Envelope, Varying, compute_envelope
from splitnn.planner.min_cut import plan
from tests.planner.random_problems import CODECS, Problem, random_problem

PROBLEMS = 250
BANDWIDTHS = 12


@pytest.mark.parametrize("varying", ["up", "both"])
def test_envelope_equals_planning_at_each_bandwidth_and_round_trip(seed: int, varying: Varying) -> None:
    rng = random.Random(seed)
    most = 0
    for number in range(PROBLEMS):
        problem = random_problem(
            rng, layers=rng.randint(0, 25), tiers=rng.choice((2, 2, 3, 4)), pinned=rng.random() < 0.2
        )
        try:
            envelope = _envelope(problem, varying)
        except InfeasiblePlan:
            continue
        most = max(most, len(envelope.pieces()))
        for _ in range(BANDWIDTHS):
            bandwidth_bps = 10 ** rng.uniform(5, 10)
            round_trip_s = rng.choice((0.0, 1e-6, 1e-5, 1e-4))
            topology = _at(problem.topology, bandwidth_bps, round_trip_s, varying)
            best = plan(problem.graph, problem.profiles, topology, codecs=CODECS, pins=problem.pins)
            found = envelope.predict(bandwidth_bps, round_trip_s=round_trip_s)
            # The planner rounds each tensor's time to whole nanoseconds, the envelope does not.
            terms = len(found.predicted.transfers) + len(best.predicted.transfers) + 2 * len(problem.graph.outputs) + 2
            where = f"seed {seed}, problem {number}, {bandwidth_bps} bit/s, {round_trip_s} s"
            assert 0 <= found.predicted.latency_ns - best.predicted.latency_ns <= terms, where
            looked_up_s = envelope.latency_s(bandwidth_bps, round_trip_s=round_trip_s)
            assert looked_up_s == pytest.approx(best.predicted.latency_s, abs=terms * 1e-9), where
            assert envelope.at(bandwidth_bps, round_trip_s=round_trip_s).id == found.id, where
    assert most > 3, "the random problems are too easy: hardly a breakpoint"


def test_pieces_meet_without_gaps_and_neighbours_cost_the_same_where_they_meet(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(PROBLEMS):
        problem = random_problem(rng, layers=rng.randint(1, 15), tiers=rng.choice((2, 3)), pinned=False)
        envelope = _envelope(problem, "up")
        round_trip_s = rng.choice((0.0, 2e-6))
        pieces = envelope.pieces(round_trip_s=round_trip_s)
        where = f"seed {seed}, problem {number}"
        assert (pieces[0].low_bps, pieces[-1].high_bps) == (envelope.low_bps, envelope.high_bps), where
        for lower, upper in pairwise(pieces):
            assert lower.high_bps == upper.low_bps, where
            assert lower.plan.id != upper.plan.id, where
            edge = lower.high_bps
            assert lower.latency_s(edge, round_trip_s=round_trip_s) == pytest.approx(
                upper.latency_s(edge, round_trip_s=round_trip_s), rel=1e-9
            ), where
        for piece in pieces:
            middle = (piece.low_bps + piece.high_bps) / 2
            assert envelope.at(middle, round_trip_s=round_trip_s) is piece.plan, where


def test_prediction_is_the_estimate_of_the_same_placement_and_codecs(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        problem = random_problem(rng, layers=10, tiers=3, pinned=False)
        bandwidth_bps = 10 ** rng.uniform(6, 9)
        found = _envelope(problem, "up").predict(bandwidth_bps, round_trip_s=0.0)
        topology = _at(problem.topology, bandwidth_bps, 0.0, "up")
        codecs = {tensor: [codec] for tensor, codec in found.hops[0].items()}
        two_hosts = found.tiers and max(found.tiers) < 2
        if two_hosts:
            cost = estimate(problem.graph, found.placement, problem.profiles, topology, codecs=codecs)
            assert cost == found.predicted


def test_json_holds_every_piece_with_what_it_takes_at_both_ends() -> None:
    envelope = _envelope(random_problem(random.Random(7), layers=20, tiers=2, pinned=False), "up")
    pieces = envelope.pieces(round_trip_s=1e-6)
    found = json.loads(json.dumps(envelope.to_json(round_trip_s=1e-6)))
    assert [piece["plan"]["id"] for piece in found["pieces"]] == [piece.plan.id for piece in pieces]
    for piece in found["pieces"]:
        for bandwidth_bps, seconds in zip((piece["low_bps"], piece["high_bps"]), piece["latency_s"], strict=True):
            assert seconds == pytest.approx(envelope.latency_s(bandwidth_bps, round_trip_s=1e-6), rel=1e-12)


def test_one_piece_is_one_object_also_beyond_the_range() -> None:
    envelope = _envelope(random_problem(random.Random(1), layers=12, tiers=2, pinned=False), "up")
    assert envelope.at(1.0) is envelope.at(2.0) is envelope.at(envelope.low_bps)
    assert envelope.at(1e15) is envelope.at(1e16)


@pytest.mark.parametrize("bandwidth_bps", [0, -1.0, float("nan")])
def test_bandwidth_that_is_none_is_refused(bandwidth_bps: float) -> None:
    envelope = _envelope(random_problem(random.Random(1), layers=3, tiers=2, pinned=False), "up")
    with pytest.raises(ValueError, match="above 0"):
        envelope.at(bandwidth_bps)


def test_round_trip_that_is_none_is_refused() -> None:
    envelope = _envelope(random_problem(random.Random(1), layers=3, tiers=2, pinned=False), "up")
    for round_trip_s in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="round trip"):
            envelope.at(1e6, round_trip_s=round_trip_s)


def test_envelope_of_one_host_is_refused() -> None:
    problem = random_problem(random.Random(1), layers=3, tiers=2, pinned=False)
    alone = Topology(problem.topology.hosts[:1])
    with pytest.raises(ValueError, match="needs a link"):
        compute_envelope(problem.graph, problem.profiles, alone)


@pytest.mark.parametrize("limits", [(0, 1e6), (1e6, 1e5), (1e6, float("inf")), (float("nan"), 1e6)])
def test_range_that_is_none_is_refused(limits: tuple[float, float]) -> None:
    problem = random_problem(random.Random(1), layers=3, tiers=2, pinned=False)
    with pytest.raises(ValueError, match="bandwidths"):
        compute_envelope(problem.graph, problem.profiles, problem.topology, low_bps=limits[0], high_bps=limits[1])


def _envelope(problem: Problem, varying: Varying) -> Envelope:
    return compute_envelope(
        problem.graph,
        problem.profiles,
        problem.topology,
        codecs=CODECS,
        pins=problem.pins,
        low_bps=1e5,
        high_bps=1e10,
        varying=varying,
    )


def _at(topology: Topology, bandwidth_bps: float, round_trip_s: float, varying: Varying) -> Topology:
    """The topology with another first hop."""
    up, down = topology.up[0], topology.down[0]
    ratio = down.bandwidth_bps / up.bandwidth_bps
    down_bps = bandwidth_bps * ratio if varying == "both" else down.bandwidth_bps
    return replace(
        topology,
        up=(Link(bandwidth_bps, round_trip_s / 2), *topology.up[1:]),
        down=(Link(down_bps, round_trip_s / 2), *topology.down[1:]),
    )


def test_a_rate_that_nothing_varies_is_refused() -> None:
    problem = random_problem(random.Random(1), layers=3, tiers=2, pinned=False)
    with pytest.raises(ValueError, match="not 'down'"):
        compute_envelope(problem.graph, problem.profiles, problem.topology, varying="down")  # type: ignore[arg-type]
