"""Everything that can go wrong in the world, as one tree.

SplitnnError
├── CaptureError          a module cannot be exported, or uses what a package cannot hold
├── PackageError          a model on disk is incomplete, altered, or names an operator off the allow-list
├── ProfileMismatch       a profile or a plan belongs to another model
├── InfeasiblePlan        no placement obeys the constraints
├── EngineMismatch        an engine cannot run a stage, or is further from torch than its tolerance
├── CodecError            a payload is truncated, lies about its size, or cannot be encoded
├── RequestError          the request is wrong; sending it again will not help
│   ├── UnknownModel
│   ├── InvalidInput      a tensor's name, shape or dtype, or a set of tensors that is no cut
│   ├── DigestMismatch    head and tail hold different models
│   └── PayloadTooLarge
└── TransportError        the request may be right; the far side or the link is not
    ├── DeadlineExceeded
    ├── Unavailable       dead, unreachable, draining
    └── Overloaded        refused early; carries when to try again

Misuse of the library by its caller is a ``ValueError`` or ``TypeError``, not in this tree.
gRPC's statuses are mapped to this tree and back in ``splitnn/transport/status.py`` only.
"""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch could not allocate: this host's state and not the request's fault."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("allocate memory" in text or "out of memory" in text)
    )


class SplitnnError(Exception):
    """Base of all errors that splitnn raises about the world."""


class CaptureError(SplitnnError):
    """A module cannot be exported, or uses what a package cannot hold."""


class PackageError(SplitnnError):
    """A model on disk is incomplete, altered, or names an operator off the allow-list."""


class ProfileMismatch(SplitnnError):
    """A profile or a plan belongs to another model."""


class InfeasiblePlan(SplitnnError):
    """No placement obeys the constraints; ``nearest`` is the plan that exceeds its budgets least, where budgets did it.

    The relative excess of the budget that is exceeded most is what makes a plan near.
    """

    def __init__(self, message: str, nearest: object = None) -> None:
        super().__init__(message)
        self.nearest = nearest


class EngineMismatch(SplitnnError):
    """An engine cannot run a stage, or is further from torch than its tolerance."""


class CodecError(SplitnnError):
    """A payload is truncated, lies about its size, or cannot be encoded."""


class RequestError(SplitnnError):
    """The request is wrong; sending it again will not help."""


class UnknownModel(RequestError):
    """No such model or version here."""


class InvalidInput(RequestError):
    """A tensor's name, shape or dtype is wrong, or the tensors are no cut."""


class DigestMismatch(RequestError):
    """Head and tail hold different models."""


class PayloadTooLarge(RequestError):
    """The message is larger than this host accepts."""


class TransportError(SplitnnError):
    """The request may be right; the far side or the link is not."""


class DeadlineExceeded(TransportError):
    """No answer within the deadline."""


class Unavailable(TransportError):
    """The far side is dead, unreachable or draining."""


class Overloaded(TransportError):
    """Refused early because of load."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
