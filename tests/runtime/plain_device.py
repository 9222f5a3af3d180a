"""A device without splitnn: ONNX Runtime for the head, gRPC and the public protocol's stubs for the rest.

Run as a script, beside the stubs: plain_device.py HOST:PORT HEAD_FOLDER INPUTS.npz OUTPUTS.npz. It knows nothing but
what the manifest says.
"""

import json
import sys
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import open_inference_pb2 as pb  # type: ignore[import-not-found]  # beside this file where it runs

_TYPES = {"FP32": "<f4", "FP64": "<f8", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4", "UINT8": "u1", "BOOL": "?"}


def main(address: str, folder: str, given: str, made: str) -> None:
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
    for tensor in asked["inputs"]:
        value = (produced if tensor["from"] == "head" else inputs)[tensor["name"]]
        request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=value.shape)
        request.raw_input_contents.append(np.ascontiguousarray(value, _TYPES[tensor["datatype"]]).tobytes())
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
    np.savez(made, **answers)
    foreign = [name for name in sys.modules if name.partition(".")[0] in ("splitnn", "torch")]
    print(json.dumps({"foreign": foreign}))


if __name__ == "__main__":
    main(*sys.argv[1:])
