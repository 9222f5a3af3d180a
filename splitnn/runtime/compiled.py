"""How a stage executes: in torch's own operators (exact), or compiled for another engine behind one function (fast).

A compiled stage is checked when it is loaded: it runs an example beside torch, and a difference above the declared
tolerance is an error, not a surprise in an answer. The engine belongs to the profile: measure the stage that will run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from splitnn.errors import EngineMismatch
from splitnn.graph.code import Callee
from splitnn.graph.model import Value
from splitnn.runtime.engines.exchange import unrounded
from splitnn.runtime.engines.executorch import executorch
from splitnn.runtime.engines.onnxruntime import onnxruntime
from splitnn.runtime.engines.openvino import openvino
from splitnn.runtime.stage import Stage

TOLERANCE = 1e-4
"""Largest difference to torch, as a share of the largest magnitude of the same output."""

_ROUNDING = 2.0
"""How far int8 may be from torch, in units of what rounding to eight bits changes in torch, root mean square.

Where torch and an engine differ by a hair, one rounds up what the other rounds down, and every layer after it makes
more of that: in the end they are as far apart as two ways to round are.
"""

Compile: TypeAlias = Callable[[Callee, Sequence[torch.Tensor]], Callee]
"""Makes a function of a stage's own function and of example inputs, for whose shapes it may specialise."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to run a stage."""

    compile: Compile
    extra: str = ""  # of this distribution, that installs it; "" where it is always there
    needs: tuple[str, ...] = ()  # modules


def _torch(call: Callee, example: Sequence[torch.Tensor]) -> Callee:
    return call


ENGINES: Mapping[str, Engine] = {
    "torch": Engine(_torch),
    "onnxruntime": Engine(onnxruntime, "onnx", ("onnxruntime", "onnx", "onnxscript")),
    "openvino": Engine(openvino, "openvino", ("openvino", "onnx", "onnxscript")),
    "executorch": Engine(executorch, "executorch", ("executorch",)),
}
"""torch is the one that exact plans use."""


def compiled(stage: Stage, engine: str, example: Mapping[str, Value], *, tolerance: float = TOLERANCE) -> Stage:
    """The same stage on another engine, for inputs of the example's shapes; other shapes go on running in torch.

    ``example`` holds at least the stage's inputs, such as the outputs of the stage before it.

    Raises:
        ValueError: no such engine.
        EngineMismatch: the engine cannot run the stage, or its results are further than ``tolerance`` from torch's.
        ModuleNotFoundError: the engine is not installed; the message says how to install it.
    """
    given = [example[name] for name in stage.inputs]
    tensors = [value for value in given if isinstance(value, torch.Tensor)]
    if not stage.layers or len(tensors) != len(given):
        known(engine)
        raise EngineMismatch(
            f"a stage of {len(stage.layers)} layers with inputs {list(stage.inputs)} runs in torch only"
        )
    try:
        call = compiled_call(stage.call, engine, tensors, outputs=stage.outputs, tolerance=tolerance)
    except EngineMismatch as error:
        raise EngineMismatch(f"on {stage.host}: {error}") from error
    return replace(stage, call=for_shapes_of(tensors, call, otherwise=stage.call))


def compiled_call(
    call: Callee,
    engine: str,
    tensors: Sequence[torch.Tensor],
    *,
    outputs: Sequence[str] = (),
    tolerance: float = TOLERANCE,
) -> Callee:
    """The function on another engine, checked on these inputs; ``outputs`` are its results' names, for messages.

    Raises:
        ValueError, EngineMismatch, ModuleNotFoundError: as ``compiled`` does.
    """
    chosen = installed(engine)
    try:
        made = chosen.compile(call, tensors)
        with torch.inference_mode():
            found = made(*tensors)
    except Exception as error:  # every engine has its own errors
        raise EngineMismatch(f"{engine} cannot run the stage: {' '.join(str(error).split())[:500]}") from error
    check_results(engine, call, tensors, found, outputs=outputs, tolerance=tolerance)
    return made


def check_results(
    engine: str,
    call: Callee,
    tensors: Sequence[torch.Tensor],
    found: Sequence[Any],
    *,
    outputs: Sequence[str] = (),
    tolerance: float = TOLERANCE,
) -> float:
    """How far ``found`` is from what the function makes of the tensors, as ``difference`` has it.

    Raises:
        EngineMismatch: further than the tolerance; of a function that rounds to eight bits, much further than rounding.
    """
    with torch.inference_mode():
        expected = call(*tensors)
        plain = unrounded(call)
        exact = expected if plain is None else plain(*tensors)
    largest = 0.0
    for name, want, got, float_want in zip(outputs or range(len(expected)), expected, found, exact, strict=True):
        largest = max(largest, share := difference(want, got))
        if share <= tolerance:
            continue
        if plain is None or share == float("inf"):
            raise EngineMismatch(
                f"{engine} is {share:.2g} of the largest value away from torch at {name!r}; allowed is {tolerance:g}"
            )
        away, rounding = (each.double().sub(want).norm().item() for each in (got, float_want))
        if not away <= _ROUNDING * rounding:
            raise EngineMismatch(
                f"{engine} in int8 is {away:.2g} away from torch at {name!r} (norm); rounding to eight bits changes "
                f"{rounding:.2g}, and {_ROUNDING:g} times that is allowed"
            )
    return largest


def known(engine: str) -> Engine:
    """The engine of that name.

    Raises:
        ValueError: there is none.
    """
    if engine not in ENGINES:
        raise ValueError(f"no engine is called {engine!r}; there are {', '.join(ENGINES)}")
    return ENGINES[engine]


def installed(engine: str) -> Engine:
    """The engine of that name, ready to compile.

    Raises:
        ValueError: there is none.
        ModuleNotFoundError: it is not installed; the message says how to install it.
    """
    found = known(engine)
    for module in found.needs:
        if not _is_there(module):
            raise ModuleNotFoundError(f'{engine} needs {module}: pip install "splitnn[{found.extra}]"', name=module)
    return found


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # blocked in sys.modules
        return False


def for_shapes_of(tensors: Sequence[torch.Tensor], call: Callee, *, otherwise: Callee) -> Callee:
    """``call`` for inputs of these shapes and dtypes, the other function for all others."""
    shapes = [(tensor.shape, tensor.dtype) for tensor in tensors]

    def either(*values: Any) -> tuple[Any, ...]:
        fits = all(
            isinstance(value, torch.Tensor) and (value.shape, value.dtype) == shape
            for value, shape in zip(values, shapes, strict=True)
        )
        return call(*values) if fits else otherwise(*values)

    return either


def difference(want: Any, got: Any) -> float:
    """Largest difference as a share of the largest magnitude; infinite for another shape or dtype, or a stray NaN."""
    if not isinstance(want, torch.Tensor) or want.shape != got.shape or want.dtype != got.dtype:
        return float("inf")
    if not want.dtype.is_floating_point:
        return 0.0 if torch.equal(want, got) else float("inf")
    if want.numel() == 0:
        return 0.0
    gap = torch.where(want.isnan() & got.isnan(), 0.0, (want - got).abs().nan_to_num(nan=float("inf"))).max().item()
    return gap / max(want.abs().nan_to_num().max().item(), torch.finfo(torch.float32).tiny)
