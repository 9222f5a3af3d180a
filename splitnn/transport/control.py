"""Both ends of the control service: what two hosts tell each other about models, speed and the link between them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from splitnn.cost.profile import Profile
from splitnn.errors import CodecError, PayloadTooLarge
from splitnn.graph.graph import Graph
from splitnn.proto import control_pb2 as pb
from splitnn.transport.base import (
    DEFAULT_LIMITS,
    Clock,
    Description,
    ExitsAudited,
    HostReport,
    Limits,
    Probe,
    Reporter,
    Service,
)
from splitnn.transport.guard import guarded
from splitnn.transport.status import error_of_call
from splitnn.transport.zstd import compressed, decompressed

T = TypeVar("T")

CONTROL = "splitnn.v1.Control"
_METHODS: dict[str, tuple[Any, Any]] = {
    "GetModel": (pb.GetModelRequest, pb.GetModelResponse),
    "GetProfile": (pb.GetProfileRequest, pb.GetProfileResponse),
    "Probe": (pb.ProbeRequest, pb.ProbeResponse),
}


class ControlClient:
    """The near side, on a channel that somebody else opens and closes. All errors are those of ``Transport``."""

    def __init__(
        self, channel: grpc.aio.Channel, *, limits: Limits = DEFAULT_LIMITS, clock: Clock = time.monotonic
    ) -> None:
        self._calls: dict[str, Any] = {
            name: channel.unary_unary(
                f"/{CONTROL}/{name}", request_serializer=sent.SerializeToString, response_deserializer=back.FromString
            )
            for name, (sent, back) in _METHODS.items()
        }
        self._limits = limits
        self._clock = clock

    async def get_model(self, name: str, *, version: str = "", timeout_s: float) -> Description:
        """The far side's graph, digest and versions of a model; a version is its number or its digest, "" the newest.

        Raises UnknownModel; CodecError: no such graph.
        """
        answer = await self._call("GetModel", pb.GetModelRequest(name=name, version=version), timeout_s)
        graph = _parsed(answer.graph_json, Graph.from_json)
        return Description(answer.name, answer.digest, graph, tuple(answer.versions))

    async def get_profile(
        self, name: str, *, version: str = "", known_profile: str = "", timeout_s: float
    ) -> HostReport:
        """The far side's profile of a model and its load; without the profile where its id is ``known_profile``.

        ``version`` may be a digest. Raises UnknownModel; CodecError: no such profile.
        """
        request = pb.GetProfileRequest(name=name, version=version, known_profile=known_profile)
        answer = await self._call("GetProfile", request, timeout_s)
        profile = None
        if answer.profile_zstd:
            text = decompressed(answer.profile_zstd, least=0, most=self._limits.message_bytes)
            profile = _parsed(text, Profile.from_json)
        try:
            return HostReport(
                profile,
                int(answer.queue_length),
                float(answer.slowdown),
                float(answer.utilisation),
                digest=answer.digest,
                profile_id=answer.profile_id,
                exits=_audited(answer.exits) if answer.HasField("exits") else None,
            )
        except ValueError as error:
            raise CodecError(f"the far side sent something else: {error}") from error

    async def probe(self, size_bytes: int, *, timeout_s: float) -> Probe:
        """See ``Transport.probe``."""
        if not 0 <= size_bytes <= self._limits.message_bytes:
            raise ValueError(f"a probe has 0 to {self._limits.message_bytes} bytes, not {size_bytes}")
        request = pb.ProbeRequest(payload=bytes(size_bytes))
        started = self._clock()
        answer = await self._call("Probe", request, timeout_s)
        elapsed_s = self._clock() - started
        if answer.received_bytes != size_bytes:
            raise CodecError(f"the far side received {answer.received_bytes} of {size_bytes} bytes")
        if not math.isfinite(answer.received_at_s):
            raise CodecError(f"the far side received the probe at {answer.received_at_s}, which is no time")
        return Probe(size_bytes, elapsed_s, answer.received_at_s)

    async def _call(self, name: str, request: Any, timeout_s: float) -> Any:
        try:
            return await self._calls[name](request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of_call(error) from error


def add_control(
    server: grpc.aio.Server,
    service: Service,
    reporter: Reporter,
    *,
    limits: Limits = DEFAULT_LIMITS,
    clock: Clock = time.monotonic,
) -> None:
    """Register the far side."""

    async def get_model(request: Any) -> Any:
        found = await service.describe(request.name, request.version)
        text = _bounded(json.dumps(found.graph.to_json(), separators=(",", ":")), limits)
        return pb.GetModelResponse(name=found.name, digest=found.digest, versions=found.versions, graph_json=text)

    async def get_profile(request: Any) -> Any:
        found = await service.describe(request.name, request.version)
        report = await reporter.report(request.name, request.version)
        text = "" if report.profile is None else json.dumps(report.profile.to_json(), separators=(",", ":"))
        profile_id = hashlib.sha256(text.encode()).hexdigest()[:16] if text else ""
        is_known = profile_id == request.known_profile
        return pb.GetProfileResponse(
            # a profile of hundreds of layers would take half a minute of a slow link as it is
            profile_zstd=b"" if is_known else compressed(_bounded(text, limits).encode()),
            digest=found.digest,
            profile_id=profile_id,
            queue_length=report.queue_length,
            slowdown=report.slowdown,
            utilisation=report.utilisation,
            exits=None if report.exits is None else pb.ExitsAudited(**asdict(report.exits)),
        )

    async def probe(request: Any) -> Any:
        return pb.ProbeResponse(received_bytes=len(request.payload), received_at_s=clock())

    ends: dict[str, Callable[[Any], Awaitable[Any]]] = {
        "GetModel": get_model,
        "GetProfile": get_profile,
        "Probe": probe,
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            guarded(end),
            request_deserializer=_METHODS[name][0].FromString,
            response_serializer=_METHODS[name][1].SerializeToString,
        )
        for name, end in ends.items()
    }
    server.add_registered_method_handlers(CONTROL, handlers)  # type: ignore[attr-defined]


def _audited(told: Any) -> ExitsAudited:
    return ExitsAudited(int(told.answered), int(told.checked), int(told.agreed))


def _bounded(text: str, limits: Limits) -> str:
    if len(text) > limits.message_bytes:
        raise PayloadTooLarge(f"the description takes {len(text)} bytes; at most {limits.message_bytes} are sent")
    return text


def _parsed(text: str | bytes, read: Callable[[Any], T]) -> T:
    try:
        return read(json.loads(text, parse_constant=_refuse))  # bytes that are no UTF-8 are a ValueError
    except (ValueError, RecursionError) as error:
        raise CodecError(f"the far side sent something else: {str(error)[:500]}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
