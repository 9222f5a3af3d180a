"""The values that travel between two hosts, and the two interfaces at the ends of every transport. Imports no torch.

The near side holds a ``Transport``; the far side is a ``Service`` behind a servicer that only translates. A request
names tensors of the model's graph: the model's inputs run the whole model, any other cut runs what is left of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph, TensorSpec

if TYPE_CHECKING:
    import torch

Parameter = bool | int | float | str
Clock = Callable[[], float]
"""``time.monotonic`` or a test's own: seconds, never going back."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a host accepts. The first guard of its memory, so never unlimited."""

    message_bytes: int = 64 * 2**20
    decoded_bytes: int = 256 * 2**20  # all tensors of a message together, gaps of their strides included
    held_bytes: int = 2**30  # messages and decoded tensors of all requests under way; one alone is always accepted
    calls: int = 256  # under way at once; a stream is one
    longest_s: float = 60.0  # the deadline of a request that brings none


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Request:
    """One request: feed these tensors to the graph, return those.

    Decoded tensors may be views of a received message: read them, never write into them.
    """

    model: str
    tensors: Mapping[str, torch.Tensor | int]
    deadline_s: float  # an instant of time.monotonic() on the host that holds this value
    version: str = ""  # "" is the newest
    digest: str = ""  # of the model; "" is not checked (a client of the standard protocol has none)
    request_id: str = ""
    codecs: Mapping[str, str] = field(default_factory=dict)  # of tensors sent and of those in wanted; absent: raw
    wanted: tuple[str, ...] = ()  # tensors to return; () is all outputs of the model
    parameters: Mapping[str, Parameter] = field(default_factory=dict)  # of the request, such as Triton's "priority"

    def remaining_s(self, clock: Clock = time.monotonic) -> float:
        """Seconds until the deadline; 0 when it has passed."""
        return max(0.0, self.deadline_s - clock())


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a request says of itself before anything of it is decoded."""

    model: str
    tensors: Mapping[str, TensorSpec]  # that came: shape and dtype only
    version: str = ""
    digest: str = ""
    wanted: tuple[str, ...] = ()
    codecs: Mapping[str, str] = field(default_factory=dict)  # as in ``Request``; all of them exist


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that the far side spent on a request. ``total_s`` is from its last byte in to its first byte out."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    encode_s: float = 0.0
    total_s: float = 0.0

    def if_possible(self, elapsed_s: float) -> Timings:
        """These, or all 0 where they cannot be: not finite, below 0, or longer than the near side's ``elapsed_s``."""
        stages = (self.decode_s, self.queue_s, self.compute_s, self.encode_s, self.total_s)
        return self if all(0 <= seconds < elapsed_s for seconds in stages) else Timings()


@dataclass(frozen=True)
class Answer:
    """The tensors that were wanted, and what it took.

    A ``Service`` fills in the tensors, ``queue_s`` and ``compute_s``, and its own parameters (``degraded`` with a
    reason, for one); the transport fills in the rest. ``elapsed_s - timings.total_s`` is what the network took.
    """

    tensors: Mapping[str, torch.Tensor | int]
    version: str = ""  # that answered
    timings: Timings = Timings()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    sent_bytes: int = 0  # the request's message, as the near side sent it
    received_bytes: int = 0  # the answer's message
    encode_s: float = 0.0  # on the near side
    decode_s: float = 0.0  # on the near side
    elapsed_s: float = 0.0  # on the near side, from handing the message to the wire until the answer's last byte


@dataclass(frozen=True, slots=True)
class Probe:
    """One measured transfer of bytes that mean nothing, or of none: a round trip."""

    size_bytes: int
    elapsed_s: float  # until the far side's acknowledgement
    received_at_s: float  # the far side's own monotonic clock: two probes give the spread of their arrivals


class Transport(Protocol):
    """The way to the next host. Any number of requests may be under way at once."""

    async def infer(self, request: Request) -> Answer:
        """Send, wait, decode. Nothing is retried.

        Raises:
            RequestError: the far side refuses the request itself.
            TransportError: dead, overloaded or too late; never later than the deadline.
            CodecError: a tensor cannot be encoded, or the answer cannot be decoded.
        """
        ...

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        """Measure one transfer of ``size_bytes`` upwards.

        Raises:
            TransportError: no acknowledgement within ``timeout_s``.
        """
        ...

    async def close(self) -> None:
        """End the connection. Requests under way fail with ``Unavailable``."""
        ...


@dataclass(frozen=True)
class Description:
    """What a host says about a model that it serves."""

    name: str
    digest: str
    graph: Graph
    versions: tuple[str, ...] = ()  # newest last


@dataclass(frozen=True, slots=True)
class ExitsAudited:
    """Samples of requests to a host that early exits answered, there or further on, and what checks of them found.

    Raises:
        ValueError: more agreed than were checked, or more were checked than answered.
    """

    answered: int
    checked: int
    agreed: int

    def __post_init__(self) -> None:
        if not 0 <= self.agreed <= self.checked <= self.answered < 2**63:
            raise ValueError(f"no audit: {self.agreed} agreed of {self.checked} checked of {self.answered} answered")

    @property
    def share(self) -> float:
        """Of the answers those that were checked."""
        return self.checked / self.answered if self.answered else 0.0

    @property
    def agreement(self) -> float:
        """Of the checked ones those that the whole model gave too; 1 while nothing was checked."""
        return self.agreed / self.checked if self.checked else 1.0


@dataclass(frozen=True)
class HostReport:
    """How fast a host runs a model, and how busy it is now.

    Raises:
        ValueError: a number that no host has.
    """

    profile: Profile | None  # None when it never measured one, or when the asker holds it
    queue_length: int = 0  # requests that wait
    slowdown: float = 1.0  # observed seconds over the profile's
    utilisation: float = 0.0  # of the last seconds, 0 to 1
    digest: str = ""  # of the model; "" when the far side does not say
    profile_id: str = ""  # of its profile, here or not; "" when it never measured one
    exits: ExitsAudited | None = None  # None where no exits answer there, or nobody checks them

    def __post_init__(self) -> None:
        if self.queue_length < 0 or not (0 < self.slowdown < math.inf and 0 <= self.utilisation <= 1):
            load = f"queue {self.queue_length}, slowdown {self.slowdown}, utilisation {self.utilisation}"
            raise ValueError(f"no load of any host: {load}")


class Service(Protocol):
    """What a servicer delegates to; the two programs implement it.

    Errors of the ``splitnn.errors`` tree reach the caller as themselves. A request whose caller went away or whose
    deadline passed is cancelled: ``infer`` sees ``asyncio.CancelledError`` and must drop what waits in its queue.
    """

    def expect(self, announced: Announcement) -> None:
        """Refuse what ``infer`` would refuse anyhow, before memory is spent on decoding it. Cheap.

        Raises UnknownModel, InvalidInput, DigestMismatch, Unavailable.
        """
        ...

    async def infer(self, request: Request) -> Answer:
        """Run it. Raises UnknownModel, InvalidInput, DigestMismatch, Overloaded, DeadlineExceeded, Unavailable."""
        ...

    async def describe(self, model: str, version: str = "") -> Description:
        """The model of that name; a version is its number or its digest, "" the newest. Raises UnknownModel."""
        ...

    def is_ready(self, model: str = "", version: str = "") -> bool:
        """Whether requests for the model (``""``: for anything at all) are accepted now; False when unknown."""
        ...


class Reporter(Protocol):
    """The part of a host that knows its speed and load; asked by the control service."""

    async def report(self, model: str, version: str = "") -> HostReport:
        """Profile and load for the model; see ``Service.describe``. Raises UnknownModel."""
        ...
