"""A captured network: its graph for planning, its program and weights for running."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from splitnn.graph.code import run_nodes
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.graph.program import Program
from splitnn.graph.recipe import Recipe
from splitnn.graph.structure import Structure, fill, take

Value = torch.Tensor | int
"""What a wire of the graph carries: a tensor, or a plain integer that depends on the batch."""


@dataclass(frozen=True, repr=False, eq=False)
class Model:
    """A graph, the program behind it, its weights, and how the module nested its arguments and results.

    ``weights`` lie in memory as ``aligned`` makes it, or results differ in the last bit between two hosts.
    ``signature`` and ``result`` place tensors in the arguments ``[[positional...], {keyword...}]`` and the result.
    """

    graph: Graph
    program: Program
    weights: Mapping[str, torch.Tensor]
    signature: Structure
    result: Structure
    example: Mapping[str, torch.Tensor]  # inputs, by name, that it was captured with
    eager_difference: float = 0.0  # largest |program - module| on the example
    exits: Exits | None = None  # which outputs may answer early; a policy, so no part of the digest
    recipe: Recipe | None = None  # what made it of another model; a note, so no part of the digest either

    def __repr__(self) -> str:
        return f"Model({self.digest[:12]}, {len(self.graph)} layers, {len(self.weights)} weights)"

    def resident_on(self, device: str) -> Mapping[str, Any]:
        """Weights, and what depends on weights only, in the memory of a torch device; made once for all stages."""
        if device not in self._resident:
            moved = {tensor.data_ptr(): tensor.to(device) for tensor in self.weights.values() if tensor.numel()}
            weights = {name: moved.get(tensor.data_ptr(), tensor.to(device)) for name, tensor in self.weights.items()}
            constants = [node for node in self.program.nodes if node.name in self.program.constants]
            live = {
                name for node in self.program.nodes if node.name not in self.program.constants for name in node.reads
            }
            with torch.inference_mode():
                made = {node.name: value for node, value in run_nodes(constants, weights, device=device)}
            self._resident[device] = weights | {name: value for name, value in made.items() if name in live}
        return self._resident[device]

    @cached_property
    def _resident(self) -> dict[str, dict[str, Any]]:
        return {}

    def name_inputs(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """The model's arguments, given as the module takes them, by input name.

        Raises:
            TypeError: they are nested otherwise than those that the model was captured with.
        """
        found: dict[str, torch.Tensor] = {}
        take(self.signature, [list(args), kwargs], found)
        return found

    def nest_outputs(self, tensors: Mapping[str, Any]) -> Any:
        """The output tensors nested as the module returns them."""
        return fill(self.result, tensors)

    @cached_property
    def description(self) -> bytes:
        """All but the weights and the example as canonical JSON."""
        parts = {
            "format": "splitnn-model-1",
            "graph": self.graph.to_json(),
            "program": self.program.to_json(),
            "signature": self.signature,
            "result": self.result,
        }
        return json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the description and every weight: two hosts with one digest compute one function."""
        return digest_of(self.description, {name: weight_digest(tensor) for name, tensor in self.weights.items()})


def digest_of(description: bytes, weights: Mapping[str, str]) -> str:
    """The digest of a model from its description and the digests of its weights."""
    whole = hashlib.sha256(description)
    for name in sorted(weights):
        whole.update(f"{name}\0{weights[name]}\n".encode())
    return whole.hexdigest()


def weight_digest(tensor: torch.Tensor) -> str:
    """SHA-256 over shape, dtype and elements."""
    found = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}\n".encode())
    if tensor.numel():
        found.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The same elements in memory of their own, contiguous, at a multiple of 64 bytes (torch's allocator does that)."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype)
    copy.copy_(tensor.detach())
    return copy
