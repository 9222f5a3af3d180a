"""A device without splitnn: ONNX Runtime for the head, gRPC and the public protocol's stubs for the rest.

Run as a script, beside the stubs: plain_device.py HOST:PORT HEAD_FOLDER INPUTS.npz OUTPUTS.npz [EXITS]. It knows
nothing but what the manifest says. EXITS go as the request's parameter, and what the response says of exits is printed.
Beside the outputs it writes what crossed ("crossed:NAME") and the bytes that were sent for it ("payload:NAME").
"""

import json
import sys
from pathlib import Path
from typing import Any

import grpc
import lz4.block
import numpy as np
import onnxruntime
import open_inference_pb2 as pb  # type: ignore[import-not-found]  # beside this file where it runs
import zstandard

_TYPES = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4", "UINT8": "u1", "BOOL": "?"}
_SMALLEST_STEP = np.float32(1.17549435e-38)


def payload_of(tensor: dict[str, Any], value: np.ndarray[Any, Any]) -> bytes | None:
    """The bytes that the manifest's words ask for; None where they say that the tensor has to go raw."""
    rules = tensor["payload"]
    flat = np.ascontiguousarray(value).reshape(-1)
    parts = {part["holds"]: part for part in rules["parts"]}
    if rules["form"] == "int8":
        ranges = parts["minima"]["count"]
        rows = flat.astype(np.float32).reshape(ranges, rules["values_a_range"])
        low = rows.min(1, initial=np.inf)
        with np.errstate(over="ignore", invalid="ignore"):
            step = (rows.max(1, initial=-np.inf) - low) / np.float32(255)
            if not np.isfinite(low + np.float32(256) * step).all():
                return None
            step[step < _SMALLEST_STEP] = 0
            inverse = np.float32(1) / np.where(step > 0, step, np.float32(np.inf))
            codes = np.minimum(np.rint((rows - low[:, None]) * inverse[:, None]), 255)
        written = {"ranges": np.array([ranges], "<u4"), "minima": low, "steps": step, "codes": codes}
        plain = b"".join(
            written[part["holds"]].astype({"UINT32": "<u4", "FP32": "<f4", "UINT8": "u1"}[part["datatype"]]).tobytes()
            for part in rules["parts"]
        )
    elif rules["form"] == "fp16":
        with np.errstate(over="ignore"):
            half = flat.astype("<f4").astype("<f2")
        if not np.isfinite(half).all():
            return None
        plain = half.tobytes()
    elif rules["form"] == "bf16":
        bits = flat.astype("<f4").view("<u4").astype(np.uint64)
        upper = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # nearest, ties to even
        if (upper & 0x7F80 == 0x7F80).any():
            return None
        plain = upper.astype("<u2").tobytes()
    else:
        plain = flat.astype(_TYPES[parts["elements"]["datatype"]]).tobytes()
    if rules["packed_in"] == "zstd":
        plain = zstandard.ZstdCompressor(level=3).compress(plain)
    if rules["packed_in"] == "lz4":
        plain = len(plain).to_bytes(4, "little") + lz4.block.compress(plain, store_size=False)
    return bytes(plain)


def main(address: str, folder: str, given: str, made: str, exits: str = "") -> None:
    manifest = json.loads((Path(folder) / "manifest.json").read_text())
    inputs = dict(np.load(given))
    head, server = manifest["head"], manifest["server"]
    session = onnxruntime.InferenceSession(str(Path(folder) / head["file"]), providers=["CPUExecutionProvider"])
    names = [output["name"] for output in head["outputs"]]
    produced = dict(
        zip(names, session.run(names, {each["name"]: inputs[each["name"]] for each in head["inputs"]}), strict=True)
    )
    asked = server["request"]
    request = pb.ModelInferRequest(model_name=asked["model_name"], model_version=asked["model_version"])
    for key, value in asked["parameters"].items():
        request.parameters[key].string_param = value["string_param"]
    of_exits = server.get("exits", {"request_parameters": {}, "response_parameters": {}})
    if exits:
        setattr(request.parameters["exits"], of_exits["request_parameters"]["exits"]["type"], exits)
    crossed = {}
    for tensor in asked["inputs"]:
        value = (produced if tensor["from"] == "head" else inputs)[tensor["name"]]
        sent = request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=value.shape)
        payload = payload_of(tensor, value)
        if payload is None:
            payload = np.ascontiguousarray(value, _TYPES[tensor["datatype"]]).tobytes()
        else:
            for key, parameter in tensor["parameters"].items():
                sent.parameters[key].string_param = parameter["string_param"]
        request.raw_input_contents.append(payload)
        crossed["crossed:" + tensor["name"]] = value
        crossed["payload:" + tensor["name"]] = np.frombuffer(payload, np.uint8)
    for output in asked["outputs"]:
        request.outputs.add(name=output["name"])
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        response = infer(request, timeout=60)
    answers = {name: produced[name] for name in manifest["results_of_the_head"]}
    for output, content in zip(response.outputs, response.raw_output_contents, strict=True):
        answers[output.name] = np.frombuffer(content, _TYPES[output.datatype]).reshape(tuple(output.shape))
    np.savez(made, **answers, **crossed)
    foreign = [name for name in sys.modules if name.partition(".")[0] in ("splitnn", "torch")]
    said = {
        name: getattr(response.parameters[name], each["type"]) for name, each in of_exits["response_parameters"].items()
    }
    print(json.dumps({"foreign": foreign, "said": said}))


if __name__ == "__main__":
    main(*sys.argv[1:])
