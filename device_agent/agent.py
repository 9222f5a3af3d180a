"""What the agent does with a request: follow the plan, and finish on the device whatever the cloud does not."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from weakref import WeakSet

from device_agent.account import account
from device_agent.admission import Admission, is_whole
from device_agent.audit import Audit, AuditPolicy
from device_agent.cloud import Cloud
from device_agent.courses import Aside, Course, Courses
from device_agent.leaving import answered_early, ask_whole, check_of, exits_for, is_whole_tail, short_of_time
from device_agent.navigator import DEVICE, Navigator, parse_pin
from device_agent.patience import Patience
from device_agent.refusals import Refusals
from device_agent.rest import Rest
from device_agent.timely import Timely, asked_within
from splitnn.cost.profile import Profile
from splitnn.errors import InvalidInput, SplitnnError, Unavailable
from splitnn.graph.exits import Exits
from splitnn.graph.model import Model
from splitnn.instrument import Instrument
from splitnn.planner.plan import Plan
from splitnn.runtime.engine import Engine
from splitnn.runtime.engines.serving import Prepare, as_it_is
from splitnn.runtime.exits import said
from splitnn.runtime.host import WORKING_BYTES, ModelHost
from splitnn.runtime.inputs import samples_of
from splitnn.runtime.pipeline import Pipeline, Progress
from splitnn.transport.base import Announcement, Answer, Clock, Description, HostReport, Parameter, Request, Timings

_log = logging.getLogger(__name__)
_CHECK_S = 10.0  # a check of an answer may take so long


class Agent:
    """A ``Service`` and a ``Reporter`` for one model: to applications it is the whole model, wherever it runs.

    ``steer`` must run beside it, and ``Cloud.watch``. The engine and the cloud stay their owner's.
    """

    def __init__(
        self,
        model: Model,
        cloud: Cloud,
        navigator: Navigator,
        engine: Engine,
        *,
        name: str,
        profile: Profile | None = None,
        deadline_s: float = 30.0,
        patience: Patience | None = None,
        slowdown: float = 1.0,
        audit: AuditPolicy | None = None,
        chance: random.Random | None = None,
        prepare: Prepare = as_it_is,
        instrument: Instrument | None = None,
        aside: Aside = asyncio.to_thread,
        clock: Clock = time.monotonic,
    ) -> None:
        """``deadline_s`` bounds every request; ``slowdown`` is the emulated one and only told on.

        ``audit`` says how many answers of exits the cloud checks, which ``chance`` chooses; run ``self.audit`` for it.
        ``prepare`` puts the device's own stages on another engine; what it finishes for the cloud stays in torch.
        """
        self._model = model
        self._cloud = cloud
        self._navigator = navigator
        self._engine = engine
        self._name = name
        self._profile = profile
        self._deadline_s = deadline_s
        self._slowdown = slowdown
        self._instrument = instrument or Instrument()
        self._clock = clock
        self._host = ModelHost(model, name=name, host=DEVICE, engine=engine, working_bytes=WORKING_BYTES, clock=clock)
        self._admission = Admission(model, self._host, name=name)
        self._prepare = prepare
        self._courses = Courses(
            navigator, exits=model.exits, compile=self._compiled, aside=aside, instrument=self._instrument
        )
        self._ran: WeakSet[Pipeline] = WeakSet()  # a first run is slower, here and there, and says nothing
        self._news = asyncio.Event()
        self._was_up = self._was_found = False
        self._refusals = Refusals(clock=clock)
        self._under_way = self._begun = 0  # requests of applications
        self._is_closed = self._is_planning = False
        self.audit = Audit(
            lambda check: ask_whole(cloud, model, check, name=name, plan=self.plan, deadline_s=clock() + _CHECK_S),
            is_free=lambda: cloud.is_up and not cloud.under_way,
            policy=audit or AuditPolicy(),
            chance=chance,
            instrument=self._instrument,
        )
        self.timely = Timely(navigator, self._courses, cloud, self._refusals, exits=model.exits, clock=clock)
        self._rest = Rest(
            cloud,
            navigator,
            engine,
            patience=patience or Patience(),
            refusals=self._refusals,
            before=self.audit.make_way,
            clock=clock,
        )
        cloud.subscribe(self._on_cloud_change)

    def expect(self, announced: Announcement) -> None:
        """See ``Service``."""
        if self._is_closed:
            raise Unavailable("the agent is shutting down")
        self._host.expect(announced)

    async def infer(self, request: Request) -> Answer:
        """See ``Service``. What the cloud fails to do is done here; a request is lost only to its deadline.

        A request's parameter ``plan`` (``device``, ``cloud`` or a plan's line) overrides the plan, for this request.
        Where the model has exits, the first that is sure answers, under the name of the model's last one; outputs that
        are asked for by name are the whole model's. Its parameter ``exits`` says which may (``exits_asked_for``).
        With ``deadline_s``, or where the plan would take longer than the request's deadline leaves, it is answered by
        the most accurate exits, cut and codecs that are in time (``Timely``; run ``self.timely``). A last stage that
        takes longer than predicted is waited for: its answer is late, and says so (``late_s``).
        The answer's parameters are those of ``account``.
        """
        if not is_whole(self._model.graph, request):
            return await self._host.infer(request)  # a part of the model: there is no plan for those
        admitted = self._admission.admitted(request)
        self._under_way += 1
        self._begun += 1
        try:
            return await self._follow(admitted)
        finally:
            self._under_way -= 1

    async def describe(self, model: str, version: str = "") -> Description:
        """See ``Service``."""
        return await self._host.describe(model, version)

    def is_ready(self, model: str = "", version: str = "") -> bool:
        """See ``Service``. With or without the cloud."""
        return not self._is_closed and self._host.is_ready(model, version)

    async def report(self, model: str, version: str = "") -> HostReport:
        """See ``Reporter``: the device's own."""
        await self._host.describe(model, version)
        slowdown = self._navigator.conditions().topology.hosts[0].slowdown
        exits = self.audit.figures if self._model.exits is not None and self._navigator.uses_cloud else None
        return HostReport(self._profile, self._engine.waiting, slowdown, self._engine.utilisation(), exits=exits)

    @property
    def plan(self) -> Plan:
        """What the next request will follow, the cloud allowing."""
        return self._courses.current.plan

    @property
    def is_calm(self) -> bool:
        """Whether it does nothing for anybody: no request, and no new plan."""
        return not (self._under_way or self._is_planning)

    async def steer(self) -> None:
        """Plan again whenever something new is known, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            if self._navigator.uses_cloud and not self._cloud.is_up:
                continue  # nothing new can be known of it; what was decided tells which requests miss it
            if self._cloud.report is not None:
                self._navigator.learn(self._cloud.report)
            self._is_planning = True
            try:
                await self._courses.replan()
                self.timely.tell()
            except (SplitnnError, ValueError, RuntimeError):  # a report that makes no sense must not end the agent
                _log.exception("no new plan; the current one stays: %s", self.plan)
            finally:
                self._is_planning = False

    def close(self) -> None:
        """Expect no requests from now on; those that had arrived are answered."""
        self._is_closed = True

    async def _follow(self, request: Request) -> Answer:
        started_s = self._clock()
        deadline_s = min(request.deadline_s, started_s + min(self._deadline_s, asked_within(request) or math.inf))
        load = samples_of(self._model.graph, request.tensors) / self._model.graph.batch
        exits = exits_for(self._model, request)
        course, degraded = await self._choose(request, load, exits)
        late = ""
        if hurried := self.timely.instead(course, exits, request, deadline_s=deadline_s, load=load):
            course, exits, degraded, late = hurried
        choose_s = self._clock() - started_s
        pipeline = course.pipeline
        is_typical = load == 1 and pipeline in self._ran
        number = self._begun if self._under_way == 1 else 0
        progress = await pipeline.start(request.tensors, deadline_s=deadline_s, request_id=request.request_id)
        if progress.stage_s and is_typical:
            self._navigator.observe_device(progress.ran, progress.stage_s[0])
        self._ran.add(pipeline)
        if course.plan.is_local or progress.hosts_done == len(course.plan.hosts):
            progress = await pipeline.finish_here(progress)
        else:
            progress, degraded = await self._rest.done(course.pipeline, course.plan, progress, load=load)
            if is_typical and not degraded and is_whole_tail(progress, self._model.exits):
                timings = progress.answers[-1].timings
                self._navigator.observe_cloud(pipeline.stages[1].layers, timings.queue_s + timings.compute_s)
        if progress.is_short:
            degraded = f"{degraded}; {short_of_time(progress)}" if degraded else short_of_time(progress)
        if reasons := "; ".join(filter(None, (degraded, late))):
            self._instrument.degraded(request_id=request.request_id, reason=reasons)
        total_s = self._clock() - started_s
        if (late_s := started_s + total_s - deadline_s) > 0:
            self._instrument.answered_late(request_id=request.request_id, late_s=late_s)
        if is_typical and not degraded and number == self._begun:  # alone from its first to its last moment
            beside_s = total_s - choose_s - sum(progress.stage_s)
            if course.plan.is_local:
                self._navigator.observe_local(beside_s=beside_s)
            elif progress.answers:
                self._navigator.observe_remote(course.plan, progress.answers[-1], beside_s=beside_s)
        self._news.set()
        parameters = account(
            course.plan,
            progress,
            total_s=total_s,
            choose_s=choose_s,
            load=load,
            degraded=reasons,
            late_s=late_s,
            slowdown=self._slowdown,
        )
        if exits is not None:
            parameters |= self._exit_taken(request, exits, progress)
        outputs = pipeline.outputs(progress)
        return Answer(
            tensors={name: outputs[name] for name in request.wanted or outputs},
            version=self._host.version,
            timings=Timings(queue_s=progress.queue_s, compute_s=sum(progress.stage_s)),
            parameters=parameters,
        )

    def _exit_taken(self, request: Request, exits: Exits, progress: Progress) -> dict[str, Parameter]:
        """What the answer says of its exits, and of all lately; some answers are put aside to be checked."""
        assert progress.passage is not None
        told = said(progress.passage.answers) | {"exits_asked": ",".join(each.name for each in exits.exits)}
        self._instrument.exit_taken(
            request_id=request.request_id, exits=str(told["exit"]), confidence=float(told["confidence"])
        )
        rows = answered_early(exits, progress)
        self.audit.answered(len(rows))
        if rows and self._navigator.uses_cloud and self.audit.chooses():
            self.audit.add(check_of(self._model.graph, exits, request, progress, rows))
        found = self.audit.agreement
        return told | ({"audited": found.checked, "agreement": found.share} if found.checked else {})

    async def _choose(self, request: Request, load: float, exits: Exits | None) -> tuple[Course, str]:
        """The course that the request asks for with its parameter ``plan``, else the current one.

        The second is the reason when it must be the device alone, because the cloud is lost or refuses the plan.
        """
        asked = str(request.parameters.get("plan", "auto"))
        try:
            pin = parse_pin(asked, self._model.graph, self._model.digest)
        except ValueError as error:
            raise InvalidInput(f"the request's parameter 'plan': {error}") from error
        course = await self._courses.asked_for(pin, exits)
        is_undecided = pin == "auto" and self._navigator.uses_cloud and not self._was_found
        if (is_undecided or not course.plan.is_local) and not self._cloud.is_up:
            return await self._courses.alone(exits), self._cloud.lost_because
        if pin == "auto" and (reason := self._refusals.reason(course.plan.id, load=load)):
            return await self._courses.alone(exits), f"the cloud refuses this plan: {reason}"
        return course, ""

    def _compiled(self, plan: Plan, exits: Exits | None) -> Pipeline:
        return Pipeline(
            self._model,
            plan,
            [self._cloud],
            name=self._name,
            exits=exits,
            predict=self._navigator.device_seconds,
            prepare=self._prepare,
            engine=self._engine,
            instrument=self._instrument,
            clock=self._clock,
        )

    def _on_cloud_change(self) -> None:
        if self._cloud.is_up and not self._was_up:
            self._was_found = True
            self._navigator.restart()
            self._instrument.recovered()
        self._was_up = self._cloud.is_up
        self._news.set()
