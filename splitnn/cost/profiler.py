"""Measure a model on this machine: from readings to a profile whose layer times add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from statistics import median, quantiles
from types import MappingProxyType

import torch

from splitnn.cost.anchors import meet
from splitnn.cost.bench import Compile, ModelBench, clocks_of, in_torch
from splitnn.cost.codec_costs import TensorCodec, codec_costs
from splitnn.cost.machine import describe_machine, load_average
from splitnn.cost.measure import Progress, Reading, Readings, measure
from splitnn.cost.profile import Clock, Profile, Timing
from splitnn.graph.allocator import keep_freed_memory
from splitnn.graph.model import Model

_NO_CODECS: Mapping[str, TensorCodec] = MappingProxyType({})


def _silent(done: float, what: str) -> None:
    """No progress report."""


def profile(
    model: Model,
    *,
    host: str = "device",
    codecs: Mapping[str, TensorCodec] = _NO_CODECS,
    repeats: int = 15,
    budget_s: float = 10.0,
    threads: int = 1,
    device: str = "cpu",
    clock: Clock | None = None,
    slowdown: float = 1.0,
    engine: str = "torch",
    compile: Compile = in_torch,
    progress: Progress = _silent,
    now: Callable[[], Reading] | None = None,
) -> Profile:
    """Seconds of each layer on this machine, such that those of any head or tail add up to about its own.

    Large models get fewer than ``repeats`` readings of each stage, at least three, so that all of them take about
    ``budget_s`` seconds. ``threads`` is torch's number while measuring. ``clock`` is the one that the planner will use:
    CPU time for one thread (it repeats on a busy machine), wall time otherwise (CPU time is one thread's). ``slowdown``
    multiplies every time, to stand for a slower host; the profile says so. ``now`` reads both clocks. The process keeps
    freed memory afterwards (``keep_freed_memory``), as the programs that serve models do.

    ``compile`` makes of heads and tails what ``engine`` will run: they are measured there, and the shares of torch's
    own layers count between two of them.

    How far to trust it is in the result: ``error``, ``tail_error`` and ``drift``.

    Raises:
        ValueError: a count or factor is not above 0, or CPU time is asked for with several threads or a GPU,
            or there is no such GPU.
    """
    if min(repeats, threads) < 1 or not budget_s > 0:
        raise ValueError(f"repeats, threads and budget_s must be above 0: {repeats}, {threads}, {budget_s}")
    alone = threads == 1 and torch.device(device).type == "cpu"
    chosen: Clock = clock or ("cpu" if alone else "wall")
    if chosen == "cpu" and not alone:
        raise ValueError(f"CPU time is that of one thread: use the wall clock for {threads} threads on {device!r}")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"torch finds no GPU here for device {device!r}")
    now = now or clocks_of(device)
    machine = describe_machine(device) | {"load_before": load_average()}
    keeps = keep_freed_memory()
    with _torch_threads(threads):
        bench = ModelBench(model, device=device, compile=compile, now=now)
        readings = measure(
            bench, clock=chosen, repeats=repeats, budget_s=budget_s, now=now, progress=_part(progress, 0.0, 0.8)
        )
        costs = codec_costs(
            model.graph, bench, codecs, clock=chosen, device=device, now=now, progress=_part(progress, 0.8, 1.0)
        )
    progress(1.0, "done")
    machine |= {"load_after": load_average(), "device": device, "repeats": str(len(readings.whole))}
    machine["allocator"] = "keeps freed memory" if keeps else "default"
    if slowdown != 1.0:
        machine["simulated_slowdown"] = f"{slowdown:g}"
    names = [layer.name for layer in model.graph.layers]
    error, tail_error = held_out_errors(readings, chosen)
    return Profile(
        model=model.digest,
        host=host,
        layers=dict(zip(names, layer_timings(readings, chosen), strict=True)),
        whole=Timing(
            wall_s=readings.stage_s(readings.whole, "wall"),
            cpu_s=readings.stage_s(readings.whole, "cpu"),
            spread_s=_spread(readings.whole, chosen),
        ),
        clock=chosen,
        engine=engine,
        threads=threads,
        codecs=costs,
        error=error,
        tail_error=tail_error,
        drift=readings.drift(chosen),
        machine=machine,
    ).scaled(slowdown)


def _part(progress: Progress, start: float, end: float) -> Progress:
    """Progress of a part of the work as progress of all."""
    return lambda done, what: progress(start + (end - start) * done, what)


def layer_timings(readings: Readings, clock: Clock) -> list[Timing]:
    """Times of all layers by both clocks, which meet the anchors; ``clock`` is the one whose spread is kept."""
    wall, cpu = (_meeting(readings, each) for each in ("wall", "cpu"))
    spreads = [_spread(each, clock) for each in zip(*readings.layers, strict=True)]
    return [Timing(*each) for each in zip(wall, cpu, spreads, strict=True)]


def _meeting(readings: Readings, clock: Clock) -> list[float]:
    shares = readings.shares(clock)
    heads = {position: readings.stage_s(each, clock) for position, each in readings.heads.items()}
    return meet(shares, heads | {len(shares): readings.stage_s(readings.whole, clock)})


def held_out_errors(readings: Readings, clock: Clock) -> tuple[float | None, float | None]:
    """Median relative errors of predicted against measured heads and tails at cuts that no anchor knows.

    ``None`` where the model has too few layers for such cuts.
    """
    sums = [0.0, *accumulate(_meeting(readings, clock))]
    heads = [(sums[at], readings.stage_s(each, clock)) for at, each in readings.held_heads.items()]
    tails = [(sums[-1] - sums[at], readings.stage_s(each, clock)) for at, each in readings.held_tails.items()]
    return _median_error(heads), _median_error(tails)


def _median_error(pairs: Sequence[tuple[float, float]]) -> float | None:
    errors = [abs(predicted - measured) / measured for predicted, measured in pairs if measured > 0]
    return median(errors) if errors else None


def _spread(readings: Sequence[Reading], clock: Clock) -> float:
    """Interquartile range."""
    if len(readings) < 2:
        return 0.0
    low, _, high = quantiles((reading.by(clock) for reading in readings), n=4, method="inclusive")
    return high - low


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
