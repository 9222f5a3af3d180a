"""From an ``nn.Module`` to a ``Model``: export, make it functional, name the layers, measure shapes and FLOPs."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import replace
from typing import Any, Literal

import torch
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from splitnn.errors import CaptureError
from splitnn.graph.extract import extract
from splitnn.graph.graph import Graph
from splitnn.graph.layers import lay_out
from splitnn.graph.model import Model, aligned
from splitnn.graph.structure import Place, Structure, structure_of
from splitnn.graph.translate import Translation, translate

Batch = Literal["auto", "fixed"]
_LARGEST_BATCH = 1024
_log = logging.getLogger(__name__)


def capture(
    module: torch.nn.Module,
    example_inputs: tuple[Any, ...] | Mapping[str, Any],
    *,
    batch: Batch = "auto",
) -> Model:
    """The module in evaluation mode as a model that can be cut anywhere.

    ``example_inputs`` are its arguments: a tuple, or a mapping for keyword arguments; tensors may nest in them. With
    ``batch="auto"`` the first dimension of every tensor input whose size is that of the first one may vary from
    request to request, where the module allows it. Buffers are taken as they are; a module that changes them while
    it runs starts every request from the same state. Weights are copied.

    Raises:
        CaptureError: the module cannot be exported, or calls an operator that may not travel; says what to do.
        TypeError: the example has no tensors.
    """
    args, kwargs = ((), dict(example_inputs)) if isinstance(example_inputs, Mapping) else (tuple(example_inputs), {})
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if not leaves:
        raise TypeError(f"the example inputs hold no tensor: {example_inputs!r}")
    try:
        model, expected = _captured(module, args, kwargs, leaves[0], batch)
        return replace(model, eager_difference=_difference(model, expected))
    except CaptureError:
        raise
    except Exception as error:  # the module's own code, torch.export and torch's operators raise many kinds
        raise CaptureError(_advice(module, error)) from error


def _captured(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], first: torch.Tensor, batch: Batch
) -> tuple[Model, Any]:
    """The model, and what the module itself returns for the example."""
    with _evaluating(module):
        expected = module(*_copied(args), **_copied(kwargs))
        exported = _export(module, args, kwargs, batch)
    if changed := sorted(exported.graph_signature.buffers_to_mutate.values()):
        _log.warning(
            "%s changes its buffers %s while it runs; here every request starts from their present values",
            type(module).__name__,
            ", ".join(changed),
        )
    translation = translate(exported)
    names = [spec.arg.name for spec in exported.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    flat = dict(zip(names, pytree.tree_leaves((args, kwargs)), strict=True))
    example = {name: flat[name].detach() for name in translation.program.inputs}
    weights = _weights(exported, translation)
    samples = first.shape[0] if first.ndim else 1
    layers, tensors = lay_out(translation, weights, example, samples)
    used = {name for layer in layers for name in layer.weights}
    model = Model(
        graph=Graph(
            layers=layers,
            tensors=tensors,
            inputs=translation.program.inputs,
            outputs=translation.outputs,
            weight_bytes={name: weights[name].nbytes for name in weights if name in used},
            batch=samples,
        ),
        program=translation.program,
        weights=weights,
        signature=_signature(exported, set(translation.program.inputs), flat),
        result=translation.result,
        example=example,
    )
    return model, expected


def _export(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: Batch) -> ExportedProgram:
    if batch == "auto":
        # torch raises many kinds of error here; what is really wrong shows again below
        with suppress(Exception):
            return _functional(module, *_batched(args, kwargs))
    try:
        return _functional(module, args, kwargs, None)
    except Exception as error:
        raise CaptureError(_advice(module, error)) from error


def _functional(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: ShapesCollection | None
) -> ExportedProgram:
    with torch.no_grad(), redirect_stderr(io.StringIO()):  # torch prints the graph that it could not finish
        exported: ExportedProgram = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)  # type: ignore[arg-type]  # torch takes a ShapesCollection
        # cut the functional graph only: an in-place operator reaches through a cut
        functional: ExportedProgram = exported.run_decompositions({})
        return functional


def _batched(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any], ShapesCollection]:
    """The example with at least two samples (torch specialises on one), and which dimension varies."""
    first = next(leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor))
    samples = first.shape[0]
    dimension = Dim("batch", min=1, max=_LARGEST_BATCH)
    shapes = ShapesCollection()

    def widen(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if leaf.ndim == 0 or leaf.shape[0] != samples:
            return leaf
        wide = leaf.repeat(2, *[1] * (leaf.ndim - 1)) if samples == 1 else leaf.clone()
        shapes[wide] = {0: dimension}
        return wide

    wide_args, wide_kwargs = pytree.tree_map(widen, (args, kwargs))
    return wide_args, wide_kwargs, shapes


def _weights(exported: ExportedProgram, translation: Translation) -> dict[str, torch.Tensor]:
    """Aligned copies; a tensor that has two names (tied weights) is copied once."""
    copies: dict[tuple[int, torch.Size, tuple[int, ...]], torch.Tensor] = {}
    weights: dict[str, torch.Tensor] = {}
    for name in translation.program.weights:
        target = translation.sources[name]
        source = exported.state_dict[target] if target in exported.state_dict else exported.constants[target]
        if not isinstance(source, torch.Tensor):
            raise CaptureError(f"the module holds {name!r}, a {type(source).__name__}; only tensors can travel")
        key = (source.data_ptr(), source.shape, source.stride())
        weights[name] = copies.setdefault(key, aligned(source))
    return weights


def _signature(exported: ExportedProgram, tensors: set[str], flat: Mapping[str, Any]) -> Structure:
    """Where each input sits in ``[[positional...], {keyword...}]``."""
    spec = exported.call_spec.in_spec
    leaves = [{"tensor": name} if name in tensors else {"value": flat[name]} for name in flat]
    args, kwargs = pytree.tree_unflatten([Place(leaf) for leaf in leaves], spec)
    return structure_of([list(args), kwargs])


def _difference(model: Model, expected: Any) -> float:
    """Largest absolute difference between the program and the module on the example."""
    graph = model.graph
    with torch.inference_mode():
        found = extract(model, graph.inputs, graph.outputs)(*model.example.values())
    want = [leaf for leaf in pytree.tree_leaves(expected) if isinstance(leaf, torch.Tensor)]
    got = [value for value in found if isinstance(value, torch.Tensor)]
    if len(want) != len(got):
        return 0.0  # the module returned plain values that depend on the batch; nothing to compare one by one
    gaps = [_wide(w).sub(_wide(g)).abs().nan_to_num() for w, g in zip(want, got, strict=True) if w.numel()]
    return max((gap.max().item() for gap in gaps), default=0.0)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _copied(nested: Any) -> Any:
    return pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, nested)


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients; every submodule's mode and every buffer is put back afterwards."""
    modes = {child: child.training for child in module.modules()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    module.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations inside export
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                buffer.copy_(buffers[name])


def _advice(module: torch.nn.Module, error: Exception) -> str:
    reason = " ".join(str(error).split())
    name = type(module).__name__
    if "data-dependent" in reason or "GuardOnDataDependent" in type(error).__name__:
        hint = "a Python `if` or loop depends on tensor data: write it with torch.cond or torch.where"
    elif "Could not guard" in reason:
        hint = "a Python decision depends on a tensor's value: write it with torch.cond or torch.where"
    else:
        hint = "torch.export must accept the module; try torch.export.export(module, example_inputs, strict=False)"
    return f"{name} cannot be captured; {hint}. torch says: {type(error).__name__}: {reason[:600]}"
