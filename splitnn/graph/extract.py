"""A piece of a model as a function: the nodes between the given and the wanted values, and only their weights.

Tensors that cross become arguments and results. What depends on weights only is computed on every host, never sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from splitnn.graph.code import Callee, Code
from splitnn.graph.model import Model
from splitnn.graph.program import Ref


def extract(model: Model, given: Sequence[str], wanted: Sequence[str], *, device: str = "cpu") -> Callee:
    """Compile the part of the model that turns ``given`` into ``wanted`` to Python code on ``device``.

    Raises:
        ValueError: ``given`` does not suffice.
    """
    nodes = model.program.needed(given, wanted)
    live = [node for node in nodes if node.name not in model.program.constants]
    reads = {name for node in live for name in node.reads}.union(wanted).difference(given)
    resident = model.resident_on(device)
    code = Code()
    for name in reads & resident.keys():
        code.keep(name, resident[name])
    code.write(live, given, tuple(Ref(name) for name in wanted), device)
    return code.compiled()


def weight_names(model: Model, given: Sequence[str], wanted: Sequence[str]) -> frozenset[str]:
    """Weights that the piece between ``given`` and ``wanted`` reads, its constants' included."""
    reads = {name for node in model.program.needed(given, wanted) for name in node.reads}
    return frozenset(reads & model.weights.keys())
