"""Messages that are small and would cost much: refused before they are read to their end."""

from __future__ import annotations

import tracemalloc

import pytest

from splitnn.errors import PayloadTooLarge
from splitnn.proto import open_inference_pb2 as pb
from splitnn.transport.base import DEFAULT_LIMITS, Request
from splitnn.transport.framing import announcement, read_request, receive_request
from splitnn.transport.wire import MOST_ENTRIES, MOST_FIELDS, take_apart

MEGABYTE = 10**6


class Counted(bytes):
    """A message that counts how often one of its bytes is looked at."""

    reads = 0

    def __getitem__(self, at):  # type: ignore[no-untyped-def]
        self.reads += 1
        return super().__getitem__(at)


def read(message: bytes) -> Request:
    received = receive_request(message)
    return read_request(received, announcement(received, limits=DEFAULT_LIMITS), deadline_s=0.0, request_id="r")


@pytest.mark.parametrize(
    "field",
    [b"\x3a\x00", b"\x2a\x00", b"\x98\x06", b"\x1a\x00"],
    ids=["raw contents", "descriptions", "numbers nobody knows", "ids"],
)
def test_a_message_of_empty_fields_is_left_after_as_many_as_are_allowed(field: bytes) -> None:
    if field == b"\x98\x06":
        field += b"\x05"
    message = Counted(field * (2 * MEGABYTE))
    with pytest.raises(PayloadTooLarge, match="more than"):
        take_apart(message, 5, 7)
    assert message.reads <= 3 * (MOST_FIELDS + 1)


def test_refusing_a_message_of_empty_tensors_takes_less_memory_than_the_message() -> None:
    message = b"\x3a\x00" * (2 * MEGABYTE)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            receive_request(message)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < len(message) / 2


def test_as_many_tensors_as_are_allowed_are_read() -> None:
    rest, entries = take_apart(b"\x3a\x00" * MOST_ENTRIES, 7)
    assert (rest, len(entries)) == (b"", MOST_ENTRIES)


def test_a_head_that_is_larger_than_any_head_is_refused() -> None:
    with pytest.raises(PayloadTooLarge, match="no tensors"):
        receive_request(pb.ModelInferRequest(model_name="n" * (2 * MEGABYTE)).SerializeToString())


@pytest.mark.parametrize("kind", ["outputs", "parameters"])
def test_outputs_and_parameters_are_as_few_as_tensors(kind: str) -> None:
    message = pb.ModelInferRequest(model_name="net")
    for i in range(MOST_ENTRIES + 1):
        if kind == "outputs":
            message.outputs.add(name=str(i))
        else:
            message.parameters[str(i)].bool_param = True
    with pytest.raises(PayloadTooLarge, match=kind):
        read(message.SerializeToString())


def test_descriptions_are_bounded_together() -> None:
    message = pb.ModelInferRequest(model_name="net")
    for i in range(300):
        message.inputs.add(name=f"{i:05}" * 1000, datatype="FP32", shape=[1])
    with pytest.raises(PayloadTooLarge, match="descriptions"):
        read(message.SerializeToString())


def test_a_description_of_many_empty_fields_is_refused() -> None:
    message = b"\x2a\xc0\x9a\x0c" + b"\x22\x00" * 100_000  # one tensor with 100,000 parameters
    with pytest.raises(PayloadTooLarge, match="fields"):
        read(message)


def test_typed_contents_may_be_longer_than_any_description() -> None:
    message = pb.ModelInferRequest(model_name="net")
    values = message.inputs.add(name="x", datatype="FP32", shape=[500_000])
    values.contents.fp32_contents.extend([1.5] * 500_000)
    tensor = read(message.SerializeToString()).tensors["x"]
    assert not isinstance(tensor, int)
    assert tensor.shape == (500_000,)
