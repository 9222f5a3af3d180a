"""What the server does with a request: find the model, run it at any cut, say how fast and how busy it is."""

from __future__ import annotations

import logging
import math
import time
from enum import Enum

from cloud_server.models import Loaded
from cloud_server.pace import Pace
from splitnn.cost.profile import Profile
from splitnn.errors import (
    DeadlineExceeded,
    PackageError,
    RequestError,
    SplitnnError,
    TransportError,
    Unavailable,
    UnknownModel,
)
from splitnn.graph.model import Model
from splitnn.runtime.engine import Engine
from splitnn.runtime.host import ModelHost
from splitnn.runtime.stage import Stage
from splitnn.transport.base import Answer, Clock, Description, HostReport, Request

_log = logging.getLogger(__name__)
_NAMED_IN_AN_ERROR = 20


class Phase(Enum):
    """Where a server is in its life."""

    LOADING = "the server is loading its models"
    SERVING = "serving"
    DRAINING = "the server is shutting down"


class CloudService:
    """Every model on one engine. A ``Service`` and a ``Reporter``; the engine stays its owner's.

    It begins LOADING: ``add`` the models, ``warm_up``, then ``open``. Outside SERVING, requests fail with
    ``Unavailable``.
    """

    def __init__(self, engine: Engine, *, working_bytes: int = 2 * 2**30, clock: Clock = time.monotonic) -> None:
        self.phase = Phase.LOADING
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
        served = _Served(loaded, self._engine, working_bytes=self._working_bytes, clock=self._clock)
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
                    await served.host.infer(Request(name, served.model.example, deadline_s=math.inf))
                except SplitnnError as error:
                    _log.error(
                        "model %s version %s is not served: it fails on its own example: %s", name, version, error
                    )
                    del versions[version]
            if not versions:
                del self._served[name]
        if not self._served:
            raise PackageError("no model is left that runs on its own example")

    def open(self) -> None:
        """Accept requests from now on."""
        self.phase = Phase.SERVING

    async def drain(self, timeout_s: float) -> bool:
        """Accept no more; True when every request under way was computed within the time."""
        self.phase = Phase.DRAINING
        return await self._engine.drain(timeout_s)

    def adopt(self, profile: Profile) -> None:
        """Report this profile for the models that it is of."""
        for served in self._all():
            if served.model.digest == profile.model:
                served.pace = Pace(profile)

    def unprofiled(self) -> list[tuple[str, Model]]:
        """Models whose speed nobody has measured, each once, with a name."""
        unknown = {served.model.digest: (name, served.model) for name, served in self._named() if served.pace is None}
        return list(unknown.values())

    def summary(self) -> str:
        """All models with their digests, on one line."""
        return ", ".join(
            f"{name}{'' if len(versions) == 1 else f' version {version}'} ({served.model.digest[:12]})"
            for name, versions in sorted(self._served.items())
            for version, served in versions.items()
        )

    async def infer(self, request: Request) -> Answer:
        """See ``Service``. Logs one line a request."""
        started_s = self._clock()
        try:
            if self.phase is not Phase.SERVING:
                raise Unavailable(self.phase.value)
            answer = await self._find(request.model, request.version).host.infer(request)
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
        return not model or (model in self._served and version in {"", *self._served[model]})

    async def report(self, model: str) -> HostReport:
        """See ``Reporter``."""
        pace = self._find(model, "").pace
        return HostReport(
            profile=None if pace is None else pace.profile,
            queue_length=self._engine.waiting,
            slowdown=1.0 if pace is None else pace.slowdown,
            utilisation=self._engine.utilisation(),
        )

    def _find(self, model: str, version: str) -> _Served:
        versions = self._served.get(model)
        if versions is None:
            if self.phase is Phase.LOADING:
                raise Unavailable(self.phase.value)
            names = sorted(self._served)
            more = f" and {len(names) - _NAMED_IN_AN_ERROR} more" if len(names) > _NAMED_IN_AN_ERROR else ""
            raise UnknownModel(f"no model {model[:64]!r} here; there is {', '.join(names[:_NAMED_IN_AN_ERROR])}{more}")
        if not version:
            return list(versions.values())[-1]
        if version not in versions:
            raise UnknownModel(f"no version {version[:64]!r} of {model!r} here; there is {', '.join(versions)}")
        return versions[version]

    def _named(self) -> list[tuple[str, _Served]]:
        return [(name, served) for name, versions in self._served.items() for served in versions.values()]

    def _all(self) -> list[_Served]:
        return [served for _, served in self._named()]


class _Served:
    """One version of a model: its host, and its pace once it has a profile."""

    def __init__(self, loaded: Loaded, engine: Engine, *, working_bytes: int, clock: Clock) -> None:
        self.model = loaded.model
        self.pace = None if loaded.profile is None else Pace(loaded.profile)
        self.host = ModelHost(
            loaded.model,
            name=loaded.name,
            version=loaded.version,
            engine=engine,
            working_bytes=working_bytes,
            observe=self._observe,
            clock=clock,
        )

    def _observe(self, stage: Stage, samples: int, seconds: float) -> None:
        if self.pace is not None and samples == self.model.graph.batch:
            self.pace.observe(stage.layers, seconds)
