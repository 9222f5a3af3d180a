"""ONNX Runtime on the CPU: a stage as a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from splitnn.graph.code import Callee
from splitnn.runtime.engines.exchange import onnx_model


def onnxruntime(call: Callee, example: Sequence[torch.Tensor]) -> Callee:
    """The piece in ONNX Runtime, for inputs of the example's shapes, on as many threads as torch has now.

    Raises:
        ModuleNotFoundError: onnxruntime, onnx or onnxscript is not installed.
    """
    import onnxruntime as _  # noqa: F401 - before the conversion, which takes seconds

    return session_call(onnx_model(call, example).SerializeToString())


def session_call(model: bytes) -> Callee:
    """An ONNX model as a function of its inputs, in order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        feeds = {name: value.contiguous().numpy() for name, value in zip(names, values, strict=True)}
        return tuple(torch.from_numpy(array) for array in session.run(None, feeds))

    return run
