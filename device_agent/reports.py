"""What the cloud says about itself, as far as it can be believed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Protocol

from splitnn.errors import DigestMismatch, ProfileMismatch
from splitnn.graph.graph import Graph
from splitnn.transport.base import HostReport

_log = logging.getLogger(__name__)
_LEAST_SLOWDOWN, _MOST_SLOWDOWN = 0.01, 1000.0  # what may be believed


class Control(Protocol):
    """What the cloud says about itself; ``ControlClient`` is one."""

    async def get_profile(
        self, name: str, *, version: str = "", known_profile: str = "", timeout_s: float
    ) -> HostReport: ...


@dataclass(frozen=True, slots=True)
class News:
    """A report with the profile that is known, and whether that came with it or before."""

    report: HostReport
    has_profile: bool


class Reports:
    """Asks for reports on one model."""

    def __init__(self, control: Control, *, name: str, digest: str, graph: Graph) -> None:
        self._control = control
        self._name, self._digest, self._graph = name, digest, graph

    async def ask(self, *, known: HostReport | None, timeout_s: float) -> News:
        """The next report; a profile that does not fit and a slowdown out of bounds are left out.

        Raises:
            DigestMismatch: the cloud serves another model under this name.
            RequestError, TransportError: see ``Control``.
        """
        known = known or HostReport(None)
        report = await self._control.get_profile(
            self._name, version=self._digest, known_profile=known.profile_id, timeout_s=timeout_s
        )
        has_profile = report.profile is not None
        if report.digest != self._digest:
            raise DigestMismatch(f"its {self._name!r} is {report.digest[:12]}, here it is {self._digest[:12]}")
        if report.profile is None and report.profile_id == known.profile_id:
            report = replace(report, profile=known.profile)
        elif report.profile is not None:
            try:
                report.profile.check_fits(self._graph, self._digest)
            except ProfileMismatch as error:
                _log.warning("the cloud's profile is of no use: %s", error)
                report = replace(report, profile=None)
        if not _LEAST_SLOWDOWN <= report.slowdown <= _MOST_SLOWDOWN:  # NaN too
            _log.warning("the cloud calls itself %s times slower than its profile; ignored", report.slowdown)
            report = replace(report, slowdown=1.0)
        return News(report, has_profile)
