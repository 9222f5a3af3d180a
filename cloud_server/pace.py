"""How much slower a model runs here now than its profile says."""

from __future__ import annotations

import math
from collections.abc import Iterable

from splitnn.cost.profile import Profile

_WEIGHT = 0.2  # of the latest run
_SHORT_S = 0.0005  # below it a run tells more about the clock than about the load


class Pace:
    """Follows the ratio of observed to profiled seconds over the last runs; 1.0 before the first one.

    Smoothed in the logarithm, so that one run that the machine held up counts as little as it should.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._log_ratio: float | None = None

    @property
    def slowdown(self) -> float:
        """Observed seconds over the profile's."""
        return math.exp(self._log_ratio or 0.0)

    def observe(self, layers: Iterable[str], seconds: float) -> None:
        """These layers took so many seconds, at the batch of the profile."""
        expected_s = sum(self.profile.seconds(layer) for layer in layers)
        if expected_s < _SHORT_S or not seconds > 0:
            return
        latest = math.log(seconds / expected_s)
        before = latest if self._log_ratio is None else self._log_ratio
        self._log_ratio = before + _WEIGHT * (latest - before)
