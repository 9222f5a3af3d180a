"""From a program to the graph that is planned: one run of the example tells shapes, layouts and FLOPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from splitnn.errors import CaptureError
from splitnn.graph.code import run_nodes
from splitnn.graph.graph import DATA_DEPENDENT, Layer, TensorSpec
from splitnn.graph.program import Node
from splitnn.graph.translate import Translation


def lay_out(
    translation: Translation,
    weights: Mapping[str, torch.Tensor],
    example: Mapping[str, torch.Tensor],
    samples: int,
) -> tuple[tuple[Layer, ...], dict[str, TensorSpec]]:
    """The layers in the program's order, and a spec of every tensor between them at ``samples`` samples."""
    program = translation.program
    part_of = {part: whole for whole, parts in translation.parts.items() for part in parts}
    tensors = {name: _spec(value, translation.shapes.get(name), samples) for name, value in example.items()}
    reads = _weights_behind(program.nodes, program.constants, set(program.weights))
    layers: list[Layer] = []
    counter = FlopCounterMode(display=False)
    seen = 0
    with torch.inference_mode(), counter:
        for node, value in run_nodes(program.nodes, {**weights, **example}):
            flops, seen = counter.get_total_flops() - seen, counter.get_total_flops()
            if node.name in program.constants:
                continue
            if node.name not in translation.parts:
                tensors[node.name] = _spec(value, translation.shapes.get(node.name), samples)
            if node.name in part_of:
                continue
            layers.append(
                Layer(
                    name=translation.layers.get(node.name, node.name),
                    op=node.op,
                    inputs=tuple(read for read in node.reads if read not in reads),
                    outputs=translation.parts.get(node.name, (node.name,)),
                    module=translation.modules.get(node.name, ""),
                    weights=tuple(sorted({weight for read in node.reads for weight in reads.get(read, ())})),
                    flops=flops,
                )
            )
    return tuple(layers), tensors


def _weights_behind(nodes: tuple[Node, ...], constants: frozenset[str], weights: set[str]) -> dict[str, frozenset[str]]:
    """For each weight and each constant: the weights that it is made of."""
    behind = {name: frozenset({name}) for name in weights}
    for node in nodes:
        if node.name in constants:
            behind[node.name] = frozenset().union(*(behind[read] for read in node.reads))
    return behind


def _spec(value: Any, symbolic: Any, samples: int) -> TensorSpec:
    if not isinstance(value, torch.Tensor):
        return TensorSpec((), "int")
    if value.layout != torch.strided or value.is_quantized:
        raise CaptureError(f"a {value.layout} {value.dtype} tensor is made inside, which cannot travel")
    shape = tuple(value.shape)
    order = tuple(sorted(range(value.ndim), key=lambda i: (-value.stride()[i], i)))
    return TensorSpec(
        shape=shape,
        dtype=str(value.dtype).removeprefix("torch."),
        batch_growth=_growth(symbolic, shape, samples),
        dim_order=() if value.is_contiguous() or order == tuple(range(value.ndim)) else order,
    )


def _growth(symbolic: Any, shape: tuple[int, ...], samples: int) -> tuple[int, ...]:
    """How much each dimension grows a sample, from torch's symbolic shape; () when nothing grows."""
    if not isinstance(symbolic, torch.Tensor):
        return ()
    growth = tuple(_growth_of(dim, size, samples) for dim, size in zip(symbolic.shape, shape, strict=True))
    return growth if any(growth) else ()


def _growth_of(dimension: Any, size: int, samples: int) -> int:
    if isinstance(dimension, int):
        return 0
    expression = dimension.node.expr
    symbols = expression.free_symbols
    if len(symbols) > 1 or any(not symbol.name.startswith("s") for symbol in symbols):
        return DATA_DEPENDENT
    one, two = (int(expression.subs(dict.fromkeys(symbols, samples + more))) for more in (1, 2))
    return one - size if one - size == two - one >= 0 else DATA_DEPENDENT
