"""Messages built and taken apart by hand, against protobuf itself."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from splitnn.errors import CodecError, PayloadTooLarge
from splitnn.proto import open_inference_pb2 as pb
from splitnn.transport.base import DEFAULT_LIMITS, Answer, Limits, Request, Timings
from splitnn.transport.framing import (
    announcement,
    answer_frame,
    read_answer,
    read_request,
    receive_answer,
    receive_request,
    request_frame,
)
from splitnn.transport.wire import take_apart


def message_of(request: Request) -> bytes:
    return b"".join(request_frame(request, message_id=request.request_id).parts)


def request_in(message: bytes, limits: Limits = DEFAULT_LIMITS) -> Request:
    received = receive_request(message)
    return read_request(received, announcement(received, limits=limits), deadline_s=0.0, request_id="r")


def input_of(name: str, datatype: str, shape: list[int], **parameters: str) -> pb.ModelInferRequest.InferInputTensor:
    entry = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    for key, value in parameters.items():
        entry.parameters[key].string_param = value
    return entry


def test_a_hand_built_request_is_what_protobuf_writes_and_reads() -> None:
    a, b = torch.randn(2, 3), torch.arange(5)
    request = Request("net", {"a": a, "b": b}, 0.0, version="2", request_id="seven", digest="d1", wanted=("y",))
    message = message_of(request)
    parsed = pb.ModelInferRequest.FromString(message)
    assert (parsed.model_name, parsed.model_version, parsed.id) == ("net", "2", "seven")
    assert [(t.name, t.datatype, list(t.shape)) for t in parsed.inputs] == [("a", "FP32", [2, 3]), ("b", "INT64", [5])]
    assert list(parsed.raw_input_contents) == [a.numpy().tobytes(), b.numpy().tobytes()]
    assert parsed.parameters["splitnn_digest"].string_param == "d1"
    assert [t.name for t in parsed.outputs] == ["y"]
    assert parsed.SerializeToString() == message


def test_a_hand_built_answer_is_what_protobuf_writes_and_reads() -> None:
    answer = Answer({"y": torch.randn(4, 4), "n": 7}, version="3", parameters={"degraded": "link"})
    request = Request("net", {}, 0.0)
    frame = answer_frame(answer, request, message_id="seven", arrived_s=0.0, decode_s=0.0, clock=lambda: 0.0)
    message = b"".join(frame.parts)
    parsed = pb.ModelInferResponse.FromString(message)
    assert parsed.SerializeToString() == message
    assert frame.size_bytes == len(message)
    assert (parsed.model_name, parsed.model_version, parsed.id) == ("net", "3", "seven")
    assert parsed.parameters["degraded"].string_param == "link"
    assert parsed.raw_output_contents[1] == (7).to_bytes(8, "little")
    back = read_answer(receive_answer(message), limits=DEFAULT_LIMITS)
    assert back.tensors["n"] == 7
    assert torch.equal(torch.as_tensor(back.tensors["y"]), torch.as_tensor(answer.tensors["y"]))
    assert back.parameters == {"degraded": "link"}


def test_a_request_survives_the_wire_whatever_it_holds() -> None:
    strided = torch.randn(1, 6, 4, 8).transpose(1, 2)
    sent = Request(
        "net",
        {"x": strided, "n": -3, "e": torch.empty(0, 2), "s": torch.tensor(True), "h": torch.randn(3).bfloat16()},
        0.0,
        digest="abc",
        codecs={"x": "zstd", "y": "fp16"},
        wanted=("y", "z"),
        parameters={"priority": 2, "note": "a", "flag": True, "scale": 0.5},
    )
    got = request_in(message_of(sent))
    assert (got.model, got.digest, got.wanted, got.codecs) == ("net", "abc", ("y", "z"), {"x": "zstd", "y": "fp16"})
    assert got.parameters == sent.parameters
    assert got.tensors["n"] == -3
    assert isinstance(got.tensors["n"], int)
    for name in ("x", "e", "s", "h"):
        before, after = torch.as_tensor(sent.tensors[name]), torch.as_tensor(got.tensors[name])
        assert torch.equal(before, after)
        assert before.dtype == after.dtype
    assert torch.as_tensor(got.tensors["x"]).stride() == strided.stride()


def test_fields_may_come_in_any_order() -> None:
    whole = message_of(Request("net", {"a": torch.ones(3), "b": torch.zeros(2)}, 0.0, request_id="q"))
    rest, entries = take_apart(whole, 7)
    assert len(entries) == 2
    first = pb.ModelInferRequest(raw_input_contents=[bytes(entries[0])]).SerializeToString()
    second = pb.ModelInferRequest(raw_input_contents=[bytes(entries[1])]).SerializeToString()
    got = request_in(first + rest + second)
    assert torch.equal(torch.as_tensor(got.tensors["a"]), torch.ones(3))
    assert torch.equal(torch.as_tensor(got.tensors["b"]), torch.zeros(2))


def test_unknown_fields_of_every_kind_are_skipped() -> None:
    whole = message_of(Request("net", {"a": torch.ones(3)}, 0.0))
    unknown = b"\x98\x06\x05" + b"\xa1\x06" + bytes(8) + b"\xad\x06" + bytes(4) + b"\xb2\x06\x02hi"  # fields 99 to 102
    assert torch.equal(torch.as_tensor(request_in(unknown + whole).tensors["a"]), torch.ones(3))


def test_a_raw_tensor_is_a_view_of_the_message() -> None:
    message = message_of(Request("net", {"a": torch.arange(1000.0)}, 0.0))
    tensor = torch.as_tensor(request_in(message).tensors["a"])
    start = np.frombuffer(message, dtype=np.uint8).ctypes.data
    assert start < tensor.data_ptr() < start + len(message)


def test_every_truncation_of_a_message_is_refused_or_complete() -> None:
    message = message_of(Request("net", {"a": torch.ones(3), "b": torch.ones(2)}, 0.0, request_id="q"))
    for size in range(len(message)):
        try:
            got = request_in(message[:size])
        except CodecError:
            continue
        assert not got.tensors


def test_random_damage_raises_codec_errors_only() -> None:
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    chance = random.Random(seed)
    message = message_of(Request("net", {"a": torch.randn(2, 8).T, "n": 4}, 0.0, codecs={"a": "int8"}, request_id="q"))
    for _ in range(500):
        broken = bytearray(message)
        for _ in range(chance.randrange(1, 5)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            request_in(bytes(broken))
        except (CodecError, PayloadTooLarge):
            continue


@pytest.mark.parametrize(
    ("datatype", "field", "values", "dtype"),
    [
        ("FP32", "fp32_contents", [1.5, -2.0], torch.float32),
        ("FP64", "fp64_contents", [1.5, -2.0], torch.float64),
        ("INT64", "int64_contents", [2**40, -1], torch.int64),
        ("INT8", "int_contents", [127, -128], torch.int8),
        ("UINT8", "uint_contents", [0, 255], torch.uint8),
        ("BOOL", "bool_contents", [True, False], torch.bool),
    ],
)
def test_typed_contents_of_plain_clients_are_read(
    datatype: str, field: str, values: list[float], dtype: torch.dtype
) -> None:
    entry = input_of("x", datatype, [2])
    getattr(entry.contents, field).extend(values)
    got = request_in(pb.ModelInferRequest(model_name="net", inputs=[entry]).SerializeToString())
    assert torch.equal(torch.as_tensor(got.tensors["x"]), torch.tensor(values, dtype=dtype))


@pytest.mark.parametrize(
    ("entry", "payloads", "says"),
    [
        (input_of("x", "FP32", [3]), [bytes(8)], "'x'.*8 bytes.*12"),
        (input_of("x", "BYTES", [1]), [bytes(8)], "'x'.*BYTES.*FP32"),
        (input_of("x", "FP32", [-1]), [bytes(8)], "'x'.*negative"),
        (input_of("x", "FP32", [2], codec="gzip"), [bytes(8)], "'x'.*gzip.*raw"),
        (input_of("x", "FP32", [2], strides="a,b"), [bytes(8)], "'x'.*strides"),
        (input_of("x", "FP32", [2], strides="1,2"), [bytes(8)], "'x'.*strides"),
        (input_of("x", "FP32", [2], kind="int"), [bytes(8)], "'x'.*integer"),
        (input_of("x", "FP32", [2]), [bytes(8), bytes(8)], "1 tensors.*2"),
        (input_of("x", "FP16", [2]), [], "'x'.*raw contents only"),
        (input_of("x", "FP32", [2]), [], "'x'.*0 values"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said_with_its_name(
    entry: pb.ModelInferRequest.InferInputTensor, payloads: list[bytes], says: str
) -> None:
    message = pb.ModelInferRequest(model_name="net", inputs=[entry], raw_input_contents=payloads)
    with pytest.raises(CodecError, match=says):
        request_in(message.SerializeToString())


@pytest.mark.parametrize(
    "entry",
    [
        input_of("x", "FP32", [2**20, 2**10], codec="zstd"),
        input_of("x", "FP32", [2**20, 2**10], strides="0,0"),
        input_of("x", "FP32", [2, 2], strides=f"{2**30},1"),
    ],
)
def test_tensors_that_would_fill_the_memory_are_refused_before_they_are_decoded(
    entry: pb.ModelInferRequest.InferInputTensor,
) -> None:
    message = pb.ModelInferRequest(model_name="net", inputs=[entry], raw_input_contents=[bytes(16)])
    with pytest.raises(PayloadTooLarge, match="accepted"):
        request_in(message.SerializeToString())


def test_what_is_remembered_of_one_request_never_stands_in_for_another() -> None:
    ones = torch.ones(2, 3)
    tensors: list[torch.Tensor | int] = [ones, torch.ones(3, 2), ones.half(), ones.T, torch.ones(6), 6, torch.ones(())]
    choices: list[dict[str, str]] = [{}, {"x": "zstd"}, {"x": "fp16"}]
    for codecs in choices:
        for _ in range(2):  # the second time from memory
            for digest, tensor in enumerate(tensors):
                if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.half and codecs == {"x": "fp16"}:
                    continue  # that codec is for wider floats
                sent = Request(
                    "net", {"x": tensor}, 0.0, digest=str(digest), codecs=codecs, wanted=("y",) * (digest % 2)
                )
                got = request_in(message_of(sent))
                assert (got.digest, got.wanted) == (sent.digest, sent.wanted)
                if isinstance(tensor, int):
                    assert got.tensors["x"] == tensor
                    continue
                back = torch.as_tensor(got.tensors["x"])
                assert got.codecs == codecs
                assert (back.shape, back.dtype, back.stride()) == (tensor.shape, tensor.dtype, tensor.stride())


def test_timings_come_back_and_no_other_parameter_is_lost_beside_them() -> None:
    answer = Answer(
        {"y": torch.zeros(1)}, timings=Timings(queue_s=0.25, compute_s=0.5), parameters={"degraded": "link"}
    )
    clock = iter((2.0, 2.125)).__next__
    frame = answer_frame(answer, Request("net", {}, 0.0), message_id="", arrived_s=1.0, decode_s=0.0625, clock=clock)
    message = b"".join(frame.parts)
    parsed = pb.ModelInferResponse.FromString(message)
    assert {name: value.double_param for name, value in parsed.parameters.items() if name != "degraded"} == {
        "splitnn_decode_s": 0.0625,
        "splitnn_queue_s": 0.25,
        "splitnn_compute_s": 0.5,
        "splitnn_encode_s": 0.125,
        "splitnn_total_s": 1.125,
    }
    back = read_answer(receive_answer(message), limits=DEFAULT_LIMITS)
    assert back.timings == Timings(0.0625, 0.25, 0.5, 0.125, 1.125)
    assert back.parameters == {"degraded": "link"}


@pytest.mark.parametrize("seconds", [math.inf, math.nan, -0.1, 0.5, 1.0])
@pytest.mark.parametrize("stage", ["decode_s", "queue_s", "compute_s", "encode_s", "total_s"])
def test_timings_that_cannot_be_say_nothing(stage: str, seconds: float) -> None:
    possible = Timings(0.1, 0.1, 0.1, 0.1, 0.4)
    assert possible.if_possible(0.5) == possible
    assert replace(possible, **{stage: seconds}).if_possible(0.5) == Timings()


def test_a_tensor_that_comes_twice_is_refused() -> None:
    entry = input_of("x", "FP32", [1])
    message = pb.ModelInferRequest(inputs=[entry, entry], raw_input_contents=[bytes(4), bytes(4)])
    with pytest.raises(CodecError, match="twice"):
        request_in(message.SerializeToString())


def test_an_error_while_encoding_names_the_tensor() -> None:
    with pytest.raises(CodecError, match=r"'layer4.relu'.*int64"):
        message_of(Request("net", {"layer4.relu": torch.arange(3)}, time.monotonic(), codecs={"layer4.relu": "int8"}))
    with pytest.raises(CodecError, match="'n'"):
        message_of(Request("net", {"n": 2**70}, time.monotonic()))
