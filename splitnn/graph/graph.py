"""What runs: an immutable DAG of operators and the tensors between them. Knows no torch.

Tensors are the wires, layers the vertices. A layer is one operator of the functional graph; what depends on weights
only is not here (every host computes it for itself).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import networkx as nx

from splitnn.errors import InvalidInput
from splitnn.graph.layout import Layout, Wire, layout_of

DTYPE_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "int": 8,
}  # fmt: skip
"""Bytes an element. ``"int"`` is a plain integer (a size that depends on the batch); it travels as one int64."""

_MOST = 2**63  # no size, count of bytes or of operations is above it

DATA_DEPENDENT = -1
"""The growth of a dimension whose size depends on the data (what a mask selects, say)."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and type of one tensor at the example's batch size."""

    shape: tuple[int, ...]
    dtype: str  # torch's name without the prefix: "float32"; "int" for a plain integer
    batch_growth: tuple[int, ...] = ()  # by how much each dimension grows a sample (or DATA_DEPENDENT); () for none
    dim_order: tuple[int, ...] = ()  # dimensions from the largest stride to the smallest; () when contiguous

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"dtype {self.dtype!r} cannot travel; these can: {', '.join(DTYPE_BYTES)}")
        if any(type(size) is not int or size < 0 for size in self.shape):
            raise ValueError(f"a shape holds whole numbers from 0, not {self.shape}")
        if self.batch_growth and len(self.batch_growth) != len(self.shape):
            raise ValueError(f"{len(self.shape)} dimensions have {len(self.batch_growth)} growths")
        if any(type(growth) is not int or growth < DATA_DEPENDENT for growth in self.batch_growth):
            raise ValueError(f"a dimension grows by a whole number from 0 (or DATA_DEPENDENT), not {self.batch_growth}")
        if self.dim_order and sorted(self.dim_order) != list(range(len(self.shape))):
            raise ValueError(f"{self.dim_order} is no order of {len(self.shape)} dimensions")

    @property
    def size_bytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    def grown(self, samples: int) -> tuple[int, ...]:
        """The shape when the batch has that many samples more than the example's (fewer when negative).

        A dimension that depends on the data is -1.
        """
        if not self.batch_growth:
            return self.shape
        return tuple(
            -1 if growth == DATA_DEPENDENT else size + samples * growth
            for size, growth in zip(self.shape, self.batch_growth, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator."""

    name: str  # unique; starts with the name of the module that owns it
    op: str  # "aten.convolution.default"
    inputs: tuple[str, ...]  # tensors, each once, in the order of first use
    outputs: tuple[str, ...]  # tensors
    module: str = ""  # dotted name of the owning module; "" for the top level
    weights: tuple[str, ...] = ()  # names in Graph.weight_bytes; weights may be shared between layers
    flops: int = 0


@dataclass(frozen=True)
class Graph:
    """A network as a DAG.

    ``layers`` is a topological order. ``outputs`` may name a model input or repeat a tensor.

    Raises:
        ValueError: a name is unknown or used twice, or the layers are out of order.
    """

    layers: tuple[Layer, ...]
    tensors: Mapping[str, TensorSpec]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_bytes: Mapping[str, int] = field(default_factory=dict)
    batch: int = 1  # samples in the example

    def __post_init__(self) -> None:
        known = set(self.inputs)
        if len(known) != len(self.inputs):
            raise ValueError(f"graph: an input is named twice: {self.inputs}")
        names: set[str] = set()
        for layer in self.layers:
            if layer.name in names:
                raise ValueError(f"graph: two layers are called {layer.name!r}")
            names.add(layer.name)
            if unknown := [t for t in layer.inputs if t not in known]:
                raise ValueError(f"graph: layer {layer.name!r} reads {unknown} before anything produces it")
            if twice := [t for t in layer.outputs if t in known]:
                raise ValueError(f"graph: layer {layer.name!r} produces {twice}, which exists already")
            if unknown := [w for w in layer.weights if w not in self.weight_bytes]:
                raise ValueError(f"graph: layer {layer.name!r} uses unknown weights {unknown}")
            known.update(layer.outputs)
        if unknown := [t for t in self.outputs if t not in known]:
            raise ValueError(f"graph: outputs {unknown} are never produced")
        if unknown := [t for t in known if t not in self.tensors]:
            raise ValueError(f"graph: no TensorSpec for {unknown[:5]}")

    def __len__(self) -> int:
        return len(self.layers)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position of each layer in ``layers``."""
        return {layer.name: i for i, layer in enumerate(self.layers)}

    @cached_property
    def producer(self) -> Mapping[str, str]:
        """The layer that makes each tensor; model inputs are absent."""
        return {tensor: layer.name for layer in self.layers for tensor in layer.outputs}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[str, ...]]:
        """The layers that read each tensor, in topological order."""
        found: dict[str, list[str]] = {tensor: [] for tensor in self.tensors}
        for layer in self.layers:
            for tensor in layer.inputs:
                found[tensor].append(layer.name)
        return {tensor: tuple(names) for tensor, names in found.items()}

    @cached_property
    def wires(self) -> Mapping[str, Wire]:
        """Of each tensor that layers read, in graph order, where it is made and read: layers by position."""
        source = {tensor: i for i, layer in enumerate(self.layers) for tensor in layer.outputs}
        readers: dict[str, list[int]] = {tensor: [] for tensor in self.tensors}
        for i, layer in enumerate(self.layers):
            for tensor in layer.inputs:
                readers[tensor].append(i)
        return {tensor: Wire(source.get(tensor, -1), tuple(by)) for tensor, by in readers.items() if by}

    @cached_property
    def wire_bytes(self) -> Mapping[str, int]:
        """Size of each tensor that layers read, in graph order."""
        return {tensor: self.tensors[tensor].size_bytes for tensor in self.wires}

    @cached_property
    def layout(self) -> Layout:
        """What a planner asks of the structure; wire i is the i-th of ``wires``. Plans at other rates share it."""
        return layout_of(len(self.layers), tuple(self.wires.values()))

    def layer(self, name: str) -> Layer:
        """The layer of that name; ``KeyError`` when there is none."""
        return self.layers[self.index[name]]

    def is_closed(self, head: Iterable[str]) -> bool:
        """Whether everything that these layers read is made by these layers (or is a model input)."""
        inside = set(head)
        return all(
            self.producer.get(tensor, "") in inside or tensor in self.inputs
            for name in inside
            for tensor in self.layer(name).inputs
        )

    def crossing(self, head: Iterable[str]) -> tuple[str, ...]:
        """Tensors that layers outside ``head`` read and that ``head`` or the caller provides, in graph order."""
        inside = set(head)
        return tuple(
            tensor
            for tensor, readers in self.consumers.items()
            if (tensor in self.inputs or self.producer[tensor] in inside)
            and any(reader not in inside for reader in readers)
        )

    def between(self, given: Iterable[str], wanted: Iterable[str]) -> tuple[Layer, ...]:
        """The layers that turn the tensors ``given`` into the tensors ``wanted``, in topological order.

        Raises:
            InvalidInput: a tensor is unknown, ``given`` is no cut (something else is needed), or part of it is useless.
        """
        fed = set(given)
        wanted = tuple(wanted)
        if unknown := sorted((fed | set(wanted)) - self.tensors.keys()):
            raise InvalidInput(f"no tensor is called {unknown[0]!r} in this model; its inputs are {list(self.inputs)}")
        needed: set[str] = set()
        used: set[str] = set()
        stack = list(wanted)
        while stack:
            tensor = stack.pop()
            if tensor in fed:
                used.add(tensor)
                continue
            if tensor not in self.producer:
                raise InvalidInput(f"the tensors {sorted(fed)} are no cut of the model: {tensor!r} is needed too")
            name = self.producer[tensor]
            if name not in needed:
                needed.add(name)
                stack.extend(self.layer(name).inputs)
        if useless := sorted(tensor for tensor in fed - used if self.consumers[tensor] or tensor not in self.inputs):
            raise InvalidInput(f"the tensors {sorted(fed)} are no cut of the model: {useless} are not needed")
        return tuple(layer for layer in self.layers if layer.name in needed)

    def to_networkx(self) -> nx.DiGraph[str]:
        """Layers as vertices (attribute ``layer``), an edge for each pair that shares a tensor (``tensors``)."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        for layer in self.layers:
            graph.add_node(layer.name, layer=layer)
        for tensor, readers in self.consumers.items():
            if (source := self.producer.get(tensor)) is None:
                continue
            for reader in readers:
                if graph.has_edge(source, reader):
                    graph.edges[source, reader]["tensors"] += (tensor,)
                else:
                    graph.add_edge(source, reader, tensors=(tensor,))
        return graph

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal graph."""
        return {
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "batch": self.batch,
            "tensors": {
                name: [list(spec.shape), spec.dtype, list(spec.batch_growth), list(spec.dim_order)]
                for name, spec in self.tensors.items()
            },
            "weight_bytes": dict(self.weight_bytes),
            "layers": [
                [y.name, y.op, list(y.inputs), list(y.outputs), y.module, list(y.weights), y.flops] for y in self.layers
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Graph:
        """The graph that ``to_json`` wrote.

        Raises:
            ValueError: the object is not such a graph.
        """
        try:
            return cls(
                layers=tuple(
                    Layer(str(n), str(op), tuple(i), tuple(o), str(module), tuple(w), _count(flops))
                    for n, op, i, o, module, w, flops in data["layers"]
                ),
                tensors={
                    str(name): _read_spec(shape, dtype, growth, order)
                    for name, (shape, dtype, growth, order) in data["tensors"].items()
                },
                inputs=tuple(data["inputs"]),
                outputs=tuple(data["outputs"]),
                weight_bytes={str(k): _count(v) for k, v in data["weight_bytes"].items()},
                batch=_count(data["batch"], least=1),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a graph: {error!r}") from error


def _read_spec(shape: Any, dtype: Any, growth: Any, order: Any) -> TensorSpec:
    """A TensorSpec of JSON. Raises ValueError: it is none."""
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"not a graph: dtype {dtype!r}")
    spec = TensorSpec(
        shape=tuple(_count(size) for size in shape),
        dtype=str(dtype),
        batch_growth=tuple(_count(each, least=DATA_DEPENDENT) for each in growth),
        dim_order=tuple(_count(each) for each in order),
    )
    if len(spec.batch_growth) not in (0, len(spec.shape)):
        raise ValueError(f"not a graph: growth {spec.batch_growth} for shape {spec.shape}")
    if spec.dim_order and sorted(spec.dim_order) != list(range(len(spec.shape))):
        raise ValueError(f"not a graph: dimensions {spec.dim_order} for shape {spec.shape}")
    return spec


def _count(number: Any, *, least: int = 0) -> int:
    """A whole number of JSON. Raises ValueError: it is none, or smaller."""
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number < _MOST:
        raise ValueError(f"not a graph: {number!r} where a whole number from {least} belongs")
    return number
