"""OpenVINO on the CPU, in float32: by itself it computes in bfloat16 where the processor can, 0.4 % off."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from splitnn.graph.code import Callee
from splitnn.runtime.engines.exchange import onnx_model


def openvino(call: Callee, example: Sequence[torch.Tensor]) -> Callee:
    """The piece in OpenVINO, for inputs of the example's shapes, on as many threads as torch has now.

    Raises:
        ModuleNotFoundError: openvino, onnx or onnxscript is not installed.
    """
    from openvino import Core

    core = Core()
    # Through ONNX: read from torch directly, shapes that the program computes stay dynamic.
    network = core.read_model(onnx_model(call, example).SerializeToString())
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    ready = core.compile_model(network, "CPU", settings)
    outputs = list(ready.outputs)

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = ready([value.contiguous().numpy() for value in values])
        return tuple(torch.from_numpy(found[output]) for output in outputs)

    return run
