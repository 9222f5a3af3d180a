"""What every sample of a data set would have cost, by measured confidences, stage and codec times, and sizes. Pure.

A **track** is one way to run a network with exits between two hosts; **replaying** it over a link gives each sample its
exit, its latency and its bytes. Nothing queues: requests come one at a time. Throughput is that of many at once: of the
device, the link and the server, the one that is busy for longest decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fixed:
    """What a request costs beside its layers, codecs and bytes; seconds on the hosts as they are."""

    device_stage_s: float
    device_message_s: float
    cloud_stage_s: float
    cloud_message_s: float
    header_bytes: int  # of a message to the cloud


@dataclass(frozen=True, slots=True)
class Wire:
    """The link of one condition."""

    bandwidth_bps: float
    round_trip_s: float


@dataclass(frozen=True)
class Track:
    """One way to run the exits. ``confidences`` and ``right`` are (exits, samples), as the track computes them.

    The first ``on_device`` exits are asked on the device, the others in the cloud, where the last answers always.
    """

    name: str
    thresholds: tuple[float, ...]  # of each exit; 0 for the last
    on_device: int
    confidences: Floats
    right: Flags
    device_s: tuple[float, ...]  # from the start until each exit on the device has spoken
    send_s: float = 0.0  # from the start until what is sent is there and encoded
    sent_bytes: Floats | float = 0.0  # a sample
    cloud_s: tuple[float, ...] = ()  # decoding, and then until each exit in the cloud has spoken
    runs_on_device: bool = True  # False: the input is only passed on

    @property
    def is_local(self) -> bool:
        """Whether no sample is ever sent."""
        return self.on_device == len(self.thresholds)


@dataclass(frozen=True)
class Outcome:
    """A track over one link: of each sample the exit, seconds, bytes and whether it was right; and what was busy."""

    track: Track
    exit: NDArray[np.int64]
    latency_s: Floats
    sent_bytes: Floats
    right: Flags
    busy_s: tuple[float, float, float]  # mean seconds of device, link and cloud a request
    handling_s: tuple[float, float, float]  # of these, what is neither layers nor codecs nor bytes

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def mean_s(self) -> float:
        return float(self.latency_s.mean())

    @property
    def mean_bytes(self) -> float:
        return float(self.sent_bytes.mean())

    @property
    def throughput_rps(self) -> float:
        """Of layers, codecs and bytes, as papers count."""
        return 1 / max(busy - handling for busy, handling in zip(self.busy_s, self.handling_s, strict=True))

    @property
    def served_rps(self) -> float:
        """With what taking in and passing on a request costs, as the planner counts."""
        return 1 / max(self.busy_s)

    @property
    def worst_s(self) -> float:
        return float(self.latency_s.max())


def replay(track: Track, wire: Wire, fixed: Fixed) -> Outcome:
    """Every sample through the track, one at a time."""
    samples = track.confidences.shape[1]
    sure = track.confidences >= np.array(track.thresholds)[:, None]
    sure[-1] = True
    exit = sure.argmax(0)
    stays = exit < track.on_device
    sent_bytes = np.where(stays, 0.0, track.sent_bytes + fixed.header_bytes)
    own_s = fixed.device_message_s + (fixed.device_stage_s if track.runs_on_device else 0.0)
    wire_s = sent_bytes * 8 / wire.bandwidth_bps
    device_s = np.full(samples, own_s)
    device_s += np.where(stays, np.array([*track.device_s, 0.0])[np.minimum(exit, len(track.device_s))], 0.0)
    device_s += np.where(stays, 0.0, track.send_s + fixed.device_message_s)
    far_s = fixed.cloud_message_s + fixed.cloud_stage_s
    behind = np.array([*track.cloud_s, 0.0])[np.clip(exit - track.on_device, 0, len(track.cloud_s))]
    cloud_s = np.where(stays, 0.0, behind + far_s)
    goes = float((~stays).mean())
    latency_s = device_s + wire_s + cloud_s + np.where(stays, 0.0, wire.round_trip_s)
    return Outcome(
        track,
        exit,
        latency_s,
        sent_bytes,
        track.right[exit, np.arange(samples)],
        (float(device_s.mean()), float(wire_s.mean()), float(cloud_s.mean())),
        (own_s + goes * fixed.device_message_s, 0.0, goes * far_s),
    )


def in_time(outcome: Outcome, fixed: Fixed, *, deadline_s: float) -> Outcome:
    """With what the agent does about a deadline: the last exit that was passed on the device answers in its place.

    A sample that no exit on the device can answer in time stays late.
    """
    track = outcome.track
    own_s = fixed.device_message_s + fixed.device_stage_s
    in_reach = [at for at, seconds in enumerate(track.device_s[: track.on_device]) if own_s + seconds <= deadline_s]
    late = outcome.latency_s > deadline_s
    if not in_reach or not late.any():
        return outcome
    at = in_reach[-1]
    return Outcome(
        track,
        np.where(late, at, outcome.exit),
        np.where(late, deadline_s, outcome.latency_s),
        outcome.sent_bytes,
        np.where(late, track.right[at], outcome.right),
        outcome.busy_s,
        outcome.handling_s,
    )


def least_drop(outcomes: list[Outcome], *, accuracy: float, drop: float) -> list[Outcome]:
    """Those that lose at most ``drop`` against ``accuracy``."""
    return [each for each in outcomes if each.accuracy >= accuracy - drop - 1e-12]


def best_in_time(outcomes: list[Outcome], *, deadline_s: float) -> Outcome | None:
    """The most accurate in which no sample is late, of equals the quickest; None when there is none."""
    fitting = [each for each in outcomes if each.worst_s <= deadline_s + 1e-12]
    return max(fitting, key=lambda each: (each.accuracy, -each.mean_s), default=None)


def late_share(outcome: Outcome | None, *, deadline_s: float) -> float:
    """The share of samples that are late; 1 where there was nothing to run."""
    return 1.0 if outcome is None else float((outcome.latency_s > deadline_s + 1e-12).mean())


def global_threshold(confidences: Floats, right: Flags, *, on: int, drop: float) -> float:
    """SPINN's one threshold for the first ``on`` exits: the lowest that loses at most ``drop`` against the last one."""
    last = right[-1].mean()
    for threshold in np.linspace(0.0, 1.0, 201):
        sure = confidences >= threshold
        sure[on:-1] = False
        sure[-1] = True
        if right[sure.argmax(0), np.arange(right.shape[1])].mean() >= last - drop - 1e-12:
            return float(threshold)
    return math.inf
