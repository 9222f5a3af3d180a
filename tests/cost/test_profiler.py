"""The profiler against models whose true times are known: clocks are injected, nothing here depends on the machine."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from splitnn.cost.bench import ModelBench
from splitnn.cost.codec_costs import codec_costs
from splitnn.cost.measure import ATTEMPTS, Reading, Readings, measure
from splitnn.cost.profile import Clock
from splitnn.cost.profiler import held_out_errors, layer_timings, profile
from splitnn.errors import CodecError
from splitnn.graph.capture import capture
from splitnn.graph.graph import TensorSpec


class KnownBench:
    """Layers of known times. A stage pays ``overhead_s`` and gains ``gain_s`` where two neighbours run in one."""

    def __init__(
        self,
        times: Sequence[float],
        *,
        overhead_s: float = 0.0,
        gain_s: float = 0.0,
        wall_factor: float = 1.0,
        speed: Callable[[int], float] = lambda run: 1.0,
    ) -> None:
        self.times, self.overhead_s, self.gain_s, self.wall_factor, self.speed = (
            times, overhead_s, gain_s, wall_factor, speed
        )  # fmt: skip
        self.runs = 0
        self.clock_s = 0.0

    def now(self) -> Reading:
        return Reading(self.clock_s * self.wall_factor, self.clock_s)

    def layers(self) -> list[Reading]:
        return [self._read(time) for time in self.times]

    def head(self, position: int) -> Reading:
        return self._read(self.truth(0, position))

    def tail(self, position: int) -> Reading:
        return self._read(self.truth(position, len(self.times)))

    def truth(self, start: int, end: int) -> float:
        return sum(self.times[start:end]) + self.overhead_s - self.gain_s * max(0, end - start - 1)

    def _read(self, seconds: float) -> Reading:
        self.runs += 1
        seconds *= self.speed(self.runs)
        self.clock_s += seconds
        return Reading(seconds * self.wall_factor, seconds)


def read(bench: KnownBench, *, repeats: int = 5, budget_s: float = 1e9, clock: Clock = "cpu") -> Readings:
    return measure(bench, clock=clock, repeats=repeats, budget_s=budget_s, now=bench.now, progress=lambda *_: None)


def heads_of(readings: Readings, clock: Clock = "cpu") -> list[float]:
    timings = layer_timings(readings, clock)
    return [0.0, *accumulate(t.cpu_s if clock == "cpu" else t.wall_s for t in timings)]


def random_times(rng: random.Random, count: int = 40) -> list[float]:
    return [rng.choice([1e-6, 1e-4, 1e-3]) * (1 + rng.random()) for _ in range(count)]


def test_additive_layers_are_found_exactly(seed: int) -> None:
    bench = KnownBench(random_times(random.Random(seed)))
    readings = read(bench)
    assert [t.cpu_s for t in layer_timings(readings, "cpu")] == pytest.approx(bench.times)
    assert max(error or 0.0 for error in held_out_errors(readings, "cpu")) == pytest.approx(0, abs=1e-9)


def test_a_stage_overhead_is_met_by_every_head(seed: int) -> None:
    bench = KnownBench(random_times(random.Random(seed)), overhead_s=5e-5)
    readings = read(bench)
    found = heads_of(readings)
    first = min(readings.heads)
    for position in range(first, len(bench.times) + 1):  # before the first anchor the overhead is shared out
        assert found[position] == pytest.approx(bench.truth(0, position))


def test_neighbours_that_gain_from_each_other_are_met_at_the_anchors(seed: int) -> None:
    bench = KnownBench(random_times(random.Random(seed)), gain_s=9e-7)
    readings = read(bench)
    found = heads_of(readings)
    assert len(readings.heads) >= 3
    for position in (*readings.heads, len(bench.times)):
        assert found[position] == pytest.approx(bench.truth(0, position))


def test_tails_that_cost_more_than_whole_less_head_show_in_the_tail_error_only() -> None:
    bench = KnownBench([1e-3] * 28, overhead_s=1e-3)  # a tail pays the overhead again, the difference does not
    error, tail_error = held_out_errors(read(bench), "cpu")
    assert error == pytest.approx(0, abs=1e-9)
    assert tail_error is not None
    assert tail_error > 0.03


def test_both_clocks_are_kept_apart(seed: int) -> None:
    bench = KnownBench(random_times(random.Random(seed)), wall_factor=3.0)
    for clock in ("cpu", "wall"):
        timings = layer_timings(read(bench, clock=clock), clock)
        assert [t.wall_s for t in timings] == pytest.approx([3.0 * time for time in bench.times])
        assert [t.cpu_s for t in timings] == pytest.approx(bench.times)


def test_cuts_that_report_the_error_are_no_anchors(seed: int) -> None:
    readings = read(KnownBench(random_times(random.Random(seed))))
    assert readings.held_heads
    assert not readings.held_heads.keys() & readings.heads.keys()


def test_rounds_at_other_speeds_change_no_share(seed: int) -> None:
    rng = random.Random(seed)
    times = random_times(rng)
    calm = read(KnownBench(times), repeats=6)
    runs_a_round = len(times) + 1 + len(calm.heads) + 2 * len(calm.held_heads)
    factors = [rng.uniform(1, 4) for _ in range(99)]
    stages = len(calm.heads) + 2 * len(calm.held_heads) + 1
    first = 2 * len(times) + stages + len(calm.before)  # warm-up pass, pass that finds the anchors, warm-up of stages

    def speed(run: int) -> float:
        return factors[(run - first - 1) // runs_a_round] if first < run <= first + 6 * runs_a_round else 1.0

    loaded = read(KnownBench(times, speed=speed), repeats=6)
    whole = heads_of(loaded)[-1]
    assert [head / whole for head in heads_of(loaded)] == pytest.approx([h / sum(times) for h in heads_of(calm)])


def test_a_machine_that_slows_down_is_measured_again_until_it_is_calm() -> None:
    one_attempt = len(read(KnownBench([1e-3] * 20)).whole)
    bench = KnownBench([1e-3] * 20, speed=lambda run: 1.0 if run < 150 else 2.0)
    readings = read(bench)
    assert len(readings.whole) == one_attempt
    assert readings.drift("cpu") == 0.0
    assert readings.stage_s(readings.whole, "cpu") == pytest.approx(2 * 20e-3)


def test_a_machine_that_never_rests_is_given_up_and_the_drift_is_told() -> None:
    bench = KnownBench([1e-3] * 20, speed=lambda run: 1.01**run)
    readings = read(bench)
    assert readings.drift("cpu") > 0.1
    calm = KnownBench([1e-3] * 20)
    read(calm)
    assert bench.runs <= ATTEMPTS * calm.runs


def test_a_slow_model_gets_fewer_rounds_but_never_less_than_three() -> None:
    times = [0.1] * 20  # 2 s a run, about 16 s a round
    assert len(read(KnownBench(times), repeats=15, budget_s=100.0).whole) in range(5, 8)
    assert len(read(KnownBench(times), repeats=15, budget_s=1.0).whole) == 3


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_the_smallest_models_have_profiles_too(layers: int) -> None:
    bench = KnownBench([1e-3] * layers)
    assert heads_of(read(bench))[-1] == pytest.approx(layers * 1e-3)


class OperatorClock(TorchDispatchMode):
    """A clock that only operators move: each takes the seconds that its name says, others nothing."""

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = seconds
        self.elapsed_s = 0.0

    def now(self) -> Reading:
        return Reading(2 * self.elapsed_s, self.elapsed_s)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.elapsed_s += self.seconds.get(func._schema.name.split("::")[1], 0.0)
        return func(*args, **(kwargs or {}))


class Branches(nn.Module):
    """A split with parts, a table that depends on weights only, and two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.linspace(-1, 1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.relu(x).split(2, dim=1)  # (B, 4) -> (B, 2), (B, 2)
        return torch.cat([torch.sin(left), torch.cos(right)], dim=1) * torch.exp(self.table)


def test_times_of_real_stages_are_those_of_their_operators() -> None:
    model = capture(Branches(), (torch.randn(2, 4),))
    seconds = {"relu": 1.0, "split": 2.0, "split_with_sizes": 2.0, "sin": 3.0, "cos": 4.0, "cat": 5.0, "mul": 6.0}
    clock = OperatorClock(seconds | {"exp": 100.0})
    with clock:
        found = profile(model, host="lab", now=clock.now, budget_s=1e9)
    by_operator = {layer.op.split(".")[1]: found.layers[layer.name] for layer in model.graph.layers}
    assert {op: timing.cpu_s for op, timing in by_operator.items()} == pytest.approx(
        {op: seconds[op] for op in by_operator}  # the table costs nothing: it is computed before
    )
    assert found.whole.cpu_s == pytest.approx(21.0)
    assert found.whole.wall_s == pytest.approx(42.0)
    assert (found.error, found.drift) == (None, 0.0)  # so few layers that every cut is an anchor
    assert found.model == model.digest
    assert found.host == "lab"


class Residuals(nn.Module):
    """Two inputs, blocks with a way around them, an output from the middle."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        early = x
        for block in range(10):
            x = x + torch.sin(torch.cos(x) * y)
            early = x if block == 4 else early
        return early, torch.tanh(x)


def test_every_head_and_tail_of_a_real_model_is_predicted() -> None:
    model = capture(Residuals(), (torch.randn(2, 4), torch.randn(2, 4)))
    clock = OperatorClock({"add": 1.0, "sin": 3.0, "cos": 4.0, "mul": 6.0, "tanh": 2.0})
    with clock:
        found = profile(model, now=clock.now, budget_s=1e9)
        bench = ModelBench(model, now=clock.now)
        heads = [bench.head(position).cpu_s for position in range(len(model.graph) + 1)]
        tails = [bench.tail(position).cpu_s for position in range(len(model.graph) + 1)]
    sums = [0.0, *accumulate(found.seconds(layer.name) for layer in model.graph.layers)]
    assert sums == pytest.approx(heads)
    assert [sums[-1] - head for head in sums] == pytest.approx(tails)
    assert found.error is not None
    assert found.tail_error is not None
    assert max(found.error, found.tail_error) == pytest.approx(0, abs=1e-9)


class FixedCodec:
    """Half the bytes; a sine to encode, a cosine to decode."""

    name = "half"

    def accepts(self, spec: TensorSpec) -> bool:
        return spec.dtype == "float32"

    def encode(self, tensor: torch.Tensor) -> bytes:
        if tensor.shape[1] == 2:
            raise CodecError("too narrow")
        torch.sin(tensor)
        return bytes(tensor.nbytes // 2)

    def decode(
        self, payload: bytes | memoryview, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...] = ()
    ) -> torch.Tensor:
        return torch.cos(torch.zeros(shape))


def test_codecs_are_measured_on_the_tensors_that_layers_read() -> None:
    model = capture(Branches(), (torch.randn(2, 4),))
    clock = OperatorClock({"sin": 3.0, "cos": 4.0})
    with clock:
        found = codec_costs(
            model.graph,
            ModelBench(model, now=clock.now),
            {"half": FixedCodec()},
            clock="wall",
            device="cpu",
            now=clock.now,
            progress=lambda *_: None,
            pause=lambda: None,
        )
    costs = {name: by["half"] for name, by in found.items() if by}
    assert "x" in costs
    assert all((cost.size_bytes, cost.encode_s, cost.decode_s) == (16, 6.0, 8.0) for cost in costs.values())
    refused = {name for name in found if not found[name]}
    assert refused == {name for name in found if model.graph.tensors[name].shape[1] == 2}
    assert found.keys().isdisjoint(model.graph.outputs)


def test_what_a_pause_adds_to_a_codec_is_part_of_what_it_costs_on_every_tensor() -> None:
    model = capture(Branches(), (torch.randn(2, 4),))
    clock = OperatorClock({"sin": 3.0, "cos": 4.0})
    is_cold = False

    def pause() -> None:
        nonlocal is_cold
        is_cold = True

    class ColdCodec(FixedCodec):
        def encode(self, tensor: torch.Tensor) -> bytes:
            nonlocal is_cold
            if is_cold:
                is_cold = False
                torch.sin(tensor)
            return super().encode(tensor)

        def decode(self, *args: Any) -> torch.Tensor:
            nonlocal is_cold
            is_cold = False
            return super().decode(*args)

    with clock:
        bench = ModelBench(model, now=clock.now)
        found = codec_costs(
            model.graph, bench, {"half": ColdCodec()}, clock="wall", device="cpu", now=clock.now,
            progress=lambda *_: None, pause=pause,
        )  # fmt: skip
    costs = [by["half"] for by in found.values() if by]
    assert len(costs) > 1
    assert {(cost.encode_s, cost.decode_s) for cost in costs} == {(12.0, 8.0)}


def test_a_real_profile_belongs_to_its_model_and_adds_up() -> None:
    model = capture(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), (torch.randn(2, 8),))
    threads = torch.get_num_threads()
    steps: list[float] = []
    found = profile(model, repeats=3, progress=lambda done, what: steps.append(done))
    assert torch.get_num_threads() == threads
    found.check_fits(model.graph, model.digest)
    assert sum(found.seconds(layer.name) for layer in model.graph.layers) == pytest.approx(found.whole.cpu_s)
    assert {"processor", "torch", "python", "date", "load_before", "load_after"} <= found.machine.keys()
    assert steps[-1] == 1.0
    assert min(steps) >= 0.0
    assert max(steps) <= 1.0


def test_slowdown_stands_for_a_slower_host_and_is_labelled() -> None:
    model = capture(Branches(), (torch.randn(2, 4),))
    clock = OperatorClock({"relu": 1.0})
    with clock:
        found = profile(model, slowdown=8.0, now=clock.now)
    assert found.whole.cpu_s == pytest.approx(8.0)
    assert found.machine["simulated_slowdown"] == "8" and found.slowdown == 8


@pytest.mark.parametrize(
    "wrong", [{"repeats": 0}, {"threads": 0}, {"budget_s": 0.0}, {"slowdown": 0.0}, {"threads": 2, "clock": "cpu"}]
)
def test_misuse_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"above 0|one thread"):
        profile(capture(nn.ReLU(), (torch.randn(2, 4),)), **({"repeats": 3} | wrong))
