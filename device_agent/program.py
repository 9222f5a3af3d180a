"""The life of the agent: bind, load, measure, say that it is ready, serve, drain. Composes; owns no algorithm."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from pathlib import Path

import torch

from device_agent.agent import Agent
from device_agent.audit import Audit, AuditPolicy
from device_agent.cloud import Cloud
from device_agent.emulation import SlowEngine, SlowTransport
from device_agent.log import Log
from device_agent.navigator import DEVICE, Navigator, Pin, as_cloud, parse_pin
from device_agent.settings import Settings
from splitnn.cost.accuracy import parse_share
from splitnn.cost.bandwidth import LinkEstimator
from splitnn.cost.network import parse_link
from splitnn.cost.profile import Profile
from splitnn.cost.profile_file import open_profile
from splitnn.cost.profiler import profile
from splitnn.errors import Unavailable
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model
from splitnn.planner.accuracy import Allowance, drops_of
from splitnn.planner.exit_accuracy import policy_drops
from splitnn.runtime.door import Door
from splitnn.runtime.engine import Engine, Limits
from splitnn.runtime.engines.serving import check_engine, compile_on, require, stages_on
from splitnn.runtime.handling import with_handling
from splitnn.transport.base import Transport
from splitnn.transport.codec import CODECS
from splitnn.transport.open_inference import GrpcTransport
from splitnn.zoo.sources import name_of, open_model

_log = logging.getLogger(__name__)
CLOUD_HEALTH = "splitnn.cloud"
"""The service name under which grpc.health.v1 tells whether the cloud can be used."""
EXITS_HEALTH = "splitnn.exits"
"""And whether early exits agree with the whole model as often as they should; unknown for a model without exits."""


async def serve(settings: Settings, told: asyncio.Event) -> int:
    """Serve until ``told`` is set; the exit status. The cloud may come later, go, and come back.

    Raises:
        Unavailable: the port is in use.
        SplitnnError, ValueError, OSError: the model, the profile or the plan cannot be used; the message says why.
    """
    torch.set_num_threads(1)
    loading = Engine("loading")
    try:
        made = asyncio.ensure_future(loading.run(lambda: _load(settings), deadline_s=math.inf))
        stop = asyncio.ensure_future(told.wait())
        await asyncio.wait((made, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not made.done():
            made.cancel()
            return 0
        model, measured = made.result().result
    finally:
        loading.close()
    return await _serve(settings, told, model, measured)


async def _serve(settings: Settings, told: asyncio.Event, model: Model, measured: Profile) -> int:
    name = settings.name or name_of(settings.model)
    engine = _engine(settings)
    transport = GrpcTransport(settings.server)
    estimator = LinkEstimator(parse_link(settings.link))
    cloud = Cloud(
        _slowed(transport, settings.slowdown),
        transport.control,
        estimator,
        name=name,
        digest=model.digest,
        graph=model.graph,
    )
    own = measured.scaled(settings.slowdown, host=DEVICE)
    navigator = Navigator(
        model.graph,
        own,
        estimator,
        stand_in=as_cloud(measured),
        codecs=settings.codecs,
        exits=model.exits,
        allowance=_allowance(settings, measured, model.exits),
        pin=_pin(settings.plan, model),
    )
    agent = Agent(
        model,
        cloud,
        navigator,
        engine,
        name=name,
        profile=own,
        deadline_s=settings.deadline_s,
        slowdown=settings.slowdown,
        prepare=stages_on(settings.engine, model),
        audit=AuditPolicy(share=settings.audit_share, target=settings.audit_target),
        instrument=Log(),
    )
    try:
        door = Door(agent, settings.listen, reporter=agent)
    except Unavailable:
        await transport.close()
        engine.close()
        raise
    await door.tell(CLOUD_HEALTH, serves=False)
    await door.open()
    await door.tell(serves=True)
    running = [asyncio.create_task(_tell_health(cloud, door)), asyncio.create_task(agent.steer())]
    if navigator.uses_cloud:
        running.append(asyncio.create_task(cloud.watch(is_calm=lambda: agent.is_calm)))
    if model.exits is not None:
        running += [asyncio.create_task(work) for work in (agent.audit.run(), agent.timely.run())]
        running.append(asyncio.create_task(_tell_exits(agent.audit, door)))
    try:
        if settings.slowdown != 1:
            _log.warning("emulating a device %g times slower by sleeping", settings.slowdown)
        print(f"splitnn-agent ready on {door.address}: {name} with the cloud at {settings.server}", flush=True)
        stopped = asyncio.create_task(told.wait())
        await asyncio.wait((stopped, *running), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        for task in running:
            if task.done():
                task.result()  # none ever ends but by a defect, which must not go on unseen
        agent.close()
        await door.shut(settings.grace_s)
    finally:
        for task in running:
            task.cancel()
        await door.close()
        await cloud.close()
        engine.close()
    _log.info("stopped")
    return 0


async def _tell_health(cloud: Cloud, door: Door) -> None:
    """Keep the health of ``splitnn.cloud`` true."""
    changed = asyncio.Event()
    cloud.subscribe(changed.set)
    while True:
        changed.clear()
        await door.tell(CLOUD_HEALTH, serves=cloud.is_up)
        await changed.wait()


async def _tell_exits(audit: Audit, door: Door) -> None:
    """Keep the health of ``splitnn.exits`` true."""
    changed = asyncio.Event()
    audit.subscribe(changed.set)
    while True:
        changed.clear()
        await door.tell(EXITS_HEALTH, serves=not audit.is_alarmed)
        await changed.wait()


def _load(settings: Settings) -> tuple[Model, Profile]:
    """The model and this machine's own profile of it, without any emulated slowdown."""
    require(settings.engine)
    _log.info("loading %s", settings.model)
    model = open_model(settings.model)
    if settings.profile:
        measured = open_profile(settings.profile)
        measured.check_fits(model.graph, model.digest)
        check_engine(measured, settings.engine)
        if not measured.message_s:  # written before it was measured, or by hand
            measured = with_handling(measured)
    else:
        _log.info("measuring the model's layers on this device")
        codecs = {name: CODECS[name] for name in settings.codecs}
        measured = with_handling(
            profile(model, host=DEVICE, codecs=codecs, engine=settings.engine, compile=compile_on(settings.engine))
        )
    if settings.save_profile:
        Path(settings.save_profile).write_text(json.dumps(measured.to_json()))
    _pin(settings.plan, model)  # a plan that does not fit is told now
    _allowance(settings, measured, model.exits)
    return model, at_full_speed(measured, settings)


def at_full_speed(measured: Profile, settings: Settings) -> Profile:
    """As this machine is without ``--slowdown``; a profile that is scaled stands for a slow machine where none is told.

    Raises:
        ValueError: the profile is scaled by another factor.
    """
    if 1 in (measured.slowdown, settings.slowdown):
        return measured
    if not math.isclose(measured.slowdown, settings.slowdown, rel_tol=1e-5):
        raise ValueError(
            f"--slowdown {settings.slowdown:g}: {settings.profile} is scaled already, by {measured.slowdown:g}: give "
            "that, or a profile made without --slowdown"
        )
    return measured.scaled(1 / measured.slowdown)


def _allowance(settings: Settings, measured: Profile, exits: Exits | None) -> Allowance | None:
    """The lossy codecs that the profile's calibration allows beside those that were named; None when none may be lost.

    Of a model with exits those that were calibrated for all of them together.

    Raises:
        ValueError: the profile has no calibration.
    """
    if not settings.max_accuracy_drop:
        return None
    if measured.accuracy is None:
        raise ValueError(f"--max-accuracy-drop: {settings.profile} has no calibration; run `splitnn calibrate` for it")
    found = measured.accuracy
    drops = drops_of(found, CODECS) if exits is None else policy_drops(found, CODECS, exits)
    if exits is not None and not drops:
        _log.warning("%s does not say what lossy codecs cost these exits: none is used", settings.profile)
    named = [codec for codec in settings.codecs if CODECS[codec].lossless]
    codecs = tuple(dict.fromkeys([*named, *(codec for _, codec in drops)]))
    return Allowance(codecs, drops, parse_share(settings.max_accuracy_drop))


def _pin(text: str, model: Model) -> Pin:
    try:
        return parse_pin(text, model.graph, model.digest)
    except ValueError as error:
        raise ValueError(f"--plan: {error}") from error


def _engine(settings: Settings) -> Engine:
    limits = Limits(waiting=settings.max_waiting)
    if settings.slowdown == 1:
        return Engine("compute", limits=limits)
    return SlowEngine("compute", factor=settings.slowdown, limits=limits)


def _slowed(transport: Transport, factor: float) -> Transport:
    return transport if factor == 1 else SlowTransport(transport, factor=factor)
