"""The kinds of files that a head can be written as: for each what it takes, how it is made, and how it is run here."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splitnn.graph.code import Callee
from splitnn.runtime.engines.coreml import coreml_package
from splitnn.runtime.engines.exchange import module_of, onnx_model
from splitnn.runtime.engines.executorch import method_call, pte
from splitnn.runtime.engines.onnxruntime import session_call
from splitnn.runtime.stage import Stage


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file."""

    suffix: str
    needs: tuple[str, ...]  # modules
    install: str
    note: str  # how to feed the file
    make: Callable[[Stage, Sequence[torch.Tensor]], Made]


@dataclass(frozen=True, slots=True)
class Made:
    """A head that was written, and how to run it."""

    files: Mapping[str, bytes]  # of a format that is a folder, by their paths in it; else the one file, as ""
    call: Callee | None  # what they compute; None where nothing here can run them
    inputs: Sequence[Mapping[str, Any]] = ()  # what the manifest says beside names and dtypes
    outputs: Sequence[Mapping[str, Any]] = ()


def _onnx(part: Stage, example: Sequence[torch.Tensor]) -> Made:
    content: bytes = onnx_model(part.call, example, inputs=part.inputs, outputs=part.outputs).SerializeToString()
    return Made({"": content}, session_call(content))


def _executorch(part: Stage, example: Sequence[torch.Tensor]) -> Made:
    content = pte(part.call, example)
    return Made({"": content}, method_call(content))


def _litert(part: Stage, example: Sequence[torch.Tensor]) -> Made:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of torch that the converter meets
        import litert_torch

        converted = litert_torch.convert(module_of(part.call), tuple(tensor.clone() for tensor in example))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.tflite"
        converted.export(str(path))
        content = path.read_bytes()

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = converted(*values)
        arrays = found if isinstance(found, (tuple, list)) else (found,)
        return tuple(torch.as_tensor(array) for array in arrays)

    return Made({"": content}, run)


def _coreml(part: Stage, example: Sequence[torch.Tensor]) -> Made:
    package = coreml_package(part.call, example, results=len(part.outputs))
    return Made(package.files, package.call, package.inputs, package.outputs)


FORMATS: Mapping[str, Format] = {
    "onnx": Format(
        "onnx",
        ("onnxruntime", "onnx", "onnxscript"),
        'pip install "splitnn[onnx]"',
        "inputs and outputs go by the names that are listed here",
        _onnx,
    ),
    "executorch": Format(
        "pte",
        ("executorch",),
        'pip install "splitnn[executorch]"',
        "method forward; inputs and outputs go by position, in the order listed here",
        _executorch,
    ),
    "litert": Format(
        "tflite",
        ("litert_torch",),
        "pip install litert-torch, in an environment of its own: it replaces typing_extensions and anyio by older ones",
        "signature serving_default; inputs and outputs go by position, in the order listed here",
        _litert,
    ),
    "coreml": Format(
        "mlpackage",
        ("coremltools",),
        'pip install "splitnn[coreml]"',
        "inputs and outputs go by feature, as multi-arrays of the type that stands at array",
        _coreml,
    ),
}
