"""How long a version takes on this CPU, and what it takes and loses in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median

import torch

from splitnn.errors import EngineMismatch
from splitnn.graph.extract import extract
from splitnn.graph.model import Model
from splitnn.runtime.compiled import compiled_call
from splitnn.runtime.stage import stage
from splitnn.tuning.compress import Judged
from splitnn.tuning.drops import drop_figures
from splitnn.tuning.evaluation import Samples

_WARM_UPS, _RUNS = 2, 9


def seconds_of(models: Mapping[str, Model]) -> dict[str, float]:
    """CPU seconds of a run of each model on its example, by the same names, in torch on one thread."""
    parts = {name: stage(model, model.graph.inputs, model.graph.outputs) for name, model in models.items()}
    return _timed({name: partial(parts[name].run, models[name].example) for name in models})


def in_onnxruntime(base: Model, version: Model, judged: Judged) -> dict[str, float]:
    """What the version loses, and takes beside the base, in ONNX Runtime, as figures of a recipe.

    Raises:
        EngineMismatch: ONNX Runtime cannot run them, or the model was captured for more samples than one: a session
            takes what it was made for, and those that are left over would not be judged.
        ModuleNotFoundError: it is not installed.
    """
    if base.graph.batch != 1:
        raise EngineMismatch(
            f"the model was captured for {base.graph.batch} samples at once, and is judged in ONNX Runtime one by one"
        )
    with _one_thread():
        calls = {
            name: compiled_call(
                extract(model, model.graph.inputs, [judged.answer.output]), "onnxruntime", list(model.example.values())
            )
            for name, model in {"onnxruntime_base": base, "onnxruntime": version}.items()
        }
        rows = [_row(base, judged.data, row) for row in range(len(judged.logits))]
        drop = judged.drop(torch.cat([calls["onnxruntime"](*row)[0] for row in rows]))
    return {
        **drop_figures("onnxruntime", drop),
        **_timed({f"{name}_latency_s": partial(call, *rows[0]) for name, call in calls.items()}),
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
