"""Does a link do what it says? A known transfer each way and a ping, through the link itself, before a run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.hosts import Host
from experiments.shape import EmulatedLink, Shape
from experiments.virtual_clock import PAYLOAD_SHARE

_TOLERANCE = 0.03
_PINGS = 15
_PING_BYTES, _ANSWER_BYTES = 24 + 66, 8 + 66  # of an application's ping, headers included
_PING_SLACK_S = 0.003  # what both processes and the link's own method may add: the proxy 1 to 2 ms
_LEAST_BYTES = 48 * 1448
_LEAST_WINDOW_BYTES = 8 * 1448  # the shortest queue of a link holds 20 frames
_PROJECT_ROOT = Path(__file__).resolve().parent.parent


class LinkOffTarget(RuntimeError):
    """The emulated link is more than 3 % off in rate or round trip: what is measured over it would be false."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a link was measured to do, without its jitter and loss. Rates in frames, as they are set."""

    up_bps: float
    down_bps: float
    rtt_s: float  # median of an application's ping
    tries: int

    def __str__(self) -> str:
        rates = f"{self.up_bps / 1e6:.4g} Mbit/s up, {self.down_bps / 1e6:.4g} down"
        return f"measured {rates}, {self.rtt_s * 1e3:.1f} ms round trip"

    def faults(self, wanted: Shape) -> list[str]:
        """What is off: a rate by more than 3 %, or the ping by 3 % and what its frames and the processes take."""
        rates = (("up", self.up_bps / wanted.up_bps - 1), ("down", self.down_bps / wanted.down_bps - 1))
        faults = [f"{way} {error:+.1%}" for way, error in rates if not abs(error) <= _TOLERANCE]
        frames_s = _PING_BYTES * 8 / wanted.up_bps + _ANSWER_BYTES * 8 / wanted.down_bps
        longest_s = (wanted.rtt_s + frames_s) * (1 + _TOLERANCE) + _PING_SLACK_S
        if not wanted.rtt_s * (1 - _TOLERANCE) <= self.rtt_s <= longest_s:
            faults.append(f"round trip {(self.rtt_s - wanted.rtt_s) * 1e3:+.1f} ms")
        return faults


def calibrate(link: EmulatedLink, *, tries: int = 3) -> Calibration:
    """Measure for about 2 s of the link's time each way. Jitter and loss are off meanwhile, and not checked.

    Several ``tries``, since another program that holds a core for a moment is not the link's fault.

    Raises:
        LinkOffTarget: none of the tries came within 3 % of both rates and of the round trip.
        RuntimeError: no traffic got through.
    """
    wanted = link.shape
    link.set(jitter_s=0.0, loss=0.0)
    try:
        with (
            Host("probe-server", link=link, side="server") as server,
            Host("probe", link=link, side="device") as device,
        ):
            serving = server.start(_command("serve", link.server_host), cwd=_PROJECT_ROOT, stdout=subprocess.PIPE)
            assert serving.stdout is not None
            with serving.stdout as output:
                address = link.address_of(int(output.readline()))
            for attempt in range(1, tries + 1):
                measured = _measure(device, address, link, attempt)
                if not (faults := measured.faults(wanted)):
                    return measured
    finally:
        link.set(jitter_s=wanted.jitter_s, loss=wanted.loss)
    raise LinkOffTarget(f"the link by {link.method}, set to {wanted}, is off: {', '.join(faults)}; {measured}")


def _measure(device: Host, address: str, link: EmulatedLink, tries: int) -> Calibration:
    transfers = [_transfer(rate_bps, link.shape.rtt_s) for rate_bps in (link.shape.up_bps, link.shape.down_bps)]
    command = _command("measure", address, str(_PINGS), *transfers)
    measuring = device.start(command, cwd=_PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    output, errors = measuring.communicate(timeout=180)
    if measuring.returncode != 0:
        raise RuntimeError(f"nothing got through the link: {errors.decode(errors='replace').strip()[-300:]}")
    seen = json.loads(output)
    up_bps, down_bps = (seen[f"{way}_payload_bps"] / PAYLOAD_SHARE for way in ("up", "down"))
    return Calibration(up_bps, down_bps, seen["rtt_s"], tries)


def _transfer(rate_bps: float, rtt_s: float) -> str:
    """``BYTES:WINDOW``: two seconds' worth and what slow start takes to fill the path, at most 100 ms of it queued."""
    transfer_bytes = max(_LEAST_BYTES, int(rate_bps * (2.0 + 10 * rtt_s) / 8))
    window_bytes = max(_LEAST_WINDOW_BYTES, int(rate_bps * (rtt_s + 0.1) / 8))
    return f"{transfer_bytes}:{window_bytes}"


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "experiments.link_probe", *arguments]
