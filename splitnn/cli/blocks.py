"""Layers under names that a person can read: the modules that own them, cut to a length that fits on a screen."""

from __future__ import annotations

from splitnn.graph.graph import Graph

_MOST = 40


def blocks_of(graph: Graph) -> dict[str, str]:
    """Block of each layer: the longest beginning of module names that leaves at most 40 blocks.

    What all names begin with is left out. A layer whose module has no name then is a block of its own.
    """
    paths = {layer.name: tuple(layer.module.split(".")) if layer.module else () for layer in graph.layers}
    owned = [path for path in paths.values() if path]
    common = 0
    while owned and all(len(path) > common and path[common] == owned[0][common] for path in owned):
        common += 1
    depth = 1
    deepest = max((len(path) - common for path in owned), default=1)
    while depth < deepest and len({path[common : common + depth + 1] for path in owned}) <= _MOST:
        depth += 1
    return {name: ".".join(path[common : common + depth]) or name for name, path in paths.items()}
