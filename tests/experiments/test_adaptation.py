"""What is compared over a trace, and how: ways, stretches of time, ratios; and the whole once, on real programs."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.adaptation import passes
from experiments.adaptation.figures import figures_of, headline, stretches, table
from experiments.adaptation.passes import AGENT, Asked, Pass, Way, run_pass, seconds_at, ways_of
from experiments.adaptation.setup import Setup, parse
from experiments.bandwidth_sweep.cells import topology_of
from experiments.bandwidth_sweep.ways import Planning
from experiments.emulation.shape import Shape
from experiments.emulation.traces import Trace
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile, Timing
from splitnn.graph.graph import Graph, Layer, TensorSpec
from splitnn.planner.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
STEPS = Trace((0.0, 2.0, 3.0), (1e6, 0.0, 4e6), 5.0)


def pass_of(way: str, *requests: tuple[float, float, float], plan: str = "p") -> Pass:
    """Of (when sent, latency, how long until the next)."""
    return Pass(way, tuple(Asked(sent_s, took_s, held_s, plan, 100, "", "") for sent_s, took_s, held_s in requests))


def test_seconds_at_each_rate_add_up_to_what_is_followed_loops_included() -> None:
    assert seconds_at(STEPS, 5.0) == {1e6: 2.0, 0.0: 1.0, 4e6: 2.0}
    assert seconds_at(STEPS, 12.5) == {1e6: 6.0, 0.0: 2.5, 4e6: 4.0}
    for duration_s in (0.5, 2.0, 7.3, 31.0):
        rates = seconds_at(STEPS, duration_s)
        by_samples = [STEPS.rate_at((k + 0.5) * 0.01) for k in range(round(duration_s * 100))]
        assert sum(rates.values()) == pytest.approx(duration_s)
        assert rates == pytest.approx({rate: by_samples.count(rate) / 100 for rate in set(by_samples)}, abs=0.011)


def test_a_stretch_compares_the_same_seconds_of_every_way() -> None:
    agent = pass_of(AGENT, (0.0, 0.2, 2.5), (2.5, 0.4, 2.5), (5.0, 0.1, 5.0))
    slow_then_quick = pass_of("a", (0.0, 1.0, 5.0), (5.0, 0.1, 5.0))
    quick_then_slow = pass_of("b", (0.0, 0.3, 5.0), (5.0, 2.0, 5.0))
    first, second = stretches([agent, slow_then_quick, quick_then_slow], duration_s=10.0)
    assert first.mean_s == pytest.approx({AGENT: 0.3, "a": 1.0, "b": 0.3})
    assert (first.best_fixed_s, second.best_fixed_s) == pytest.approx((0.3, 0.1))
    figures = figures_of([agent, slow_then_quick, quick_then_slow], duration_s=10.0)
    assert figures["regret_vs_stretches"] == pytest.approx(0.0)
    assert figures["speedup_vs_best_fixed"] == pytest.approx(0.55 / 0.2)  # a: 0.55 s, b: 1.15 s
    assert figures["speedup_vs_b"] == pytest.approx(1.15 / 0.2)


def test_a_stall_counts_for_as_long_as_it_lasted() -> None:
    quick = [(n * 0.2, 0.09, 0.2) for n in range(25)]
    stalled = pass_of(AGENT, *quick, (5.0, 4.9, 5.0))
    steady = pass_of("device", *[(n * 0.2, 0.1, 0.2) for n in range(50)])
    assert stalled.mean_s == pytest.approx((0.09 + 4.9) / 2)
    figures = figures_of([stalled, steady], duration_s=10.0)
    assert figures["regret_vs_stretches"] == pytest.approx((0.09 + 4.9) / 0.2 - 1)
    assert figures["speedup_vs_best_fixed"] == pytest.approx(0.2 / (0.09 + 4.9))


def test_a_request_belongs_to_all_stretches_that_it_was_under_way_in() -> None:
    found = stretches([pass_of("a", (0.0, 0.1, 4.0), (4.0, 8.0, 8.0))], duration_s=12.0)
    assert [stretch.mean_s["a"] for stretch in found] == pytest.approx([0.1 * 0.8 + 8.0 * 0.2, 8.0, 8.0])


def test_a_lost_request_counts_with_its_deadline() -> None:
    right = Asked(0.0, 0.2, 1.0, "p", 10, "", "")
    degraded = Asked(1.0, 0.2, 1.0, "q", 10, "the cloud is lost", "")
    lost = Asked(2.0, 9.0, 1.0, "", 0, "", "gone")
    agent, dead = Pass(AGENT, (right, degraded, lost)), Pass("a", (lost,))
    figures = figures_of([agent, dead], duration_s=5.0)
    assert figures["agent_mean_s"] == pytest.approx((0.2 + 0.2 + 9.0) / 3)
    assert (figures["requests"], figures["requests_lost"], figures["agent_requests_lost"]) == (4, 2, 1)
    assert (figures["agent_requests_degraded"], figures["agent_switches"]) == (1, 1)
    assert figures["speedup_vs_best_fixed"] == pytest.approx(9.0 / agent.mean_s)
    assert headline({"x": figures})["agent_requests_lost"] == 1
    assert len(table([agent, dead], {})) == 3


def test_headline_takes_every_trace_that_has_the_figure() -> None:
    figures = headline(
        {"x": {"speedup_vs_best_fixed": 1.5, "requests": 2}, "y": {"speedup_vs_best_fixed": None, "requests": 3}}
    )
    assert figures["speedup_vs_best_fixed_min"] == figures["speedup_vs_best_fixed_max"] == 1.5
    assert figures["requests"] == 5
    assert figures["regret_vs_stretches_mean"] is None


def planning() -> Planning:
    """Three layers of 10 ms here and 1 ms there, with a small tensor in the middle."""
    specs = {"x": TensorSpec((1, 100_000), "float32"), "a": TensorSpec((1, 1000), "float32"),
             "b": TensorSpec((1, 1000), "float32"), "y": TensorSpec((1, 10), "float32")}  # fmt: skip
    names = ("x", "a", "b", "y")
    layers = tuple(Layer(f"l{i}", "op", (a,), (b,), "", (), 0) for i, (a, b) in enumerate(itertools.pairwise(names)))
    graph = Graph(layers, specs, ("x",), ("y",), {}, 1)

    def profile(host: str, seconds: float) -> Profile:
        each = {layer.name: Timing(seconds, seconds) for layer in layers}
        return Profile("0" * 64, host, each, Timing(3 * seconds, 3 * seconds))

    return Planning(graph, {"device": profile("device", 0.01), "cloud": profile("cloud", 0.001)}, ("raw",))


def topology(rate_bps: float) -> Topology:
    return topology_of(Shape(rate_bps, rate_bps, rtt_s=0.001))


def test_every_way_is_another_plan_and_the_best_plan_of_every_usual_rate_is_among_them() -> None:
    trace = Trace((0.0, 4.0, 5.0), (1e5, 5e7, 1e10), 6.0)
    found = planning()
    ways = ways_of(found, trace, duration_s=6.0, topology=topology)
    lines = [way.plan.split("| model")[0] for way in ways]
    assert (ways[0].name, ways[0].plan) == (AGENT, "auto")
    assert len(set(lines)) == len(lines)
    for rate_bps in (1e5, 5e7):  # the best at each rate, by the planner itself
        assert str(found.best(topology(rate_bps))).split("| model")[0] in lines
    for line in lines[1:]:
        assert Plan.parse(next(way.plan for way in ways if way.plan.startswith(line)), found.graph, model="0" * 64)


def test_a_lap_too_short_to_follow_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lasts 0\.01 s at least"):
        Trace((0.0,), (1e6,), 2e-300)


def test_a_trace_without_a_bit_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing passes in the first 3 s"):
        ways_of(planning(), Trace((0.0, 4.0), (0.0, 1e6), 5.0), duration_s=3.0, topology=topology)


def test_a_pass_sends_at_its_period_or_when_the_last_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    latencies_s = itertools.cycle((0.05, 0.5))

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    def ask(plan: str, *, turn: int, deadline_s: float) -> dict[str, Any]:
        sleep(took_s := next(latencies_s))
        if turn == 3:
            return {"failed": "gone"}
        return {"total_s": took_s + 0.01, "choose_s": 0.01, "plan": "p | model x", "sent_bytes": 7}

    monkeypatch.setattr(passes, "time", SimpleNamespace(monotonic=lambda: now_s, sleep=sleep))
    found = run_pass(ask, Way("w", "line"), duration_s=1.3, period_s=0.2, deadline_s=9.0)
    assert [each.sent_s for each in found.asked] == pytest.approx([0.0, 0.2, 0.7, 0.9])
    assert [each.latency_s for each in found.asked] == pytest.approx([0.05, 0.5, 0.05, 9.0])
    assert [each.held_s for each in found.asked] == pytest.approx([0.2, 0.5, 0.2, 0.5])
    assert [each.lost for each in found.asked] == ["", "", "", "gone"]
    assert found.asked[0].plan == "p"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trace", "lte"), "there is no file 'lte'"),
        (("--trace", str(ROOT / "README.md")), "README.md"),
        (("--seconds", "0"), "--seconds must be above 0"),
        (("--period-s", "nan"), "--period-s must be above 0"),
        (("--scale", "-1"), "--scale must be above 0"),
        (("--rtt-s", "-1"), "--rtt-s is a round trip"),
        (("--codecs", "raw,nonsense"), "not 'nonsense'"),
        (("--codecs", ","), "not 'none'"),
        (("--model", "nonsense"), "no model 'nonsense'"),
        (("--device-share", "0"), "a share of a core"),
        (("--server-share", "99"), "add up to more"),
        (("--json", "/nonexistent/figures.json"), "cannot be written"),
        (("--output", __file__), "exists already"),
        (("--trace", "4g", "--trace", "4g"), "the same name"),
    ],
)
def test_nonsense_is_refused_before_anything_starts(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(arguments, description="")
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_traces_are_scaled_and_no_faster_than_links_are_emulated_to(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text("0 1\n1 60\n")
    assert Setup(scale=2.0).trace(str(file)).rates_bps == (2e6, 100e6)
    assert Setup(seconds=30.0, seed=3).trace("3g") == Setup(seconds=30.0, seed=3).trace("3g")


@pytest.mark.slow
def test_agent_and_fixed_plans_answer_over_a_trace(tmp_path: Path) -> None:
    trace = tmp_path / "steps"
    trace.write_text("0 20\n1.5 0.6\n3 20\n")
    command = [
        sys.executable, "-m", "experiments.adaptation", "--trace", str(trace), "--seconds", "3", "--model",
        "squeezenet1_1", "--profiling-s", "1", "--device-share", "0.3", "--server-share", "0.6", "--codecs", "raw,int8",
        "--rounds", "1",
        "--output", str(tmp_path / "out"), "--json", str(tmp_path / "figures.json"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["headline"]["requests_lost"] == 0
    assert found["headline"]["speedup_vs_best_fixed_min"] > 0
    assert found["left_out"] == {}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"steps.csv", "steps.png", "summary.json"}
