"""Errors as gRPC statuses, and back."""

from __future__ import annotations

from urllib.parse import quote

import grpc
import pytest

from splitnn import errors
from splitnn.transport.status import Status, error_of, status_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UnknownModel("no model"), grpc.StatusCode.NOT_FOUND),
        (errors.InvalidInput("shape"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.CodecError("truncated"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.DigestMismatch("a, not b"), grpc.StatusCode.FAILED_PRECONDITION),
        (errors.PayloadTooLarge("big"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Overloaded("busy", 0.25), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.DeadlineExceeded("late"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.Unavailable("gone"), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_every_error_of_the_tree_comes_back_as_itself(error: errors.SplitnnError, code: grpc.StatusCode) -> None:
    status = status_of(error)
    back = error_of(status)
    assert status.code is code
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert getattr(back, "retry_after_s", None) == getattr(error, "retry_after_s", None)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_running_out_of_memory_is_overload(error: Exception) -> None:
    assert status_of(error).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(error_of(status_of(error)), errors.Overloaded)


def test_what_is_not_in_the_tree_tells_nothing_of_the_inside() -> None:
    status = status_of(KeyError("/etc/secret"))
    assert status.code is grpc.StatusCode.INTERNAL
    assert "secret" not in status.message
    assert isinstance(error_of(status), errors.TransportError)


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, "", errors.UnknownModel),
        (grpc.StatusCode.INVALID_ARGUMENT, "", errors.InvalidInput),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", errors.Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", errors.Overloaded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)", errors.PayloadTooLarge),
        (grpc.StatusCode.UNKNOWN, "", errors.TransportError),
    ],
)
def test_a_foreign_peer_is_understood_by_its_code(
    code: grpc.StatusCode, message: str, kind: type[errors.SplitnnError]
) -> None:
    assert type(error_of(Status(code, message))) is kind


@pytest.mark.parametrize("letter", ["x", "é", "層", "😀", "%", "\n", "\udc80"])
def test_long_messages_are_cut_to_what_metadata_can_hold(letter: str) -> None:
    message = status_of(errors.InvalidInput("tensor " + letter * 100_000)).message
    assert message.startswith("tensor " + letter)
    assert len(quote(message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}", errors="replace")) <= 4000
