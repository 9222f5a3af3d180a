"""Let operators infer sizes that depend on the batch, so that no plain integers have to cross a cut.

torch exports ``x.view(batch, -1)`` as a call that reads the batch from the model's input, maybe hundreds of layers
earlier; every cut in between would have to send that integer along. ``view(-1, 1280)`` says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

_aten = torch.ops.aten
_VIEWS = {_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default}


def infer_sizes(graph: fx.Graph) -> None:
    """Rewrite views and expansions in place where their sizes can be inferred; drop calls that nobody reads."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in _VIEWS:
            sizes = _view_sizes(node.meta["val"].shape)
        elif node.target is _aten.expand.default:
            sizes = _expand_sizes(node.args[1], node.meta["val"].shape, node.args[0].meta["val"].shape)
        else:
            continue
        if sizes is not None:
            node.args = (node.args[0], sizes, *node.args[2:])
    for node in reversed(graph.nodes):
        # assertions about shapes have no readers either; ours are made where a request enters
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)


def _view_sizes(shape: Sequence[Any]) -> list[int] | None:
    """All sizes plain, the only one that varies as -1; None when several vary, or what else there is may be empty."""
    if sum(not isinstance(size, int) for size in shape) > 1 or any(
        size == 0 for size in shape if isinstance(size, int)
    ):
        return None
    return [size if isinstance(size, int) else -1 for size in shape]


def _expand_sizes(asked: Sequence[Any], shape: Sequence[Any], source: Sequence[Any]) -> list[Any]:
    """-1 where the source's own size is kept."""
    new = len(shape) - len(source)
    kept = [i >= new and _same(size, source[i - new]) for i, size in enumerate(shape)]
    return [-1 if keep else size for keep, size in zip(kept, asked, strict=True)]


def _same(one: Any, other: Any) -> bool:
    """Whether two sizes are one expression; asks no solver."""
    if isinstance(one, int) or isinstance(other, int):
        return isinstance(one, int) and isinstance(other, int) and one == other
    return bool(one.node.expr == other.node.expr)
