"""What the server does with a request: find the model, run it at any cut, say how fast and how busy it is."""

from __future__ import annotations

import logging
import math
import threading
import time
from enum import Enum

from cloud_server.models import Loaded
from splitnn.cost.profile import Profile
from splitnn.cost.slowdown import SlowdownEstimator
from splitnn.errors import (
    DeadlineExceeded,
    PackageError,
    RequestError,
    TransportError,
    Unavailable,
    UnknownModel,
)
from splitnn.graph.model import Model
from splitnn.runtime.engine import Engine
from splitnn.runtime.engines.serving import Background, stages_on
from splitnn.runtime.host import WORKING_BYTES, ModelHost
from splitnn.runtime.inputs import admit
from splitnn.runtime.stage import Stage
from splitnn.transport.base import Announcement, Answer, Clock, Description, HostReport, Request

_log = logging.getLogger(__name__)
_NAMED_IN_AN_ERROR = 20
_FRESH_S = 10.0
"""An observed slowdown is believed for so long: agents that it sent away bring no observation that it is over."""


class Phase(Enum):
    """Where a server is in its life."""

    LOADING = "the server is loading its models"
    SERVING = "serving"
    CLOSED = "the server is shutting down"


class CloudService:
    """Every model on one engine. A ``Service`` and a ``Reporter``; the engine stays its owner's.

    It begins LOADING, when requests fail with ``Unavailable``: ``add`` the models, ``warm_up``, then ``open``. CLOSED,
    it expects no more requests, and answers those that had arrived.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        working_bytes: int = WORKING_BYTES,
        stages_on: str = "torch",
        clock: Clock = time.monotonic,
    ) -> None:
        """``stages_on`` names what runs stages that are asked for again and again."""
        self.phase = Phase.LOADING
        self._stages_on = stages_on
        self._engine = engine
        self._working_bytes = working_bytes
        self._clock = clock
        self._served: dict[str, dict[str, _Served]] = {}  # by name and version, newest last

    def add(self, loaded: Loaded) -> None:
        """Serve one version of a model.

        Raises:
            ValueError: there is one of that name and version.
        """
        versions = self._served.get(loaded.name, {})
        if loaded.version in versions:
            raise ValueError(f"there are two models called {loaded.name!r} of version {loaded.version!r}")
        background = Background(stages_on(self._stages_on, loaded.model)) if self._stages_on != "torch" else None
        served = _Served(
            loaded, self._engine, working_bytes=self._working_bytes, background=background, clock=self._clock
        )
        versions = {**versions, loaded.version: served}
        self._served[loaded.name] = dict(sorted(versions.items(), key=lambda item: int(item[0])))

    async def warm_up(self) -> None:
        """Run every model once on its example; one that fails is logged and no longer served.

        Raises:
            PackageError: none is left.
        """
        for name, versions in list(self._served.items()):
            for version, served in list(versions.items()):
                try:
                    answer = await served.host.infer(Request(name, served.model.example, deadline_s=math.inf))
                    admit(served.model.graph, answer.tensors)  # the graph must say what the program makes
                except Exception as error:  # noqa: BLE001 - a package's operators may raise anything
                    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                    _log.error("model %s version %s is not served: its own example fails: %s", name, version, reason)
                    del versions[version]
            if not versions:
                del self._served[name]
        if not self._served:
            raise PackageError("no model is left that runs on its own example")

    def open(self) -> None:
        """Accept requests from now on."""
        self.phase = Phase.SERVING

    def close(self) -> None:
        """Expect no requests from now on; those that had arrived are answered."""
        self.phase = Phase.CLOSED

    def adopt(self, profile: Profile) -> None:
        """Report this profile for the models that it is of."""
        for served in self._all():
            if served.model.digest == profile.model:
                served.adopt(profile)

    def unprofiled(self) -> list[tuple[str, Model]]:
        """Models whose speed nobody has measured, each once, with a name."""
        unknown = {
            served.model.digest: (name, served.model) for name, served in self._named() if served.profile is None
        }
        return list(unknown.values())

    def summary(self) -> str:
        """All models with their digests, on one line."""
        return ", ".join(
            f"{name}{'' if len(versions) == 1 else f' version {version}'} ({served.model.digest[:12]})"
            for name, versions in sorted(self._served.items())
            for version, served in versions.items()
        )

    def expect(self, announced: Announcement) -> None:
        """See ``Service``. Logs what it refuses."""
        if self.phase is not Phase.SERVING:
            raise Unavailable(self.phase.value)
        try:
            self._find(announced.model, announced.version, digest=announced.digest).host.expect(announced)
        except RequestError as error:
            _log.info("a request for %.64r refused: %s: %.500s", announced.model, type(error).__name__, error)
            raise

    async def infer(self, request: Request) -> Answer:
        """See ``Service``. Logs one line a request."""
        started_s = self._clock()
        try:
            if self.phase is Phase.LOADING:
                raise Unavailable(self.phase.value)
            answer = await self._find(request.model, request.version, digest=request.digest).host.infer(request)
        except DeadlineExceeded as error:
            _log.info("request %.64r for %.64r: %s", request.request_id, request.model, error)
            raise
        except (RequestError, TransportError) as error:
            _log.info("request %.64r refused: %s: %.500s", request.request_id, type(error).__name__, error)
            raise
        _log.debug(
            "request %.64r: %s, %d tensors in, %.1f ms waiting, %.1f ms computing, %.1f ms in all",
            request.request_id,
            request.model,
            len(request.tensors),
            answer.timings.queue_s * 1e3,
            answer.timings.compute_s * 1e3,
            (self._clock() - started_s) * 1e3,
        )
        return answer

    async def describe(self, model: str, version: str = "") -> Description:
        """See ``Service``."""
        served = self._find(model, version)
        return Description(model, served.model.digest, served.model.graph, versions=tuple(self._served[model]))

    def is_ready(self, model: str = "", version: str = "") -> bool:
        """See ``Service``."""
        if self.phase is not Phase.SERVING:
            return False
        if not model:
            return True
        try:
            self._find(model, version)
        except UnknownModel:
            return False
        return True

    async def report(self, model: str, version: str = "") -> HostReport:
        """See ``Reporter``."""
        served = self._find(model, version)
        return HostReport(
            profile=served.profile,
            queue_length=self._engine.waiting,
            slowdown=served.slowdown,
            utilisation=self._engine.utilisation(),
        )

    def _find(self, model: str, version: str, *, digest: str = "") -> _Served:
        """A version is its number or its digest; without one, the newest that has the digest, else the newest."""
        versions = self._served.get(model)
        if versions is None:
            if self.phase is Phase.LOADING:
                raise Unavailable(self.phase.value)
            names = sorted(self._served)
            more = f" and {len(names) - _NAMED_IN_AN_ERROR} more" if len(names) > _NAMED_IN_AN_ERROR else ""
            raise UnknownModel(f"no model {model[:64]!r} here; there is {', '.join(names[:_NAMED_IN_AN_ERROR])}{more}")
        if version in versions:
            return versions[version]
        newest_first = list(reversed(versions.values()))
        asked = version or digest
        found = next((served for served in newest_first if served.model.digest == asked), None)
        if found is None and version:
            there = ", ".join(f"{number} ({served.model.digest[:12]})" for number, served in versions.items())
            raise UnknownModel(f"no version {version[:64]!r} of {model!r} here; there is {there}")
        return found or newest_first[0]

    def _named(self) -> list[tuple[str, _Served]]:
        return [(name, served) for name, versions in self._served.items() for served in versions.values()]

    def _all(self) -> list[_Served]:
        return [served for _, served in self._named()]


class _Served:
    """One version of a model: its host, its profile once it has one, and how much slower than that it runs now."""

    def __init__(
        self, loaded: Loaded, engine: Engine, *, working_bytes: int, background: Background | None, clock: Clock
    ) -> None:
        self.model = loaded.model
        self.profile = loaded.profile
        self._clock = clock
        self._slowdown = SlowdownEstimator(fresh_s=_FRESH_S, clock=clock)
        self._observing = threading.Lock()  # observed on the engine's thread, asked on the loop's
        self.host = ModelHost(
            loaded.model,
            name=loaded.name,
            version=loaded.version,
            host="cloud",
            engine=engine,
            working_bytes=working_bytes,
            background=background,
            observe=self._observe,
            clock=clock,
        )

    @property
    def slowdown(self) -> float:
        """Observed seconds over the profile's; 1 while little was observed lately."""
        with self._observing:
            return self._slowdown.factor

    def adopt(self, profile: Profile) -> None:
        """Compare runs with this profile from now on."""
        with self._observing:
            self.profile = profile
            self._slowdown = SlowdownEstimator(fresh_s=_FRESH_S, clock=self._clock)

    def _observe(self, stage: Stage, samples: int, seconds: float) -> None:
        with self._observing:
            if self.profile is not None and samples == self.model.graph.batch:
                profiled_s = sum(self.profile.seconds(layer) for layer in stage.layers)
                self._slowdown.observe(seconds, profiled_s=profiled_s)
