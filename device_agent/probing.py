"""What a link is like that no request uses: a short train of transfers that mean nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

from splitnn.cost.bandwidth import LinkEstimator
from splitnn.errors import DeadlineExceeded
from splitnn.transport.base import Clock, Transport

_FIRST_BYTES = 512  # whatever is believed: the link may have become a thousand times slower
_TRAIN_BYTES = 524_288  # at most, all together
_GROWTH = 4
_PINGS = 3  # in a row are believed
_TIMED = 3  # probes that were long enough to tell the rate: fewer do not outweigh what was believed
_SHORT_S = 0.01  # below it a probe tells more about the processor than about the link
_TIMEOUT_S = 2.0


async def probe_link(
    transport: Transport, estimator: LinkEstimator, *, is_free: Callable[[], bool], clock: Clock = time.monotonic
) -> bool:
    """Tell the estimator of a few pings and probes, at most 512 KiB in all; stops where a request needs the link.

    Whether it told anything.

    The pings come first: beside a round trip that has grown unnoticed the smallest probes would tell a slow link. The
    probes grow until one is long enough to be timed, so that a slow link carries little and a fast one is known at
    once. The first ones open TCP's window.

    Raises:
        TransportError: the far side is gone. That it did not answer in time tells of the link instead.
    """
    for _ in range(_PINGS):
        if is_free():
            ping = await transport.probe(0, timeout_s=_TIMEOUT_S)
            if is_free():
                estimator.observe_round_trip(ping.elapsed_s, is_alone=False)  # what else this host does is not known
    size, left, timed, told = _FIRST_BYTES, _TRAIN_BYTES, 0, False
    while timed < _TIMED and 0 < size <= left and is_free():
        left -= size
        started_s = clock()
        try:
            probe = await transport.probe(size, timeout_s=_TIMEOUT_S)
        except DeadlineExceeded:
            estimator.observe_unfinished(size, clock() - started_s)
            return True
        if not is_free():  # it shared the link
            break
        estimator.observe_probe(size, probe.elapsed_s)
        if probe.elapsed_s > max(2 * estimator.round_trip_s, _SHORT_S):
            timed += 1
        elif left:
            size = min(size * _GROWTH, left)
        told = told or timed > 0 or not left  # without any that was timed the link is at least so fast
    return told
