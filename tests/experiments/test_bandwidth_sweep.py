"""The sweep: its arithmetic on made-up cells, its choice of ways, and a quick run of the real thing."""

import csv
import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.bandwidth_sweep.cells import Cell, Measured, topology_of
from experiments.bandwidth_sweep.cuts import Survey
from experiments.bandwidth_sweep.figures import cross_fitted_regret, headline, notes_of, overhead_s, without_choice
from experiments.bandwidth_sweep.measuring import Compiled, _Turns, measure_cell
from experiments.bandwidth_sweep.plots import draw_model
from experiments.bandwidth_sweep.report import requests_of, rows_of, summary_lines, write_csv
from experiments.bandwidth_sweep.store import Store
from experiments.bandwidth_sweep.ways import (
    AGENT,
    BASELINES,
    CANDIDATE,
    COMPRESSED,
    DEVICE,
    NEUROSURGEON,
    Planning,
    Way,
    ways_over,
)
from experiments.emulation.shape import METHODS, Method, Shape, shape_of
from experiments.leftovers import wait_until
from splitnn.cost.network import Topology
from splitnn.cost.profile import CodecCost, Profile, Timing
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.planner.envelope import compute_envelope
from splitnn.planner.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
LINK = Shape(1e6, 1e6, rtt_s=0.02)


def chain(*sizes: int) -> Graph:
    """A photo, and one layer for each size of what it makes in float32 values."""
    tensors = {"image": TensorSpec((1, 10, 10, 3), "uint8")}
    layers, before = [], "image"
    for number, size in enumerate(sizes):
        layers.append(Layer(f"l{number}", "op", (before,), (f"t{number}",), "", (), 0))
        before = f"t{number}"
        tensors[before] = TensorSpec((1, size), "float32")
    return Graph(tuple(layers), tensors, ("image",), (before,), {}, 1)


def planning_of(graph: Graph) -> Planning:
    codecs = {"image": {"jpeg90": CodecCost(60, 1e-4, 1e-4), "png": CodecCost(200, 1e-4, 1e-4)}}
    here = Profile(
        "0" * 64, "device", {y.name: Timing(0.01, 0.01) for y in graph.layers}, Timing(0.1, 0.1), codecs=codecs
    )
    return Planning(graph, {"device": here, "cloud": here.scaled(0.1, host="cloud")}, ("raw", "jpeg90", "png"))


def ways(planning: Planning, *, over: Shape = LINK) -> dict[str, Plan]:
    """Plan by role."""
    topology = topology_of(over)
    envelope = compute_envelope(planning.graph, planning.profiles, topology, codecs=planning.codecs, varying="both")
    static = planning.best(topology)
    found = ways_over(planning, topology, envelope=envelope, static=static, chain=planning.cut_vertices())
    assert len({way.plan.id for way in found}) == len(found)  # each plan once
    return {role: way.plan for way in found for role in way.roles}


def test_every_baseline_is_among_the_ways_and_the_planner_is_never_predicted_slower() -> None:
    found = ways(planning_of(chain(50, 10, 400, 2, 8)))
    assert {"planned", DEVICE, "cloud raw", COMPRESSED, "cloud png", NEUROSURGEON, "static"} <= set(found)
    quickest = min(found.values(), key=lambda plan: plan.predicted.latency_ns)
    assert found["planned"].predicted.latency_ns == quickest.predicted.latency_ns
    assert found[COMPRESSED].hops[0] == {"image": "jpeg90"}
    assert found[DEVICE].is_local


def test_neurosurgeon_cuts_where_one_tensor_crosses() -> None:
    spec = TensorSpec((1, 4), "float32")
    layers = [
        Layer("a", "op", ("image",), ("ta",), "", (), 0),
        Layer("b", "op", ("ta",), ("tb",), "", (), 0),
        Layer("c", "op", ("ta", "tb"), ("tc",), "", (), 0),
    ]
    graph = Graph(tuple(layers), {"image": TensorSpec((1, 9, 9, 3), "uint8")} | dict.fromkeys(("ta", "tb", "tc"), spec),
                  ("image",), ("tc",), {}, 1)  # fmt: skip
    assert planning_of(graph).cut_vertices() == [0, 1, 3]  # after b both ta and tb cross


def measured(
    roles: Sequence[str], latencies_s: Sequence[float], *, predicted_s: float = 1.0, tiers: int = 0
) -> Measured:
    planning = planning_of(chain(5, 5))
    plan = planning.priced([0] * (2 - tiers) + [1] * tiers, topology_of(LINK), codecs=("raw",))
    numbers = dict.fromkeys(
        ["choose_s", "encode_s", "network_s", "decode_s", "local_tail_s", "queue_s", "cloud_queue_s", "received_bytes",
         "predicted_head_s", "predicted_transfer_s", "predicted_tail_s"], 0.0)  # fmt: skip
    requests: list[dict[str, Any]] = [
        {**numbers, "total_s": latency_s, "seen_s": latency_s, "predicted_s": predicted_s, "sent_bytes": 1000.0 * tiers,
         "head_s": 0.01, "tail_s": 0.02, "same_label": True, "cosine": 1.0, "turn": turn}
        for turn, latency_s in enumerate(latencies_s)
    ]  # fmt: skip
    return Measured(plan, tuple(roles), tuple(requests))


def cell(*ways: Measured) -> Cell:
    return Cell("m", LINK, is_calibrated=True, ways=ways, load=0.0, survey=Survey(9, 4, 5, 0, within=math.inf))


def test_regret_speedup_and_error_are_fractions_of_medians() -> None:
    figures = headline(
        [
            cell(
                measured([AGENT], [1.1, 0.9, 1.0], predicted_s=1.2),
                measured([DEVICE, "rival"], [2.0, 2.0, 9.0], predicted_s=2.0, tiers=1),
                measured([COMPRESSED], [0.8, 0.8, 0.8], predicted_s=0.8, tiers=2),
                measured([CANDIDATE], [3.0], predicted_s=1.0, tiers=1),  # a look: no median to judge predictions by
            )
        ]
    )
    assert figures["regret_mean"] == pytest.approx(1.0 / 0.8 - 1)
    assert figures["speedup_vs_device_median"] == pytest.approx(2.0)
    assert figures["speedup_vs_cloud_min"] == pytest.approx(0.8)
    assert figures["worst_loss_vs_both_ends"] == pytest.approx(0.25)
    assert figures["prediction_error_median"] == pytest.approx(0.0)
    assert figures["prediction_error_p90"] == pytest.approx(0.2)


def off_rate(cell: Cell) -> Cell:
    return dataclasses.replace(cell, is_calibrated=False)


def test_cells_over_links_off_their_rates_are_counted_and_in_no_figure_where_there_are_others() -> None:
    right = cell(measured([AGENT], [1.0, 1.0], predicted_s=1.0, tiers=1), measured([DEVICE], [2.0]))
    wrong = cell(measured([AGENT], [9.0] * 4, predicted_s=1.0, tiers=2), measured([DEVICE], [1.0] * 4))
    mixed, alone = headline([right, off_rate(wrong)]), headline([right])
    counts = [name for name in mixed if name.startswith(("cells", "candidate", "requests"))]
    assert {name: mixed[name] for name in mixed if name not in counts} == {
        name: alone[name] for name in alone if name not in counts
    }
    assert (mixed["cells"], mixed["cells_off_target"], alone["cells_off_target"]) == (2, 1, 0)
    assert "1 of 2 cells" in notes_of([right, off_rate(wrong)])["links"]
    assert "all 1 cells are over links that kept" in notes_of([right])["links"]


def test_where_no_link_kept_its_rate_there_are_figures_and_a_word_about_it() -> None:
    wrong = cell(measured([AGENT], [3.0] * 4, tiers=2), measured([DEVICE, COMPRESSED], [1.0] * 4))
    figures = headline([off_rate(wrong)])
    assert {**figures, "cells_off_target": 0} == headline([wrong])
    assert figures["regret_worst"] == pytest.approx(2.0)
    text = "\n".join(summary_lines([off_rate(wrong)], figures, {}))
    assert "links: all 1 cells are over links off their rates, and the figures are of those" in text


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (2, 2), (19, 19), (20, 19), (21, 20), (100, 95), (101, 96)])
def test_95_of_100_requests_are_no_slower_than_p95(count: int, rank: int) -> None:
    latencies_s = [float(n) for n in range(1, count + 1)]
    random.Random(count).shuffle(latencies_s)
    assert measured([AGENT], latencies_s).p95_s == rank


def test_overhead_is_what_neither_computing_nor_the_wire_took() -> None:
    way = measured([AGENT], [0.1], tiers=1)
    wire_s = 0.02 + 1000 * 8 * 1514 / 1448 / 1e6
    assert overhead_s(cell(way), way) == pytest.approx(0.1 - 0.03 - wire_s)


def test_an_oracle_that_noise_made_has_no_regret_on_the_other_half() -> None:
    chosen = measured([AGENT], [1.0, 1.0, 1.0, 1.0])
    lucky = measured(["rival"], [0.8, 1.2, 0.8, 1.2], tiers=1)
    assert cross_fitted_regret(cell(chosen, lucky)) == pytest.approx((1 / 1.2 - 1) / 2)


def test_a_way_that_was_never_measured_keeps_its_row(tmp_path: Path) -> None:
    cells = [cell(measured([AGENT], [1.0]), measured(["rival"], [], tiers=1))]
    write_csv(tmp_path / "rows.csv", rows_of(cells, {"commit": "abc"}))
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["p50_s"] for row in rows] == ["1.0", ""]
    assert {row["commit"] for row in rows} == {"abc"}
    assert any("regret_mean" in line for line in summary_lines(cells, headline(cells), {}))


class FakeAgent:
    """Takes as long as predicted; by itself it sends the photo as JPEG. Gives up on plans that send it as PNG."""

    def __init__(self, planning: Planning) -> None:
        self.planning = planning
        self.asked: list[str] = []

    def __call__(self, plan: str, *, turn: int, deadline_s: float) -> dict[str, Any]:
        self.asked.append(plan)
        line = str(ways(self.planning)[COMPRESSED]) if plan == "auto" else plan
        seconds = Plan.parse(line, self.planning.graph).predicted.latency_s
        answer = {"plan": line, "total_s": seconds, "seen_s": seconds, "choose_s": 0.0, "same_label": True}
        return answer | ({"degraded": "too slow"} if "png" in line else {})


def test_the_agents_choice_is_one_of_the_ways_and_all_take_turns() -> None:
    planning = planning_of(chain(50, 10, 400, 2, 8))
    agent = FakeAgent(planning)
    given = [Way(plan, (role,)) for role, plan in ways(planning).items() if role in (DEVICE, COMPRESSED, "cloud png")]
    slowest_s = max(way.plan.predicted.latency_s for way in given)
    found, _ = measure_cell(
        agent, planning, given, LINK, rounds=4, way_s=2.5 * slowest_s, chance=random.Random(1), pause_s=0.0
    )
    by_role = {role: way for way in found for role in way.roles}
    assert by_role[AGENT] is by_role[COMPRESSED]
    assert agent.asked.count("auto") == 3
    slowest = max(found, key=lambda way: way.plan.predicted.latency_s)
    assert len(slowest.requests) + len(slowest.degraded) == 2  # as many as fit into its time
    assert max(len(way.requests) for way in found) == 4
    assert not by_role["cloud png"].requests  # what was finished without the cloud says nothing of this way
    assert by_role["cloud png"].degraded


def compiled_plans(plans: Sequence[Plan]) -> Compiled:
    compiled = Compiled()
    for plan in plans:
        compiled.add(plan.id)
    return compiled


def test_the_agent_chooses_after_it_has_tried_every_way_once() -> None:
    planning = planning_of(chain(50, 10, 400, 2, 8))
    agent = FakeAgent(planning)
    given = list({plan.id: Way(plan, (role,)) for role, plan in ways(planning).items() if role == DEVICE}.values())
    compiled = compiled_plans([way.plan for way in given])
    found, _ = measure_cell(
        agent, planning, given, LINK, rounds=3, way_s=1e-9, chance=random.Random(1), compiled=compiled
    )
    assert agent.asked.index("auto") == len(given)  # nothing to warm up: one round, then the choice
    assert [len(way.requests) for way in found if AGENT in way.roles] == [1], "a choice that is new is measured too"


def test_after_three_rounds_only_those_go_on_that_may_yet_be_the_best_and_the_agents_own() -> None:
    planning = planning_of(chain(50, 10, 400, 2, 8))
    agent = FakeAgent(planning)
    given = list({plan.id: Way(plan, (role,)) for role, plan in ways(planning).items()}.values())
    found, _ = measure_cell(agent, planning, given, LINK, rounds=9, way_s=1e9, chance=random.Random(1), pause_s=0.0)
    quickest_s = min(way.p50_s for way in found if way.requests)
    for way in found:
        if way.requests:
            contends = AGENT in way.roles or way.p50_s <= 1.3 * quickest_s
            assert len(way.requests) == (9 if contends else 3)
    assert {len(way.requests) for way in found if way.requests} == {3, 9}, "one of the two kinds is missing here"


def test_compiled_plans_are_not_warmed_up_again_but_the_two_quickest_remote_ones_tell_of_the_link_twice() -> None:
    planning = planning_of(chain(50, 10, 400, 2, 8))
    agent, compiled = FakeAgent(planning), Compiled()
    given = list({plan.id: Way(plan, (role,)) for role, plan in ways(planning).items()}.values())
    uncounted = []
    for _ in range(2):
        agent.asked.clear()
        found, _ = measure_cell(
            agent, planning, given, LINK,
            rounds=1, way_s=1e9, chance=random.Random(1), pause_s=0.0, compiled=compiled,
        )  # fmt: skip
        counted = sum(len(way.requests) + len(way.degraded) for way in found)
        uncounted.append(len(agent.asked) - agent.asked.count("auto") - counted)
    assert uncounted == [len(given) + 2, 4]


def test_an_agent_forgets_the_plan_that_it_was_asked_for_longest_ago() -> None:
    compiled = Compiled()
    for number in (*range(20), 0, *range(20, 40)):
        compiled.add(f"plan {number}")
    assert "plan 39" in compiled
    assert "plan 0" in compiled
    assert "plan 1" not in compiled


def test_an_interrupted_sweep_knows_its_cells_again(tmp_path: Path) -> None:
    store, setup = Store(tmp_path), {"rounds": 5, "models": ("m",), "codecs": ("raw", "png")}
    cells = [cell(measured([AGENT], [1.0, 2.0], tiers=2), measured(["rival"], [])), cell(measured([DEVICE], [3.0]))]
    assert store.load(setup) == []
    store.add(cells[0], setup)
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write('{"setup": {"rou')  # killed while it wrote
    assert len(store.load(setup)) == 1
    store.add(cells[1], setup)
    again = store.load(setup | {"models": ("m", "other")})
    assert rows_of(again, {}) == rows_of(cells, {})
    assert headline(again) == headline(cells)
    with pytest.raises(ValueError, match="other rounds"):
        store.load(setup | {"rounds": 7})


def test_a_line_that_is_no_cell_is_refused_where_it_does_not_end_the_file(tmp_path: Path) -> None:
    store, setup = Store(tmp_path), {"rounds": 5}
    store.add(cell(measured([AGENT], [1.0])), setup)
    for line in ("{", "[]", '{"setup": {"rounds": 5}}'):
        with (tmp_path / "cells.jsonl").open("a") as file:
            file.write(line + "\n")
        with pytest.raises(ValueError, match=r"line 2: not a cell"):
            store.load(setup)
        whole = (tmp_path / "cells.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "cells.jsonl").write_text(whole[0])


def test_cells_over_other_links_are_not_mixed_since_links_decide_the_static_cut(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(cell(measured([AGENT], [1.0])), {"links": ("1Mbps/10ms", "2Mbps/10ms"), "models": ("m",)})
    with pytest.raises(ValueError, match="other links"):
        store.load({"links": ("1Mbps/10ms",), "models": ("m",)})


def test_links_that_differ_in_any_digit_look_different_and_are_read_back() -> None:
    for text in ("18.88Mbps/40ms", "18.94Mbps/40ms", "18.8812Mbps/0ms", "2Mbps:20Mbps/40ms", "0.5kbps/10ms"):
        shape = shape_of(text)
        assert shape_of(str(shape)) == shape
    assert str(shape_of("18.88Mbps/40ms")) == "18.88Mbps/40ms"


def test_a_cell_whose_own_way_failed_is_counted_and_named_and_its_requests_are_rows() -> None:
    lost = dataclasses.replace(measured([AGENT], []), failures=("deadline exceeded", "deadline exceeded"))
    cells = [cell(lost, measured([DEVICE], [1.0], tiers=1)), cell(measured([AGENT, DEVICE], [1.0]))]
    figures = headline(cells)
    assert figures["cells_without_choice"] == 1
    assert without_choice(cells) == ["m over 1Mbps/20ms: 2 requests failed, 0 were degraded: deadline exceeded"]
    assert any("2 requests failed" in line for line in summary_lines(cells, figures, {}))
    rows = requests_of(cells, {"commit": "abc", "link_method": "netem"})
    assert [row.get("failed") for row in rows] == ["deadline exceeded"] * 2 + [None] * 2
    assert {(row["commit"], row["link_method"], row["down_bps"]) for row in rows} == {("abc", "netem", 1e6)}


def test_there_is_a_speedup_over_every_baseline() -> None:
    others = [measured([role], [float(n)], tiers=n % 3) for n, role in enumerate(BASELINES, 2)]
    figures = headline([cell(measured([AGENT], [1.0]), *others)])
    medians = {name: figure for name, figure in figures.items() if name.startswith("speedup") and "median" in name}
    assert sorted(figure for figure in medians.values() if figure is not None) == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_the_summary_says_how_it_was_measured() -> None:
    about = {"commit": "abc-dirty", "link_method": "proxy", "server_share": "full speed"}
    cells = [dataclasses.replace(cell(measured([AGENT], [1.0])), about=about)]
    text = "\n".join(summary_lines(cells, headline(cells), {"commit": "def"}))
    assert all(words in text for words in ("commit: abc-dirty, def", "link_method: proxy", "server_share: full speed"))


def test_what_was_finished_without_the_cloud_ends_no_other_ways_turns() -> None:
    planning = planning_of(chain(50, 10, 400, 2, 8))
    found = ways(planning)
    way, given_up = Way(found[DEVICE], (DEVICE,)), Way(found["cloud png"], ("cloud png",))
    turns = _Turns(FakeAgent(planning), Compiled(), pause_s=0.0)  # which gives up on PNG
    for each in (way, given_up):
        turns.take(each, 0)
    assert turns.contends(way)
    assert not turns.contends(given_up)


def test_overhead_is_reported_of_what_there_is_and_says_of_what() -> None:
    remote, local = cell(measured([AGENT], [0.1], tiers=1)), cell(measured([AGENT], [0.05]))
    fast = dataclasses.replace(local, shape=Shape(1e9, 1e9, rtt_s=0.02))
    for cells, share, words in (
        ([remote, local], overhead_s(remote, remote.ways[0]) / 0.1, "used the cloud"),
        ([local, fast], (0.05 - 0.03) / 0.05, "in none of which"),
        ([fast], (0.05 - 0.03) / 0.05, "above 20 Mbit/s"),
    ):
        assert headline(cells)["overhead_share"] == pytest.approx(share)
        assert words in notes_of(cells)["overhead_share"]
    assert headline([])["overhead_share"] is None
    assert "none" in notes_of([])["overhead_share"]


def test_a_picture_has_a_panel_for_each_round_trip_and_ratio_of_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = [Shape(1e6, 1e6, rtt_s=0.02), Shape(9e6, 9e6, rtt_s=0.02), Shape(1e6, 8e6, rtt_s=0.02)]
    drawn: list[Shape] = []

    def noting(shape: Shape) -> Topology:
        drawn.append(shape)
        return topology_of(shape)

    monkeypatch.setattr("experiments.bandwidth_sweep.plots.topology_of", noting)
    same = [measured([role], [2.0], tiers=n % 3) for n, role in enumerate(BASELINES)]
    cells = [dataclasses.replace(cell(measured([AGENT], [1.0]), *same), shape=shape) for shape in shapes]
    draw_model(tmp_path / "m.png", cells, planning_of(chain(50, 10, 400, 2, 8)), title="a title " * 30)
    assert (tmp_path / "m.png").stat().st_size > 1000
    assert {round(shape.down_bps / shape.up_bps) for shape in drawn} == {1, 8}


def test_ctrl_c_while_torch_is_imported_is_one_line(tmp_path: Path) -> None:
    sweeping = subprocess.Popen(
        [sys.executable, "-m", "experiments.bandwidth_sweep", "--quick", "--output", str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert wait_until(lambda: "libtorch" in Path(f"/proc/{sweeping.pid}/maps").read_text(), limit_s=120), (
            "it never loaded torch"
        )
        sweeping.send_signal(signal.SIGINT)
        said, _ = sweeping.communicate(timeout=120)
    finally:
        sweeping.kill()
    assert (sweeping.returncode, said) == (130, "interrupted\n")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", [None, "proxy"])
def test_a_quick_sweep_leaves_its_files_and_finite_figures(tmp_path: Path, method: Method | None) -> None:
    """By the best method there is: both models of the quick mode over one of its three links; by proxy the least."""
    less = ["--links", "18.88Mbps/40ms"]
    if method:
        less = ["--models", "squeezenet1_1", "--links", "5.85Mbps/10ms", "--methods", method]
    command = [sys.executable, "-m", "experiments.bandwidth_sweep", "--quick", "--output", str(tmp_path)]
    ended = subprocess.run(
        [*command, "--json", str(tmp_path / "figures.json"), *less],
        cwd=ROOT, env=os.environ | {"PYTHONWARNINGS": "default"}, capture_output=True, text=True, timeout=570,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    report = json.loads((tmp_path / "figures.json").read_text())
    figures = report["headline"]
    assert report["about"]["link_method"] in ([method] if method else METHODS)
    for name in ("regret_mean", "regret_worst", "prediction_error_median", "prediction_error_p90", "overhead_share",
                 *(f"speedup_vs_{end}_{word}" for end in ("device", "cloud") for word in ("min", "median", "max")),
                 "worst_loss_vs_any_baseline"):  # fmt: skip
        assert math.isfinite(figures[name]), name
    assert figures["candidate_cuts"] == figures["candidate_cuts_measured"] + figures["candidate_cuts_left_out"]
    assert "candidate cuts" in report["notes"]["oracle"]
    assert figures["cells"] == len(report["setup"]["models"]) * len(report["setup"]["links"])
    for name in ("rows.csv", "requests.csv", "summary.txt", *(f"{model}.png" for model in report["setup"]["models"])):
        assert (tmp_path / name).stat().st_size > 0, name
