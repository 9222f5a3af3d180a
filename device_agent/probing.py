"""What a link is like that no request uses: a short train of transfers that mean nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from splitnn.cost.bandwidth import LinkEstimator
from splitnn.errors import TransportError
from splitnn.transport.base import Clock, Transport

_FIRST_BYTES = 4_096, 65_536  # the least and the most
_TRAIN_BYTES = 262_144  # at most, all together
_TIMED = 3  # probes that were long enough to tell the rate: fewer do not outweigh what was believed
_TIMEOUT_S = 2.0


async def probe_link(
    transport: Transport, estimator: LinkEstimator, *, is_free: Callable[[], bool], clock: Clock = time.monotonic
) -> None:
    """Tell the estimator of a few probes, at most 256 KiB in all; stops where a request needs the link.

    The first opens TCP's window. Larger ones follow one that was too quick to be timed.
    """
    size = int(estimator.bandwidth_bps() * max(2 * estimator.round_trip_s, 0.02) / 8)
    size = min(max(size, _FIRST_BYTES[0]), _FIRST_BYTES[1])
    left, timed = _TRAIN_BYTES, 0
    while timed < _TIMED and size <= left and is_free():
        left -= size
        started_s = clock()
        try:
            probe = await transport.probe(size, timeout_s=_TIMEOUT_S)
        except TransportError:
            estimator.observe_unfinished(size, clock() - started_s)
            return
        if not is_free():  # it shared the link
            return
        estimator.observe_probe(size, probe.elapsed_s)
        if probe.elapsed_s > 2 * estimator.round_trip_s:
            timed += 1
        else:
            size *= 4
