"""A compiled piece of a program as other tools take it: torch's exported program, and ONNX. Knows no engine."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from splitnn.graph.code import Callee
from splitnn.runtime.engines.qdq import quantise_weights, spread_constants, with_quantisers, without_quantisers

_TALKATIVE = ("torch.utils._pytree", "torchao", "coremltools")


@contextmanager
def quiet() -> Iterator[None]:
    """Without what converters say of the versions of torch and Python that they meet; errors are still heard."""
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def exported(call: Callee, example: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    """The piece for inputs of exactly these shapes."""
    return _exported(module_of(call), example)


def _exported(module: nn.Module, example: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    plain = tuple(tensor.clone() for tensor in example)  # a tensor made in inference mode cannot be exported with
    with torch.inference_mode(False), torch.no_grad():
        return torch.export.export(module, plain, strict=False)


def module_of(call: Callee) -> fx.GraphModule:
    """A module of its own that computes the same with the same weights.

    A converter puts stand-ins in the place of a module's weights while it works; the piece may be running meanwhile.
    """
    module = getattr(call, "__self__", None)
    if not isinstance(module, fx.GraphModule):
        raise TypeError(f"{call!r} is no compiled piece of a program")
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    copy = fx.GraphModule(module, graph)
    copy.eval()
    return copy


def unrounded(call: Callee) -> Callee | None:
    """The piece without its rounding to grids, None where it does none."""
    module = module_of(call)
    if not without_quantisers(module):
        return None
    plain: Callee = module.forward
    return plain


def onnx_model(
    call: Callee, example: Sequence[torch.Tensor], *, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> Any:
    """The piece as an ``onnx.ModelProto``, its inputs and outputs under these names where they are given.

    What the piece rounds to grids, the model computes in int8.

    Raises:
        ModuleNotFoundError: onnx or onnxscript is not installed.
    """
    import onnxscript  # noqa: F401 - torch.onnx imports it late and says less when it is missing

    module = module_of(call)
    in_int8 = with_quantisers(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx's own deprecations
        program = torch.onnx.export(
            _exported(module, example),
            dynamo=True,
            verbose=False,
            input_names=list(inputs) or None,
            output_names=list(outputs) or None,
        )
    assert program is not None
    made = program.model_proto
    if in_int8:
        spread_constants(made)
        quantise_weights(made)
    return made
