"""The life of the server: bind, load, say that it is ready, serve, drain. Composes; owns no algorithm."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import torch
from grpc_health.v1 import health_pb2

from cloud_server.config import Config
from cloud_server.measuring import Measuring
from cloud_server.models import Loaded, load_models
from cloud_server.service import CloudService
from splitnn.runtime.engine import Engine
from splitnn.runtime.engine import Limits as EngineLimits
from splitnn.transport.base import Limits
from splitnn.transport.open_inference import OPEN_INFERENCE
from splitnn.transport.server import Health, build_server, listen

_log = logging.getLogger(__name__)
_LINGER_S = 2.0  # for the last answers to leave; a stream that an idle client keeps open is cut then
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def serve(config: Config, told: asyncio.Event) -> int:
    """Serve until ``told`` is set; the exit status.

    Alive from the first moment; SERVING, ready, and one line on stdout once every model is loaded.

    Raises:
        Unavailable: the port is in use.
        SplitnnError, ValueError, OSError: the models or profiles cannot be served; the message says why.
    """
    torch.set_num_threads(config.threads)
    limits = EngineLimits(waiting=config.max_waiting, admitted_bytes=config.max_waiting_bytes)
    engine, background = Engine("compute", limits=limits), Engine("background")
    service = CloudService(engine, working_bytes=config.max_working_bytes)
    server, checks = build_server(service, reporter=service, limits=Limits(message_bytes=config.max_message_bytes))
    port = listen(server, config.listen)
    await _tell(checks, _NOT_SERVING)
    await server.start()
    try:
        loaded = await _unless(told, background.run(lambda: _load(config), deadline_s=math.inf))
        if loaded is not None:
            for each in loaded.result:
                service.add(each)
            await service.warm_up()
            service.open()
            await _tell(checks, _SERVING)
            print(f"splitnn-server ready on {config.host}:{port}: {service.summary()}", flush=True)
            measuring = Measuring(service, background, threads=config.threads)
            if config.profiling == "background":
                measuring.start()
            await told.wait()
            measuring.stop()
            await checks.enter_graceful_shutdown()
            await _drain(service, config.grace_s)
    finally:
        await server.stop(_LINGER_S)
        engine.close()
        background.close()
    _log.info("stopped")
    return 0


async def _tell(checks: Health, status: int) -> None:
    for name in ("", OPEN_INFERENCE):
        await checks.set(name, status)


async def _drain(service: CloudService, grace_s: float) -> None:
    _log.info("shutting down: requests under way get %.1f s", grace_s)
    if not await service.drain(grace_s):
        _log.warning("requests were still under way after %.1f s; they fail", grace_s)


def _load(config: Config) -> list[Loaded]:
    return load_models(config.models, config.profile)


async def _unless(told: asyncio.Event, work: Any) -> Any:
    """The result, or None when the server is told to stop before there is one."""
    doing, stopping = asyncio.ensure_future(work), asyncio.ensure_future(told.wait())
    try:
        await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        doing.cancel()
        stopping.cancel()
