"""The oracle of a sweep: which cuts there are, by trying all, and which of them are measured."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from experiments.bandwidth_sweep.cells import Cell, Measured, topology_of
from experiments.bandwidth_sweep.cuts import Cuts, Survey
from experiments.bandwidth_sweep.figures import headline, notes_of
from experiments.bandwidth_sweep.measuring import measure_cell
from experiments.bandwidth_sweep.report import rows_of
from experiments.bandwidth_sweep.ways import AGENT, CANDIDATE, CLOUD_RAW, DEVICE, Planning, Way
from experiments.emulation.shape import Shape
from splitnn.cost.profile import Profile, Timing
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.planner.plan import Plan

LINK = Shape(1e6, 1e6, rtt_s=0.02)
CODECS = ("raw",)


def graph_of(*layers: tuple[str, Sequence[str], int]) -> Graph:
    """Layers as (name, names of what they read, float32 values that they make); ``image`` is the input."""
    tensors = {"image": TensorSpec((1, 10, 10, 3), "uint8")}
    tensors |= {name: TensorSpec((1, size), "float32") for name, _, size in layers}
    made = tuple(Layer(f"l{name}", "op", tuple(reads), (name,), "", (), 0) for name, reads, _ in layers)
    return Graph(made, tensors, ("image",), (layers[-1][0],), {}, 1)


def inception(chance: random.Random) -> Graph:
    """Two blocks of branches, each with a skip or none."""
    layers: list[tuple[str, Sequence[str], int]] = [("stem", ("image",), 60)]
    before = "stem"
    for block in "xy":
        ends = []
        for branch in range(2):
            last = before
            for step in range(chance.randint(1, 2)):
                name = f"{block}{branch}{step}"
                layers.append((name, (last,), chance.randint(1, 80)))
                last = name
            ends.append(last)
        layers.append((f"join{block}", tuple(ends), chance.randint(1, 80)))
        before = f"join{block}"
    return graph_of(*layers)


def planning_of(graph: Graph, chance: random.Random) -> Planning:
    times = {layer.name: Timing(seconds := chance.uniform(0.001, 0.05), seconds) for layer in graph.layers}
    whole = sum(timing.cpu_s for timing in times.values())
    here = Profile("0" * 64, "device", times, Timing(whole, whole))
    return Planning(graph, {"device": here, "cloud": here.scaled(0.1, host="cloud")}, CODECS)


def brute_force(graph: Graph) -> set[tuple[int, ...]]:
    """Every division that lets data flow forwards only."""
    found = set()
    for tiers in itertools.product((0, 1), repeat=len(graph)):
        head = [layer.name for layer, tier in zip(graph.layers, tiers, strict=True) if not tier]
        if graph.is_closed(head):
            found.add(tiers)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_cuts_are_all_that_there_are_and_the_best_one_is_a_candidate_over_any_link(seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    planning = planning_of(inception(chance), chance)
    cuts = Cuts(planning)
    every = brute_force(planning.graph)
    assert {cut.tiers for cut in cuts.all} == every
    for bps in (1e4, 1e5, 1e6, 1e7, 1e9):
        topology = topology_of(Shape(bps, bps, rtt_s=0.01))
        candidates = cuts.candidates(topology)
        least_s = min(planning.priced(tiers, topology, codecs=CODECS).predicted.latency_s for tiers in every)
        assert candidates[0].predicted.latency_s == pytest.approx(least_s)
        assert len({plan.id for plan in candidates}) == len(candidates) <= len(every)


@pytest.mark.parametrize("seed", range(6))
def test_left_out_are_only_dominated_cuts_that_are_no_chains(seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    graph = inception(chance)
    planning = planning_of(graph, chance)
    topology = topology_of(LINK)
    plans = {tiers: planning.priced(tiers, topology, codecs=CODECS) for tiers in brute_force(graph)}
    chosen = {plan.tiers for plan in Cuts(planning).candidates(topology)}
    points = {tiers: (plan.predicted.compute_s[0], plan.predicted.sent_bytes) for tiers, plan in plans.items()}
    for tiers, (head_s, size_bytes) in points.items():
        head = [layer.name for layer, tier in zip(graph.layers, tiers, strict=True) if not tier]
        made = [tensor for tensor in graph.crossing(head) if tensor in graph.producer]
        is_dominated = any(
            other != tiers and h <= head_s + 1e-9 and b <= size_bytes for other, (h, b) in points.items()
        )
        assert (tiers in chosen) == (len(made) <= 1 or not is_dominated)


def test_a_block_with_too_many_cuts_counts_those_of_the_graphs_own_order() -> None:
    branches = [(f"b{n}", ("stem",), 5) for n in range(14)]  # 2 ** 14 heads
    graph = graph_of(("stem", ("image",), 60), *branches, ("join", tuple(name for name, _, _ in branches), 5))
    found = {cut.tiers for cut in Cuts(planning_of(graph, random.Random(1))).all}
    assert found == {(0,) * k + (1,) * (16 - k) for k in range(17)}


class FakeAgent:
    """Takes ``seconds(plan)``; by itself it stays on the device."""

    def __init__(self, planning: Planning, seconds: Callable[[Plan], float]) -> None:
        self._planning, self._seconds = planning, seconds
        self.asked: list[str] = []

    def __call__(self, plan: str, *, turn: int, deadline_s: float) -> dict[str, Any]:
        self.asked.append(plan)
        on_device = self._planning.priced([0] * len(self._planning.graph), topology_of(LINK), codecs=CODECS)
        line = str(on_device) if plan == "auto" else plan
        took_s = self._seconds(Plan.parse(line, self._planning.graph))
        if not math.isfinite(took_s):
            return {"failed": "deadline exceeded"}
        return {"plan": line, "total_s": took_s, "seen_s": took_s, "choose_s": 0.0}


def chain() -> Planning:
    """A chain of eight layers whose cuts cost more and more than the best one."""
    names = ["image", *(f"t{n}" for n in range(8))]
    sizes = (60, 40, 300, 20, 10, 200, 30, 5)
    return planning_of(
        graph_of(*((name, (before,), size) for before, name, size in zip(names, names[1:], sizes, strict=False))),
        random.Random(7),
    )


def measure(
    planning: Planning, seconds: Callable[[Plan], float], *, within: float, rounds: int = 3
) -> tuple[Cell, Survey, list[Plan], FakeAgent]:
    topology = topology_of(LINK)
    candidates = Cuts(planning).candidates(topology)
    size = len(planning.graph)
    given = [
        Way(planning.priced([0] * size, topology, codecs=CODECS), (DEVICE,)),
        Way(planning.priced([1] * size, topology, codecs=CODECS), (CLOUD_RAW,)),
    ]
    agent = FakeAgent(planning, seconds)
    found, survey = measure_cell(
        agent, planning, given, LINK, candidates=candidates, within=within,
        rounds=rounds, way_s=1e9, chance=random.Random(1), pause_s=0.0,
    )  # fmt: skip
    cell = Cell("m", LINK, is_calibrated=True, ways=tuple(found), load=0.0, survey=survey)
    return cell, survey, candidates, agent


def test_without_a_factor_every_candidate_is_measured_and_the_oracle_is_the_best_of_all() -> None:
    planning = chain()
    chance = random.Random(3)
    took_s = {plan.id: chance.uniform(1, 9) for plan in Cuts(planning).candidates(topology_of(LINK))}
    cell, survey, candidates, _ = measure(planning, lambda plan: took_s[plan.id], within=math.inf)
    assert survey == Survey(candidates=9, measured=9, left_out=0, unanswered=0, within=math.inf)
    assert {way.plan.id for way in cell.ways if CANDIDATE in way.roles} == {plan.id for plan in candidates}
    assert cell.oracle is not None
    assert cell.oracle.p50_s == min(took_s.values())


def test_candidates_predicted_above_the_factor_are_left_out_and_counted_but_for_the_three_quickest() -> None:
    planning = chain()
    for within in (1.0, 1.2, 1.5, 3.0):
        cell, survey, candidates, _ = measure(planning, lambda plan: plan.predicted.latency_s, within=within)
        best_s = candidates[0].predicted.latency_s
        ends = {plan.id for plan in candidates if len(set(plan.tiers)) == 1}  # baselines, measured in any case
        quickest = [plan.id for plan in candidates if plan.id not in ends][:3]
        near = {plan.id for plan in candidates if plan.predicted.latency_s <= within * best_s * 1.001}
        expected = {*near, *ends, *quickest}
        assert {way.plan.id for way in cell.ways if CANDIDATE in way.roles} == expected
        assert survey.measured == len(expected)
        assert survey.measured + survey.left_out == survey.candidates == len(candidates)


def test_where_everything_is_slower_than_predicted_candidates_are_weighed_against_what_was_measured() -> None:
    planning = chain()
    _, as_predicted, _, _ = measure(planning, lambda plan: plan.predicted.latency_s, within=1.2)
    _, slower, _, _ = measure(planning, lambda plan: 4 * plan.predicted.latency_s, within=1.2)
    assert slower.measured > as_predicted.measured


def test_candidates_come_after_the_agents_choice_and_only_near_ones_are_asked_again() -> None:
    planning = chain()
    took_s = {plan.id: 1 + 0.1 * rank for rank, plan in enumerate(Cuts(planning).candidates(topology_of(LINK)))}
    cell, _, candidates, agent = measure(planning, lambda plan: took_s[plan.id], within=math.inf, rounds=4)
    first = min(agent.asked.index(str(plan)) for plan in candidates if len(set(plan.tiers)) == 2)
    assert "auto" in agent.asked[:first]
    asked = {way.plan.id: len(way.requests) for way in cell.ways if way.roles == (CANDIDATE,)}
    for plan_id, requests in asked.items():
        assert requests == (4 if took_s[plan_id] <= 1.3 else 1)
    assert set(asked.values()) == {1, 4}, "one of the two kinds is missing here"
    assert [len(way.requests) for way in cell.ways if AGENT in way.roles] == [4]


def test_of_many_that_are_alike_only_some_are_asked_again() -> None:
    names = ["image", *(f"t{n}" for n in range(30))]
    planning = planning_of(
        graph_of(*((name, (before,), 40) for before, name in itertools.pairwise(names))), random.Random(7)
    )
    cell, survey, _, _ = measure(planning, lambda plan: 1.0, within=math.inf)
    assert survey.measured == 31
    requests = [len(way.requests) for way in cell.ways if way.roles == (CANDIDATE,)]
    assert (requests.count(3), requests.count(1)) == (12, 17)


@pytest.mark.parametrize("rounds", [1, 2])
def test_few_rounds_leave_out_as_many_candidates(rounds: int) -> None:
    planning = chain()
    _, survey, _, _ = measure(planning, lambda plan: plan.predicted.latency_s, within=1.2, rounds=3)
    assert measure(planning, lambda plan: plan.predicted.latency_s, within=1.2, rounds=rounds)[1] == survey


def test_a_candidate_that_nobody_answers_is_counted_and_keeps_its_row() -> None:
    planning = chain()
    lost = next(plan.id for plan in Cuts(planning).candidates(topology_of(LINK)) if len(set(plan.tiers)) == 2)
    cell, survey, _, _ = measure(
        planning, lambda plan: math.inf if plan.id == lost else plan.predicted.latency_s, within=math.inf
    )
    assert (survey.measured, survey.unanswered) == (8, 1)
    assert [way.failures for way in cell.ways if way.plan.id == lost] == [("deadline exceeded",)]


def test_rows_headline_and_notes_say_what_the_oracle_is() -> None:
    survey = Survey(candidates=60, measured=37, left_out=22, unanswered=1, within=1.4)
    lost = Measured(chain().best(topology_of(LINK)), (CANDIDATE,), requests=())
    cell = Cell("m", LINK, is_calibrated=True, ways=(lost,), load=0.0, survey=survey)
    assert [row["oracle"] for row in rows_of([cell], {})] == [str(survey)]
    figures = headline([cell, cell])
    assert (figures["candidate_cuts"], figures["candidate_cuts_measured"]) == (120, 74)
    assert (figures["candidate_cuts_left_out"], figures["candidate_cuts_unanswered"]) == (44, 2)
    assert "74 of 120 candidate cuts; 44 were left out, predicted above 1.4 times" in notes_of([cell, cell])["oracle"]
    assert str(survey) == "37 of 60 candidate cuts; 22 left out, predicted above 1.4 times the quickest; 1 unanswered"
