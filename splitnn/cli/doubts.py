"""What a profile does not know about itself, and what was taken instead, in words."""

from __future__ import annotations

from collections.abc import Mapping

from splitnn.cost.profile import Profile


def doubts(profiles: Mapping[str, Profile]) -> list[str]:
    """Of profiles by host, the device's first, everything behind an answer that nobody measured, as clauses."""
    found: list[str] = []
    for number, (host, profile) in enumerate(profiles.items()):
        told = (profile.error, profile.tail_error)
        runs, other = ("heads", "tails") if number == 0 else ("tails", "heads")
        own, instead = told if number == 0 else told[::-1]
        if own is None and instead is not None:
            found.append(f"the error of {host}'s {runs} is unknown; that of its {other} is taken for it")
        if own is None and instead is None:
            found.append(f"the error of {host} is unknown: its profile does not tell")
        if (how := profile.machine.get("predicted")) is not None:
            found.append(f"{host} is predicted, {how}")
        if "not known" in (handling := profile.machine.get("handling", "")):
            found.append(f"{host}: {handling}")
    return found
