"""ExecuTorch with XNNPACK: what runs a head on phones and boards, here to check and to time what they will run."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from splitnn.graph.code import Callee
from splitnn.runtime.engines.exchange import exported, quiet


def executorch(call: Callee, example: Sequence[torch.Tensor]) -> Callee:
    """The piece in ExecuTorch, for inputs of the example's shapes. It takes the threads that it likes.

    Raises:
        ModuleNotFoundError: executorch is not installed.
    """
    return method_call(pte(call, example))


def method_call(file: bytes) -> Callee:
    """What a ``.pte`` file computes, as a function of its inputs, in order.

    Raises:
        ModuleNotFoundError: executorch is not installed.
    """
    with quiet():
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(file)
        method = program.load_method("forward")
    alive = file, program  # the method points into them, without keeping them

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert alive
        # The method's own memory is written again by its next run.
        return tuple(value.clone() for value in method.execute([value.contiguous() for value in values]))

    return run


def pte(call: Callee, example: Sequence[torch.Tensor]) -> bytes:
    """The piece as a ``.pte`` file, lowered to XNNPACK where that can be.

    Raises:
        ModuleNotFoundError: executorch is not installed.
    """
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(exported(call, example), partitioner=[XnnpackPartitioner()])
        return bytes(lowered.to_executorch().buffer)
