"""The life of the server: bind, load, say that it is ready, serve, drain. Composes; owns no algorithm."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import torch

from cloud_server.config import Config
from cloud_server.measuring import Measuring
from cloud_server.models import Loaded, load_models
from cloud_server.service import CloudService
from splitnn.runtime.door import Door
from splitnn.runtime.engine import Engine
from splitnn.runtime.engine import Limits as EngineLimits
from splitnn.runtime.engines.serving import require
from splitnn.transport.base import Limits

_log = logging.getLogger(__name__)


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
    service = CloudService(engine, working_bytes=config.max_working_bytes, stages_on=config.engine)
    door = Door(service, config.listen, reporter=service, limits=Limits(message_bytes=config.max_message_bytes))
    await door.open()
    try:
        loaded = await _unless(told, background.run(lambda: _load(config), deadline_s=math.inf))
        if loaded is not None:
            for each in loaded.result:
                service.add(each)
            await service.warm_up()
            service.open()
            await door.tell(serves=True)
            print(f"splitnn-server ready on {door.address}: {service.summary()}", flush=True)
            measuring = Measuring(service, background, threads=config.threads, stages_on=config.engine)
            if config.profiling == "background":
                measuring.start()
            await told.wait()
            measuring.stop()
            service.close()
            await door.shut(config.grace_s)
    finally:
        await door.close()
        engine.close()
        background.close()
    _log.info("stopped")
    return 0


def _load(config: Config) -> list[Loaded]:
    require(config.engine)
    return load_models(config.models, config.profile, engine=config.engine)


async def _unless(told: asyncio.Event, work: Any) -> Any:
    """The result, or None when the server is told to stop before there is one."""
    doing, stopping = asyncio.ensure_future(work), asyncio.ensure_future(told.wait())
    try:
        await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
        return doing.result() if doing.done() else None
    finally:
        doing.cancel()
        stopping.cancel()
