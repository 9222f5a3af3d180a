"""``splitnn layers``: what a model consists of, by the names that constraints take."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from splitnn.cli.sources import MODEL_HELP, open_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from splitnn.graph.graph import Graph, Layer

_DESCRIPTION = """\
List the layers of MODEL in the order in which they run: what --keep-on-device, --private and --forbid take names from.

  splitnn layers efficientnet_lite0
  splitnn layers efficientnet_lite0 --only blocks.3

--keep-on-device takes a layer or a module, which is every layer in it (classifier.features.3.* where a layer has the
module's own name); --private a tensor, or a layer or a module for what it
makes; --forbid an operator, such as conv2d=device.
"""


@dataclass(frozen=True, slots=True)
class _Row:
    index: int
    layer: Layer
    shapes: tuple[tuple[int, ...], ...]  # of its tensors
    output_bytes: int


def add_parser(subparsers: Any) -> None:
    """Add ``layers`` to the command line."""
    parser = subparsers.add_parser(
        "layers",
        help="the layers, operators and tensors of a model by name",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--only", metavar="NAME", help="one layer, or the layers of one module")
    parser.add_argument("--json", action="store_true", help="print the list as JSON, with the tensors' names")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    from splitnn.planner.names import layers_named

    model = open_model(args.model)
    names = [layer.name for layer in model.graph.layers] if args.only is None else layers_named(model.graph, args.only)
    rows = _rows(model.graph, names)
    if args.json:
        print(json.dumps(_to_json(args.model, model.digest, model.graph, rows)))
        return 0
    table = Table("#", "layer", "operator", "makes", "KB", "MFLOP", box=None, header_style="bold")
    for row in rows:
        makes = ", ".join("x".join(map(str, shape)) or "number" for shape in row.shapes)
        kilobytes, mflop = f"{row.output_bytes / 1e3:.1f}", f"{row.layer.flops / 1e6:.2f}"
        table.add_row(str(row.index), row.layer.name, _short(row.layer.op), makes, kilobytes, mflop)
    console = Console(width=None if Console().is_terminal else 200, highlight=False)
    console.print(table, markup=False)
    read = ", ".join(
        f"{name} ({model.graph.tensors[name].dtype} {model.graph.tensors[name].shape}, "
        f"{model.graph.tensors[name].size_bytes / 1e3:.1f} KB)"
        for name in model.graph.inputs
    )
    print(f"{args.model}: {len(rows)} of {len(model.graph)} layers; it reads {read}")
    return 0


def _rows(graph: Graph, names: Sequence[str]) -> list[_Row]:
    return [
        _Row(
            graph.index[name],
            layer,
            tuple(graph.tensors[tensor].shape for tensor in layer.outputs),
            sum(graph.tensors[tensor].size_bytes for tensor in layer.outputs),
        )
        for name in names
        for layer in (graph.layer(name),)
    ]


def _to_json(name: str, digest: str, graph: Graph, rows: Sequence[_Row]) -> dict[str, Any]:
    return {
        "model": name,
        "digest": digest,
        "inputs": {tensor: list(graph.tensors[tensor].shape) for tensor in graph.inputs},
        "layers": [
            {
                "index": row.index,
                "name": row.layer.name,
                "operator": row.layer.op,
                "module": row.layer.module,
                "reads": list(row.layer.inputs),
                "makes": {tensor: list(shape) for tensor, shape in zip(row.layer.outputs, row.shapes, strict=True)},
                "output_bytes": row.output_bytes,
                "flops": row.layer.flops,
            }
            for row in rows
        ],
    }


def _short(op: str) -> str:
    """``aten.conv2d.default`` as the constraint ``--forbid conv2d=HOST`` takes it."""
    return op.split(".")[1] if op.count(".") >= 2 else op
