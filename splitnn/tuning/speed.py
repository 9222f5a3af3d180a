"""How long a version takes on this CPU, and what int8 arithmetic in ONNX Runtime would cost and gain."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median

import torch

from splitnn.graph.extract import extract
from splitnn.graph.model import Model
from splitnn.runtime.stage import stage
from splitnn.tuning.compress import Judged
from splitnn.tuning.drops import answers_of
from splitnn.tuning.evaluation import Samples

_WARM_UPS, _RUNS = 2, 9


def seconds_of(models: Mapping[str, Model]) -> dict[str, float]:
    """CPU seconds of a run of each model on its example, by the same names, in torch on one thread."""
    parts = {name: stage(model, model.graph.inputs, model.graph.outputs) for name, model in models.items()}
    return _timed({name: partial(parts[name].run, models[name].example) for name in models})


def in_int8(base: Model, calibration: Samples, judged: Judged) -> dict[str, float]:
    """What the base model loses and takes in ONNX Runtime's int8 arithmetic, as figures of a recipe.

    Nothing where ONNX Runtime is not installed, or the model was captured for more samples than one: a session takes
    what it was made for, and those that are left over would not be judged.
    """
    if base.graph.batch != 1:
        return {}
    feeds = [_row(base, calibration, row) for row in range(len(calibration.origins))]
    try:
        from splitnn.runtime.engines.int8 import int8_call

        with _one_thread():
            call = int8_call(extract(base, base.graph.inputs, [answers_of(base)]), feeds)
    except ModuleNotFoundError:
        return {}
    rows = [_row(base, judged.data, row) for row in range(len(judged.logits))]
    drop = judged.drop(torch.cat([call(*row)[0] for row in rows]))
    return {
        "onnxruntime_int8_drop": drop.estimate,
        "onnxruntime_int8_drop_low": drop.low,
        "onnxruntime_int8_drop_high": drop.high,
        **_timed({"onnxruntime_int8_latency_s": lambda: call(*rows[0])}),
    }


def _timed(ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU seconds of each, run in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with _one_thread():
        for number in range(_WARM_UPS + _RUNS):
            for name, work in ways.items():
                started_s = time.thread_time()
                work()
                if number >= _WARM_UPS:
                    taken[name].append(time.thread_time() - started_s)
    return {name: median(each) for name, each in taken.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _row(model: Model, data: Samples, row: int) -> list[torch.Tensor]:
    return [data.inputs[name][row : row + 1] for name in model.graph.inputs]
