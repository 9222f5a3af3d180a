"""Which tensors int8 arithmetic wants in eight bits, and on which grids, by calibration data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping

import torch

from splitnn.errors import InvalidInput
from splitnn.graph.code import run_nodes
from splitnn.graph.grid import Grid, grid_nodes, is_on_grid
from splitnn.graph.model import Model
from splitnn.graph.owners import layer_of_nodes
from splitnn.graph.program import Node, Ref, rewrite
from splitnn.tuning.evaluation import Progress, Samples, batches, check_data, silent
from splitnn.tuning.int8_names import on_grid, unrounded
from splitnn.tuning.rebuild import rebuilt

WEIGHTY = frozenset(f"aten.{name}.default" for name in ("conv1d", "conv2d", "linear"))
"""Calls of an input, a weight with output channels first, and perhaps a bias."""

_JOINS = frozenset(
    f"aten.{name}"
    for name in (
        "add.Tensor", "mul.Tensor", "cat.default", "mean.dim", "avg_pool2d.default", "adaptive_avg_pool2d.default",
    )
)  # fmt: skip
_SAME_GRID = frozenset(
    f"aten.{name}"
    for name in (
        "max_pool2d.default", "constant_pad_nd.default", "pad.default", "view.default", "reshape.default",
        "flatten.using_ints", "permute.default", "transpose.int", "squeeze.dim", "squeeze.dims", "unsqueeze.default",
        "clone.default", "contiguous.default",
    )
)  # fmt: skip
_IMAGE = 4  # dimensions of feature maps; sums of other tensors, as in transformers, stay in floats


def in_eight_bits(model: Model, layers: Collection[str] | None = None) -> list[str]:
    """Tensors that convolutions, linear layers, and sums of feature maps (of these layers only) read, in order.

    A tensor that is merely moved about, or the largest of some, is on the grid that its source is on. What the model
    returns stays as it is.
    """
    program, owner = model.program, layer_of_nodes(model.graph, model.program)
    returned = {ref.name for ref in program.outputs if isinstance(ref, Ref)}
    found: set[str] = set()
    for node in program.nodes:
        if node.name not in owner or not (layers is None or owner[node.name] in layers):
            continue
        for name in _read_in_eight_bits(model, node):
            while (before := program.node.get(name)) is not None and before.op in _SAME_GRID:
                name = before.reads[0]
            spec, fits = model.graph.tensors.get(name), layers is None or name not in owner or owner[name] in layers
            if (
                fits
                and (before is None or not is_on_grid(before))
                and spec is not None
                and spec.dtype == "float32"
                and name not in returned
            ):
                found.add(name)
    return [name for name in model.graph.tensors if name in found]


def _read_in_eight_bits(model: Model, node: Node) -> tuple[str, ...]:
    tensors, read = model.graph.tensors, node.reads
    if node.op in WEIGHTY:
        return read[:1]
    by_a_number = node.op.endswith(".Tensor") and len(read) < 2  # folds into what is before it
    images = all(name in tensors and len(tensors[name].shape) == _IMAGE for name in read)
    return read if node.op in _JOINS and images and not by_a_number else ()


def grids(model: Model, data: Samples, tensors: Collection[str], *, progress: Progress = silent) -> dict[str, Grid]:
    """A grid for each tensor, between the least and the largest value that it holds on the data.

    Narrower ranges, by squared error, made EfficientNet-Lite0 answer otherwise: rare large values matter most.

    Raises:
        InvalidInput: the data do not fit the model, or it makes NaN or infinity of them.
    """
    check_data(model, data)
    ends: dict[str, tuple[float, float]] = {}
    wanted, done = set(tensors), 0
    with torch.inference_mode():
        for batch in batches(model, data):
            progress(done / len(data.origins), "taking ranges")
            done += len(next(iter(batch.values())))
            for name, value in _values(model, batch):
                if name in wanted:
                    low, high = (end.item() for end in value.aminmax())
                    if not (math.isfinite(low) and math.isfinite(high)):
                        raise InvalidInput(f"{data.source}: {name!r} gets NaN or infinity, which int8 cannot hold")
                    before = ends.get(name, (0.0, 0.0))
                    ends[name] = min(before[0], low), max(before[1], high)
    return {name: Grid.between(*found) for name, found in ends.items()}


def _values(model: Model, batch: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    made = run_nodes(model.program.nodes, {**model.weights, **batch})
    return itertools.chain(batch.items(), ((node.name, value) for node, value in made))


def on_grids(model: Model, found: Mapping[str, Grid]) -> Model:
    """The model with these tensors on their grids: each is rounded by the layer that makes it, an input by its readers.

    So what crosses a cut has eight bits too, and a head's last layer is computed in int8 like its others.
    """
    inputs = {name for name in found if name in model.program.inputs}

    def swapped(leaf: object) -> object:
        return Ref(on_grid(leaf.name)) if isinstance(leaf, Ref) and leaf.name in inputs else leaf

    calls = [call for name in sorted(inputs) for call in grid_nodes(on_grid(name), name, found[name])]
    for node in model.program.nodes:
        args = rewrite(node.args, swapped)
        kwargs = {key: rewrite(value, swapped) for key, value in node.kwargs.items()}
        if node.name in found:
            calls.append(Node(unrounded(node.name), node.op, args, kwargs))
            calls += grid_nodes(node.name, unrounded(node.name), found[node.name])
        else:
            calls.append(Node(node.name, node.op, args, kwargs))
    return rebuilt(model, model.weights, calls)
