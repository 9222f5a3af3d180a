"""A head for devices where our own agent does not run: one file for another runtime, and a manifest for its caller.

With the manifest, any client of the Open Inference Protocol can be the device: it says what to feed to the head, and
what to send to the server, under which names, in which order, and what to ask for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import torch

from splitnn.errors import EngineMismatch
from splitnn.graph.exits import Exit
from splitnn.graph.graph import TensorSpec
from splitnn.graph.model import Model
from splitnn.graph.segments import segments
from splitnn.runtime.compiled import check_results
from splitnn.runtime.head import Head
from splitnn.runtime.head_formats import FORMATS
from splitnn.transport.contents import wire_datatype
from splitnn.transport.instructions import FORMS, PACKINGS, instructions

_FORMAT = "splitnn-head-1"
_NOT_RUN = "nothing that can run it was there when it was written: only its names, shapes and types were checked"
_PROTOCOL = "Open Inference Protocol v2 over gRPC: inference.GRPCInferenceService/ModelInfer"
_DEFINITION = (
    "the .proto of it: protos/splitnn/proto/open_inference.proto of splitnn, or the public one that KServe keeps, "
    "https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto"
)
_EXITS_ASKED = {
    "all": "every exit in answering may answer; so it is where the parameter is not sent",
    "none": "the last exit alone: the whole model's own answer; refused unless its may_be_deepest is true",
    "names": "names of exits in answering, separated by commas: these may, in the model's order, and the deepest of "
    "them answers always; refused where its may_be_deepest is false, since it does not need all that is sent",
}
_EXITS_SAID = {
    "exit": {"type": "string_param", "says": "which exit answered: a name for each sample, separated by commas"},
    "confidence": {
        "type": "double_param",
        "says": "max(softmax(logits / temperature)) of the exit that answered; the least of all samples",
    },
    "answered_by": {"type": "string_param", "says": "the host that answered: 'cloud' is the server"},
}


def export(
    model: Model,
    head: Head,
    directory: str | Path,
    *,
    format: str,
    name: str,
    version: str = "",
    codecs: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write the head and its manifest to a new folder, after running it once beside torch; the manifest's path.

    Core ML runs on macOS only: elsewhere such a head is written without having run, which the manifest says. The head
    takes inputs of the example's batch. Of what crosses, ``codecs`` names what does not travel raw.

    Raises:
        ValueError: no such format; nothing of that name crosses; its codec cannot be described, or does not take it.
        ModuleNotFoundError: the format's tools are not installed; says how to install them.
        EngineMismatch: the tools cannot convert the head, or what they made is too far from torch.
        FileExistsError: the folder exists and is not empty.
    """
    if format not in FORMATS:
        raise ValueError(f"no format is called {format!r}; there are {', '.join(FORMATS)}")
    if stray := set(codecs) - set(head.crossing):
        raise ValueError(f"{min(stray)!r} has a codec, and does not cross; these do: {', '.join(head.crossing)}")
    request = _request(model, head, name=name, version=version, codecs=codecs)
    chosen = FORMATS[format]
    for module in chosen.needs:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"format {format} needs {module}: {chosen.install}", name=module)
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists; give a new folder")
    example = [model.example[tensor] for tensor in head.stage.inputs]
    try:
        made = chosen.make(head.stage, example)
        with torch.inference_mode():
            found = None if made.call is None else made.call(*example)
    except Exception as error:  # every tool has its own errors
        raise EngineMismatch(f"the head cannot be written as {format}: {' '.join(str(error).split())[:500]}") from error
    share = None if found is None else check_results(f"the head as {format}", head.stage.call, example, found)
    file = f"head.{chosen.suffix}"
    inputs = [_described(tensor, model.graph.tensors[tensor]) for tensor in head.stage.inputs]
    outputs = [_described(tensor, model.graph.tensors[tensor]) for tensor in head.stage.outputs]
    manifest = _manifest(model, head, name=name, version=version, request=request) | {
        "head": {
            "file": file,
            "format": format,
            "size_bytes": sum(map(len, made.files.values())),
            **_digests(made.files),
            "inputs": _with_features(format, inputs, made.inputs),
            "outputs": _with_features(format, outputs, made.outputs),
            "note": chosen.note if made.call is not None else f"{chosen.note}; {_NOT_RUN}",
            "difference_to_torch": share,
        }
    }
    written = {str(PurePosixPath(file, path)): content for path, content in made.files.items()}
    return _write(target, written | {"manifest.json": json.dumps(manifest, indent=1).encode()})


def _with_features(
    format: str, described: Sequence[Mapping[str, Any]], features: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """With what the file itself says of them. Raises EngineMismatch: it has other shapes."""
    shapes = [each["shape"] for each in described]
    if features and shapes != (found := [each["shape"] for each in features]):
        raise EngineMismatch(f"the head as {format} has tensors of {found} where it should have {shapes}")
    return [{**each, **more} for each, more in zip(described, features or [{}] * len(described), strict=True)]


def _digests(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Of the one file, or of all in a folder."""
    if "" in files:
        return {"sha256": hashlib.sha256(files[""]).hexdigest()}
    listed = [
        {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in sorted(files.items())
    ]
    return {"files": listed}


def _manifest(model: Model, head: Head, *, name: str, version: str, request: Mapping[str, Any]) -> dict[str, Any]:
    graph = model.graph
    exits = model.exits.exits if model.exits is not None else ()
    last = exits[-1] if exits else None
    return {
        "format": _FORMAT,
        "model": {
            "name": name,
            "version": version,
            "digest": model.digest,
            "inputs": [_described(tensor, graph.tensors[tensor]) for tensor in graph.inputs],
            "outputs": [_described(tensor, graph.tensors[tensor]) for tensor in dict.fromkeys(graph.outputs)],
            "preprocessing": "none: the model takes its inputs as they are described, and scales them itself",
            "batch": graph.batch,
        },
        "results_of_the_head": list(head.results),
        "exits_of_the_head": [_rule(each, is_last=each is last) for each in exits if each.output in head.results],
        "server": {
            "protocol": _PROTOCOL,
            "definition": _DEFINITION,
            "request": request,
            "response": "raw_output_contents, in the order of the response's own outputs; little-endian, row-major",
        }
        | _exits_of_the_server(model, head),
    }


def _exits_of_the_server(model: Model, head: Head) -> dict[str, Any]:
    """From which exits it may answer what the head sends, and how a client says and sees which; {} without exits."""
    exits, graph = model.exits, model.graph
    if exits is None or head.asked != (exits.exits[-1].output,):
        return {}
    answering: list[dict[str, Any]] = []
    for each in reversed(exits.exits):
        try:
            steps = segments(graph, exits.only(each.name), head.crossing).steps
        except ValueError:  # it needs what is not sent, and then no exit before it is asked either
            break
        read = {tensor for step in steps for tensor in step.given}
        ends = read >= set(head.crossing) or set(head.crossing) == set(graph.inputs)
        answering.insert(0, _rule(each, is_last=each is exits.exits[-1]) | {"may_be_deepest": ends})
    return {
        "exits": {
            "answering": answering,
            "answer": f"the logits of the first exit that is sure of a sample, as {head.asked[0]!r} whichever it is",
            "request_parameters": {"exits": {"type": "string_param", **_EXITS_ASKED}},
            "response_parameters": _EXITS_SAID,
        }
    }


def _request(model: Model, head: Head, *, name: str, version: str, codecs: Mapping[str, str]) -> dict[str, Any]:
    graph = model.graph
    inside = set(head.stage.outputs)
    inputs = [
        _described(tensor, graph.tensors[tensor])
        | {"from": "head" if tensor in inside else "model input"}
        | instructions(codecs.get(tensor, "raw"), graph.tensors[tensor])
        for tensor in head.crossing
    ]
    payloads = [each["payload"] for each in inputs]
    return {
        "model_name": name,
        "model_version": version,
        "parameters": {"splitnn_digest": {"string_param": model.digest}},
        "inputs": inputs,
        "outputs": [{"name": tensor} for tensor in head.asked],
        "contents": "raw_input_contents, one entry an input, in the order of inputs: its payload",
        "forms": {form: FORMS[form] for form in dict.fromkeys(each["form"] for each in payloads)},
        "packings": {by: PACKINGS[by] for by in dict.fromkeys(each["packed_in"] for each in payloads) if by},
    }


def _rule(exit: Exit, *, is_last: bool) -> dict[str, Any]:
    """When a device may answer by itself; nothing is sent for a sample that it answers."""
    sure = "always" if is_last else "max(softmax(logits / temperature)) >= threshold"
    return {
        "name": exit.name,
        "output": exit.output,
        "temperature": exit.temperature,
        "threshold": exit.threshold,
        "answers": sure,
    }


def _described(name: str, spec: TensorSpec) -> dict[str, Any]:
    return {"name": name, "dtype": spec.dtype, "datatype": wire_datatype(spec.dtype), "shape": list(spec.shape)}


def _write(target: Path, files: Mapping[str, bytes]) -> Path:
    """The whole folder or none of it; the path of its manifest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, content in files.items():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).write_bytes(content)
        scratch.chmod(0o755)
        if target.exists():
            target.rmdir()
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return target / "manifest.json"
