"""NVIDIA's client of the Open Inference Protocol, as anybody would use it, against a host of ours.

Run by the interpreter of ``.venv-witness`` (``make witness``), which holds tritonclient and nothing of splitnn:

    triton_witness.py SERVER AGENT MODEL [IMAGE.npy]

SERVER and AGENT are host:port; the image is uint8 (1, height, width, 3), a drawn one by default. Everything is asked of
both, and the two must give the same answer to the same image. Prints one line for each thing seen; exit status 1 with
the reason where something is not as the protocol says.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

DEADLINE_S = 60.0


def main() -> None:
    server, agent, model, *image_path = sys.argv[1:]
    image = np.load(image_path[0]) if image_path else None
    logits = {place: witness(place, address, model, image) for place, address in (("server", server), ("agent", agent))}
    # The agent may send a compressed tensor to the server: the answer is the same, its last digits need not be.
    difference = float(np.abs(logits["server"] - logits["agent"]).max())
    spread = float(np.ptp(logits["server"]))
    expect(int(logits["server"].argmax()) == int(logits["agent"].argmax()), "server and agent name different classes")
    expect(difference <= 0.1 * spread, f"logits differ by {difference} of a range of {spread}")
    print(f"ok: server and agent agree on class {int(logits['server'].argmax())}, difference {difference:.2g}")


def witness(place: str, address: str, model: str, image: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    """Ask one host everything; returns the logits of the image."""
    with triton.InferenceServerClient(address) as client:
        expect(client.is_server_live(client_timeout=DEADLINE_S), f"{place} is not live")
        expect(client.is_server_ready(client_timeout=DEADLINE_S), f"{place} is not ready")
        expect(client.is_model_ready(model, client_timeout=DEADLINE_S), f"{model} is not ready on {place}")
        print(f"ok: {place} is live and ready, and so is {model}")

        about = client.get_server_metadata(client_timeout=DEADLINE_S)
        expect(bool(about.name) and bool(about.version), f"{place} does not say who it is: {about}")
        print(f"ok: {place} is {about.name} {about.version}")

        metadata = client.get_model_metadata(model, client_timeout=DEADLINE_S)
        expect(metadata.name == model, f"asked for {model}, got {metadata.name}")
        expect(len(metadata.inputs) == 1 and len(metadata.outputs) >= 1, f"one image in, logits out: {metadata}")
        described = metadata.inputs[0]
        expect(described.datatype == "UINT8", f"the raw input is a uint8 image, not {described.datatype}")
        shape = [1 if size < 0 else size for size in described.shape]  # -1: any batch
        print(f"ok: {place} describes {described.name} {described.datatype} {list(described.shape)}")

        image = drawn_image(shape) if image is None else image
        logits = infer(client, model, described.name, image, metadata.outputs[0].name)
        expect(bool(np.isfinite(logits).all()), f"{place} answers with numbers that are not finite")
        again = infer(client, model, described.name, image, metadata.outputs[0].name)
        expect(logits.shape == again.shape and int(logits.argmax()) == int(again.argmax()), "two answers to one image")
        print(f"ok: {place} infers: {logits.shape} {logits.dtype}, class {int(logits.argmax())}")

        refusal = refused(lambda: infer(client, "no-such-model", described.name, image, None))
        expect_refusal(refusal, "StatusCode.NOT_FOUND", "no-such-model")
        refusal = refused(lambda: infer(client, model, described.name, image[:, :-1], None))
        expect_refusal(refusal, "StatusCode.INVALID_ARGUMENT", described.name)
        refusal = refused(lambda: infer(client, model, "no_such_tensor", image, None))
        expect_refusal(refusal, "StatusCode.INVALID_ARGUMENT", "no_such_tensor")
        refusal = refused(lambda: infer(client, model, described.name, image.astype(np.float32), None))
        expect_refusal(refusal, "StatusCode.INVALID_ARGUMENT", described.name)
        print(f"ok: {place} refuses an unknown model, a wrong shape, a wrong name and a wrong dtype by name")

        after = infer(client, model, described.name, image, metadata.outputs[0].name)
        expect(int(after.argmax()) == int(logits.argmax()), f"{place} answers differently after bad requests")
        print(f"ok: {place} answers as before after the bad requests")
    return logits


def infer(
    client: triton.InferenceServerClient, model: str, name: str, image: np.ndarray[Any, Any], output: str | None
) -> np.ndarray[Any, Any]:
    """One request with raw contents."""
    datatype = "UINT8" if image.dtype == np.uint8 else "FP32"
    tensor = triton.InferInput(name, list(image.shape), datatype)
    tensor.set_data_from_numpy(np.ascontiguousarray(image))
    wanted = None if output is None else [triton.InferRequestedOutput(output)]
    result = client.infer(model, [tensor], outputs=wanted, request_id="witness", client_timeout=DEADLINE_S)
    response = result.get_response()
    expect(response.id == "witness", f"the request's id comes back, not {response.id!r}")
    answer = result.as_numpy(response.outputs[0].name)
    expect(answer.dtype == triton_to_np_dtype(response.outputs[0].datatype), "datatype and contents differ")
    return np.asarray(answer)


def drawn_image(shape: list[int]) -> np.ndarray[Any, Any]:
    """Smooth colours with a bright disc: an image that every classifier has some opinion on."""
    _, height, width, channels = shape
    y, x = np.mgrid[0:height, 0:width]
    disc = ((y - height / 2) ** 2 + (x - width / 2) ** 2) < (height / 4) ** 2
    planes = [np.where(disc, 230 - 40 * c, (x * 255 // width + y * c) % 256) for c in range(channels)]
    return np.stack(planes, axis=-1)[None].astype(np.uint8)  # (1, height, width, channels)


def refused(request: Any) -> InferenceServerException:
    """The error that a request ends with; it must end with one."""
    try:
        request()
    except InferenceServerException as error:
        return error
    raise SystemExit("FAILED: a bad request was answered as if it were good")


def expect_refusal(error: InferenceServerException, status: str, culprit: str) -> None:
    expect(error.status() == status, f"expected {status}, got {error.status()}: {error.message()}")
    expect(culprit in error.message(), f"the error does not name {culprit!r}: {error.message()}")


def expect(claim: bool, otherwise: str) -> None:  # noqa: FBT001 - a claim, not a switch
    if not claim:
        raise SystemExit(f"FAILED: {otherwise}")


if __name__ == "__main__":
    main()
