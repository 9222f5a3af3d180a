"""A model on disk: a folder that holds data only, never code.

manifest.json          format, digest of the model, size and SHA-256 of each other file; written last
graph.json             graph, program, signature and result; every operator must be on the allow-list
weights.safetensors    the weights; tied ones once (``aliases`` in the manifest)
example.safetensors    the inputs that the model was captured with
exits.json             optional: which outputs may answer early, and what they did on held-out data
recipe.json            optional: what made this version of another model, and what that cost in accuracy
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from splitnn.errors import PackageError
from splitnn.graph.exits import Exits
from splitnn.graph.graph import Graph
from splitnn.graph.model import Model, aligned
from splitnn.graph.operators import resolve
from splitnn.graph.program import Node, Program, Ref
from splitnn.graph.recipe import Recipe

_FORMAT = "splitnn-package-1"
_FILES = ("graph.json", "weights.safetensors", "example.safetensors")
_EXITS, _RECIPE = "exits.json", "recipe.json"
_NOTES = (_EXITS, _RECIPE)  # a package need not have them
_MAX_JSON_BYTES = 256 * 2**20


def save(model: Model, directory: str | os.PathLike[str]) -> Path:
    """Write the model to a new folder, which appears whole or not at all.

    Raises:
        FileExistsError: the folder exists and is not empty.
    """
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists; give a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        first: dict[int, str] = {}
        aliases: dict[str, str] = {}
        for name, tensor in model.weights.items():
            if tensor.numel() and first.setdefault(tensor.data_ptr(), name) != name:
                aliases[name] = first[tensor.data_ptr()]
        (scratch / "graph.json").write_bytes(model.description)
        save_file({n: t for n, t in model.weights.items() if n not in aliases}, scratch / "weights.safetensors")
        save_file({n: t.contiguous().clone() for n, t in model.example.items()}, scratch / "example.safetensors")
        if model.exits is not None:
            (scratch / _EXITS).write_text(json.dumps(model.exits.to_json(), indent=1))
        if model.recipe is not None:
            (scratch / _RECIPE).write_text(json.dumps(model.recipe.to_json(), indent=1))
        manifest = {
            "format": _FORMAT,
            "digest": model.digest,
            "torch": torch.__version__,
            "eager_difference": model.eager_difference,
            "aliases": aliases,
            "files": {name: _stamp(scratch / name) for name in (*_FILES, *_NOTES) if (scratch / name).exists()},
        }
        (scratch / "manifest.json").write_text(json.dumps(manifest, indent=1))
        scratch.chmod(0o755)
        if target.exists():
            target.rmdir()
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return target


def load(directory: str | os.PathLike[str]) -> Model:
    """The model in a folder that ``save`` wrote, its weights copied into aligned memory.

    Raises:
        PackageError: the folder is half written, was altered, or calls an operator off the allow-list.
    """
    folder = Path(directory)
    manifest = _manifest(folder)
    for name in (*_FILES, *(set(_NOTES) & manifest["files"].keys())):
        if not (folder / name).is_file():
            raise PackageError(f"{folder}: {name} is missing; the folder is half written")
        if _stamp(folder / name) != manifest["files"].get(name):
            raise PackageError(f"{folder}: {name} is not the file that the manifest describes")
    try:
        description = _json(folder / "graph.json")
        program = Program.from_json(description["program"])
        for node in _all_nodes(program):
            resolve(node.op)
        loaded = load_file(folder / "weights.safetensors")
        weights = {name: aligned(tensor) for name, tensor in loaded.items()}
        aliases: Mapping[str, str] = manifest["aliases"]
        model = Model(
            graph=Graph.from_json(description["graph"]),
            program=program,
            weights={name: weights[aliases.get(name, name)] for name in program.weights},
            signature=description["signature"],
            result=description["result"],
            example=load_file(folder / "example.safetensors"),
            eager_difference=float(manifest["eager_difference"]),
            exits=Exits.from_json(_json(folder / _EXITS)) if _EXITS in manifest["files"] else None,
            recipe=Recipe.from_json(_json(folder / _RECIPE)) if _RECIPE in manifest["files"] else None,
        )
        _check_agreement(model)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, SafetensorError) as error:
        raise PackageError(f"{folder}: {error}") from error
    if model.digest != manifest["digest"]:
        raise PackageError(
            f"{folder}: the model has digest {model.digest[:12]}, its manifest {manifest['digest'][:12]}"
        )
    return model


def is_package(directory: str | os.PathLike[str]) -> bool:
    """Whether the folder looks like a package, whole or not."""
    folder = Path(directory)
    return any((folder / name).exists() for name in ("manifest.json", *_FILES))


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise PackageError(f"{folder}: no such folder")
    if not path.is_file():
        raise PackageError(f"{folder}: manifest.json is missing; the folder is half written or no model package")
    manifest = _json(path)
    if manifest.get("format") != _FORMAT:
        raise PackageError(f"{path}: format {manifest.get('format')!r}; this version reads {_FORMAT!r}")
    if not isinstance(manifest.get("files"), dict) or not isinstance(manifest.get("aliases"), dict):
        raise PackageError(f"{path}: files and aliases must be JSON objects")
    if absent := {"digest", "eager_difference", "aliases", "files"} - manifest.keys():
        raise PackageError(f"{path}: {sorted(absent)} missing")
    return manifest


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise PackageError(f"{path} has {path.stat().st_size} bytes; at most {_MAX_JSON_BYTES} are read")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise PackageError(f"{path}: expected a JSON object")
    return found


def _stamp(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _check_agreement(model: Model) -> None:
    """The graph that is planned must be the program that runs."""
    graph, program = model.graph, model.program
    made = {node.name for node in program.nodes}
    returned = tuple(output.name if isinstance(output, Ref) else output for output in program.outputs)
    if (graph.inputs, graph.outputs) != (program.inputs, returned):
        raise ValueError("graph and program have other inputs or outputs")
    if unknown := [tensor for tensor in graph.producer if tensor not in made]:
        raise ValueError(f"the program does not make {unknown[:3]}, which the graph names")
    if model.exits is not None:
        model.exits.check_fits(graph)
    if set(model.example) != set(graph.inputs):
        raise ValueError(f"the example has {sorted(model.example)}, not the inputs {list(graph.inputs)}")
    for name, tensor in model.example.items():
        spec = graph.tensors[name]
        if (tuple(tensor.shape), str(tensor.dtype)) != (spec.shape, f"torch.{spec.dtype}"):
            raise ValueError(f"the example's {name!r} is no {spec.dtype} {list(spec.shape)}")


def _all_nodes(program: Program) -> Iterator[Node]:
    """The program's nodes and those of its branches, however deep they nest."""
    for node in program.nodes:
        yield node
        yield from _inside((node.args, tuple(node.kwargs.values())))


def _inside(argument: Any) -> Iterator[Node]:
    if isinstance(argument, Program):
        yield from _all_nodes(argument)
    elif isinstance(argument, (list, tuple)):
        for item in argument:
            yield from _inside(item)
