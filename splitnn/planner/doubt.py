"""How far a prediction is to be trusted, given how wrong the profiles were where they could be checked.

A profile states the median relative error of its predicted heads (and tails) at cuts that it was not scaled to. Taken
as a normal distribution's, that is 0.6745 standard deviations. Errors of the device's and the server's times are taken
as independent, and so are those of two different heads; heads of the same layers share one error. The last is careful
where two cuts lie close together: their errors are alike in truth, and the better one is better more surely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

from splitnn.cost.profile import Profile
from splitnn.planner.conditions import Form

_MEDIAN_IN_DEVIATIONS = NormalDist().inv_cdf(0.75)


def relative_deviations(profiles: Mapping[str, Profile], hosts: Sequence[str]) -> tuple[float, ...] | None:
    """Of each host the standard deviation of its predicted times, as a share of them.

    The first host runs heads; all others are judged by their tails. ``None`` when a profile does not tell.
    """
    found: list[float] = []
    for number, host in enumerate(hosts):
        stated = (profiles[host].error, profiles[host].tail_error)
        error = next((value for value in (stated if number == 0 else stated[::-1]) if value is not None), None)
        if error is None:
            return None
        found.append(error / _MEDIAN_IN_DEVIATIONS)
    return tuple(found)


def interval_ns(form: Form, latency_ns: float, deviations: Sequence[float], *, within: float) -> tuple[float, float]:
    """Nanoseconds between which the latency lies with probability ``within``; the link is taken as known."""
    deviation = math.hypot(*(ns * share for ns, share in zip(form.compute_ns, deviations, strict=True)))
    reach = NormalDist().inv_cdf(0.5 + within / 2) * deviation
    return max(0.0, latency_ns - reach), latency_ns + reach


def chance_quicker(other: Form, best: Form, deviations: Sequence[float], *, behind_ns: float) -> float:
    """The probability that a plan predicted ``behind_ns`` nanoseconds slower than another is quicker in truth."""
    spread = []
    for host, share in enumerate(deviations):
        if any((a == host) != (b == host) for a, b in zip(other.tiers, best.tiers, strict=True)):
            spread += [other.compute_ns[host] * share, best.compute_ns[host] * share]
    deviation = math.hypot(*spread)
    if deviation == 0:
        return 0.5 if behind_ns == 0 else float(behind_ns < 0)
    return NormalDist().cdf(-behind_ns / deviation)
