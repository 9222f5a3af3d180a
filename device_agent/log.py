"""The agent's moments as log lines."""

from __future__ import annotations

import logging

from splitnn.instrument import Instrument

_log = logging.getLogger("device_agent")


class Log(Instrument):
    """One line a change of plan, a degraded or late request, a recovery."""

    def plan_changed(self, *, old: str, new: str, reason: str) -> None:
        """See ``Instrument``."""
        _log.info("new plan: %s (%s; was: %s)", new, reason, old)

    def degraded(self, *, request_id: str, reason: str) -> None:
        """See ``Instrument``."""
        _log.warning("request %.64r was finished on the device: %s", request_id, reason)

    def answered_late(self, *, request_id: str, late_s: float) -> None:
        """See ``Instrument``."""
        _log.warning("request %.64r was answered %.1f ms after its deadline", request_id, late_s * 1e3)

    def recovered(self) -> None:
        """See ``Instrument``."""
        _log.info("the cloud can be used")

    def exits_doubted(self, *, agreement: float, upper: float, target: float, is_alarm: bool) -> None:
        """See ``Instrument``."""
        if is_alarm:
            _log.warning(
                "exits agree with the whole model on %.1f %% of what was checked, at most %.1f %% in truth; the target "
                "is %.1f %%: calibrate them on data of today",
                agreement * 100,
                upper * 100,
                target * 100,
            )
        else:
            _log.info("exits agree with the whole model again: %.1f %% of what was checked", agreement * 100)
