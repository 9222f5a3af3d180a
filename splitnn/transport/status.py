"""The error tree and gRPC's status codes, in both directions. The only place that knows both.

Several errors share a code, so the error's name travels beside it (trailing metadata of a call, a parameter on a
stream). A peer that sends no name is understood by its code alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio

from splitnn import errors

NAME_KEY = "splitnn-error"
RETRY_KEY = "splitnn-retry-after-s"
_LONGEST_MESSAGE_BYTES = 4000  # as it travels, percent-encoded; gRPC limits all metadata of a call to 8 KB

_CODES: dict[type[Exception], grpc.StatusCode] = {  # the first match counts: subclasses before their bases
    errors.UnknownModel: grpc.StatusCode.NOT_FOUND,
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.CodecError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.DigestMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PayloadTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.RequestError: grpc.StatusCode.INVALID_ARGUMENT,
}
_NAMED = {kind.__name__: kind for kind in (*_CODES, errors.TransportError) if issubclass(kind, errors.SplitnnError)}
_BY_CODE: dict[grpc.StatusCode, type[errors.SplitnnError]] = {
    grpc.StatusCode.NOT_FOUND: errors.UnknownModel,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidInput,
    grpc.StatusCode.FAILED_PRECONDITION: errors.DigestMismatch,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: errors.RequestError,
    grpc.StatusCode.UNAUTHENTICATED: errors.RequestError,
    grpc.StatusCode.PERMISSION_DENIED: errors.RequestError,
}


@dataclass(frozen=True, slots=True)
class Status:
    """How a request failed, as it travels."""

    code: grpc.StatusCode
    message: str
    name: str = ""  # of the error in splitnn.errors; "" when it has none there
    retry_after_s: float | None = None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The part that a gRPC status does not hold, as trailing metadata."""
        name = ((NAME_KEY, self.name),) if self.name else ()
        return name if self.retry_after_s is None else (*name, (RETRY_KEY, f"{self.retry_after_s:.6f}"))


def status_of(error: Exception) -> Status:
    """The status for an error of the service. What is not in the tree becomes INTERNAL and tells nothing."""
    if isinstance(error, TimeoutError):
        return Status(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer within the deadline", "DeadlineExceeded")
    if errors.is_out_of_memory(error):
        return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "not enough memory for this request", "Overloaded")
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return Status(code, _shortened(str(error)), kind.__name__, getattr(error, "retry_after_s", None))
    if isinstance(error, errors.TransportError):
        return Status(grpc.StatusCode.UNAVAILABLE, _shortened(str(error)), "TransportError")
    return Status(grpc.StatusCode.INTERNAL, "internal error; the host's log has it")


def _shortened(message: str) -> str:
    """As much of the message as metadata can hold: of what is not printable ASCII, every byte takes three."""
    left = _LONGEST_MESSAGE_BYTES
    for at, letter in enumerate(message):
        left -= 1 if " " <= letter <= "~" and letter != "%" else 3 * len(letter.encode(errors="replace"))
        if left < 0:
            return message[:at]
    return message


def error_of(status: Status) -> errors.SplitnnError:
    """The error for a status from the far side, or from this side's gRPC."""
    kind = _NAMED.get(status.name) or _BY_CODE.get(status.code, errors.TransportError)
    if not status.name and "message larger than max" in status.message:  # gRPC's own refusal, of either side
        kind = errors.PayloadTooLarge
    if issubclass(kind, errors.Overloaded):
        return kind(status.message, status.retry_after_s)
    return kind(status.message or status.code.name)


def error_of_call(error: grpc.aio.AioRpcError) -> errors.SplitnnError:
    """The error for a failed call."""
    trailing: dict[str, Any] = dict(cast("Any", error.trailing_metadata()) or ())
    return error_of(
        Status(error.code(), error.details() or "", _text(trailing.get(NAME_KEY)), _seconds(trailing.get(RETRY_KEY)))
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(_text(value))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
