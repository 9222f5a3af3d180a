"""Core ML: heads for Apple's devices. They can be converted anywhere and run on macOS only."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from splitnn.errors import EngineMismatch
from splitnn.graph.code import Callee
from splitnn.runtime.compiled import check_results
from splitnn.runtime.engines.exchange import exported, module_of, quiet

_AS_INT32 = (torch.uint8, torch.int8, torch.int16)
_ARRAYS = {torch.float32: "FLOAT32", torch.int32: "INT32", torch.int64: "INT32", torch.bool: "FLOAT32"}
"""What Core ML holds such tensors in, of these dtypes and as INT32 those above."""


@dataclass(frozen=True, slots=True)
class Package:
    """A ``.mlpackage``, and what its features are called."""

    files: Mapping[str, bytes]  # by path in its folder
    inputs: tuple[Mapping[str, Any], ...]  # feature, array, shape
    outputs: tuple[Mapping[str, Any], ...]
    call: Callee | None  # what it computes; None elsewhere than on macOS


def coreml_package(call: Callee, example: Sequence[torch.Tensor], *, results: int) -> Package:
    """The piece as an ML program in float32, for inputs of the example's shapes.

    Core ML has no integers below 32 bits: such inputs are fed as INT32.

    Raises:
        ModuleNotFoundError: coremltools is not installed.
        EngineMismatch: what was converted takes or makes other types, or integers of 32 bits change the results.
    """
    fed = [tensor.to(torch.int32) if tensor.dtype in _AS_INT32 else tensor for tensor in example]
    module = module_of(call)
    with torch.inference_mode():
        made = call(*example)
        check_results("the head fed with INT32", call, example, module(*fed))
    with _quiet():
        import coremltools as ct

        model = ct.convert(
            exported(module.forward, fed).run_decompositions({}),
            outputs=[ct.TensorType(name=f"output_{number}") for number in range(results)],
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32,
            compute_units=ct.ComputeUnit.CPU_ONLY,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=sys.platform != "darwin",
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "head.mlpackage"
            model.save(str(path))
            spec = ct.utils.load_spec(str(path))
            files = _files(path)
    inputs, outputs = _features(spec.description.input), _features(spec.description.output)
    for features, tensors in ((inputs, fed), (outputs, made)):
        found, wanted = [each["array"] for each in features], [_ARRAYS.get(tensor.dtype) for tensor in tensors]
        if found != wanted:
            raise EngineMismatch(f"Core ML has features of {found} for tensors of {[each.dtype for each in tensors]}")
    runs = sys.platform == "darwin"
    return Package(files, inputs, outputs, _prediction(model, inputs, outputs, made) if runs else None)


def _files(package: Path) -> dict[str, bytes]:
    """What belongs to a package: coremltools leaves a map for debuggers beside it, and names a folder of weights also
    where it is empty, which is lost when only files are copied.
    """
    found = {
        file.relative_to(package).as_posix(): file.read_bytes()
        for file in sorted((package / "Data").rglob("*"))
        if file.is_file()
    }
    manifest = json.loads((package / "Manifest.json").read_bytes())
    manifest["itemInfoEntries"] = {
        identifier: item
        for identifier, item in manifest["itemInfoEntries"].items()
        if any(PurePosixPath(path).is_relative_to(f"Data/{item['path']}") for path in found)
    }
    return {"Manifest.json": json.dumps(manifest, indent=1).encode()} | found


def _features(described: Sequence[Any]) -> tuple[Mapping[str, Any], ...]:
    """What a loaded specification says of its inputs or outputs, in order."""
    return tuple(
        {
            "feature": feature.name,
            "array": array.ArrayDataType.Name(array.dataType),
            "shape": list(array.shape),
        }
        for feature in described
        for array in (feature.type.multiArrayType,)
    )


def _prediction(
    model: Any,
    inputs: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, Any]],
    made: Sequence[torch.Tensor],
) -> Callee:
    """The model as a function of its inputs, in order; its results are of the dtypes of those made in torch."""
    dtypes = {"FLOAT32": torch.float32, "INT32": torch.int32}

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        feeds = {
            each["feature"]: value.to(dtypes[each["array"]]).contiguous().numpy()
            for each, value in zip(inputs, values, strict=True)
        }
        found = model.predict(feeds)
        return tuple(
            torch.as_tensor(found[each["feature"]]).reshape(result.shape).to(result.dtype)
            for each, result in zip(outputs, made, strict=True)
        )

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, warnings of torch versions, and the libraries that are missing elsewhere than on macOS."""
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        yield
