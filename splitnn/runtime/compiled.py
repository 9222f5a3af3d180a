"""How a stage executes: in torch's own operators (exact), or compiled for another engine behind one function (fast).

A compiled stage is checked when it is loaded: it runs an example beside torch, and a difference above the declared
tolerance is an error, not a surprise in an answer. The engine belongs to the profile: measure the stage that will run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from splitnn.errors import EngineMismatch
from splitnn.graph.code import Callee
from splitnn.graph.model import Value
from splitnn.runtime.stage import Stage

TOLERANCE = 1e-4
"""Largest difference to torch, as a share of the largest magnitude of the same output."""


def compiled(stage: Stage, engine: str, example: Mapping[str, Value], *, tolerance: float = TOLERANCE) -> Stage:
    """The same stage on another engine, for inputs of the example's shapes; other shapes go on running in torch.

    ``example`` holds at least the stage's inputs, such as the outputs of the stage before it.

    Raises:
        ValueError: no such engine.
        EngineMismatch: the engine cannot run the stage, or its results are further than ``tolerance`` from torch's.
        ModuleNotFoundError: the engine is not installed; the message says how to install it.
    """
    if engine not in ENGINES:
        raise ValueError(f"no engine is called {engine!r}; there are {', '.join(ENGINES)}")
    given = [example[name] for name in stage.inputs]
    if not stage.layers or not all(isinstance(value, torch.Tensor) for value in given):
        raise EngineMismatch(
            f"a stage of {len(stage.layers)} layers with inputs {list(stage.inputs)} runs in torch only"
        )
    tensors = [value for value in given if isinstance(value, torch.Tensor)]
    try:
        call = ENGINES[engine](stage.call, tensors)
        found = call(*tensors)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{engine} needs {error.name}: pip install "splitnn[onnx]"') from error
    except Exception as error:  # every engine has its own errors
        raise EngineMismatch(f"{engine} cannot run the stage on {stage.host}: {error}") from error
    with torch.inference_mode():
        expected = stage.call(*tensors)
    for name, want, got in zip(stage.outputs, expected, found, strict=True):
        if (share := _difference(want, got)) > tolerance:
            raise EngineMismatch(
                f"{engine} is {share:.2g} of the largest value away from torch at {name!r}; allowed is {tolerance:g}"
            )
    shapes = [(value.shape, value.dtype) for value in tensors]

    def either(*values: Any) -> tuple[Any, ...]:
        fits = all(
            isinstance(value, torch.Tensor) and (value.shape, value.dtype) == shape
            for value, shape in zip(values, shapes, strict=True)
        )
        return call(*values) if fits else stage.call(*values)

    return replace(stage, call=either)


def _difference(want: Any, got: Any) -> float:
    """Largest difference as a share of the largest magnitude; infinite for another shape or dtype, or a stray NaN."""
    if not isinstance(want, torch.Tensor) or want.shape != got.shape or want.dtype != got.dtype:
        return float("inf")
    if not want.dtype.is_floating_point:
        return 0.0 if torch.equal(want, got) else float("inf")
    if want.numel() == 0:
        return 0.0
    gap = torch.where(want.isnan() & got.isnan(), 0.0, (want - got).abs().nan_to_num(nan=float("inf"))).max().item()
    return gap / max(want.abs().nan_to_num().max().item(), torch.finfo(torch.float32).tiny)


def _torch(call: Callee, example: Sequence[torch.Tensor]) -> Callee:
    return call


def _onnxruntime(call: Callee, example: Sequence[torch.Tensor]) -> Callee:
    import onnxruntime
    import onnxscript  # noqa: F401 - torch.onnx imports it late and says less when it is missing

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx's own deprecations
        exported = torch.onnx.export(call.__self__, tuple(example), dynamo=True, verbose=False)  # type: ignore[attr-defined]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    assert exported is not None
    session = onnxruntime.InferenceSession(
        exported.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [node.name for node in session.get_inputs()]

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        feeds = {name: value.contiguous().numpy() for name, value in zip(names, values, strict=True)}
        return tuple(torch.from_numpy(array) for array in session.run(None, feeds))

    return run


ENGINES: Mapping[str, Callable[[Callee, Sequence[torch.Tensor]], Callee]] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
}
"""Makes a function of the stage's own function and example inputs. torch is the one that exact plans use."""
