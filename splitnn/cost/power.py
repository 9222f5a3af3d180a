"""What devices and radios draw: published constants, each with its source. Nothing here was measured by this project.

``verified`` says that the figure was read in its source (or fitted to the source's raw readings); the others are from
memory of the literature and are to be checked against it before they are quoted. Knows no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from splitnn.cost.lookup import look_up


@dataclass(frozen=True, slots=True)
class DevicePower:
    """Watts of the whole board without its radio's transfers."""

    name: str
    compute_w: float  # while layers run on it
    idle_w: float  # while it waits; 0 charges a request only with what it adds to a device that is on anyway
    source: str
    verified: bool

    def __post_init__(self) -> None:
        _check(self.name, self.compute_w, self.idle_w)


@dataclass(frozen=True, slots=True)
class Radio:
    """Watts of a radio on top of the board: a base while it transfers, and a slope with the throughput.

    The form of Huang et al., MobiSys 2012. After the last byte the radio stays awake: the tail.
    """

    name: str
    send_base_w: float
    send_w_per_bps: float
    receive_base_w: float
    receive_w_per_bps: float
    tail_w: float
    tail_s: float
    source: str
    verified: bool

    def __post_init__(self) -> None:
        _check(self.name, self.send_base_w, self.receive_base_w, self.send_w_per_bps, self.receive_w_per_bps)
        _check(self.name, self.tail_w, self.tail_s)

    def sending_w(self, bandwidth_bps: float) -> float:
        """Watts while it sends at that rate."""
        return self.send_base_w + self.send_w_per_bps * bandwidth_bps

    def receiving_w(self, bandwidth_bps: float) -> float:
        """Watts while it receives at that rate."""
        return self.receive_base_w + self.receive_w_per_bps * bandwidth_bps


def device_power(name: str) -> DevicePower:
    """The published power of that device.

    Raises:
        ValueError: there is none; give a ``DevicePower`` of your own.
    """
    return look_up(name, DEVICES, "device power")


def radio(name: str) -> Radio:
    """The published power of that radio.

    Raises:
        ValueError: there is none; give a ``Radio`` of your own.
    """
    return look_up(name, RADIOS, "radio")


def _check(name: str, *values: float) -> None:
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"{name}: powers and times are finite and not below 0: {values}")


_MILLIWATT_PER_MBPS = 1e-3 / 1e6
_HUANG = "Huang et al., MobiSys 2012, tables 3 and 4 (a phone of 2011); error below 6 % by its abstract"
_FITTED = (
    "least squares over the raw readings of the SIGCOMM 2021 5G power study (artifact 35aaf28), slope only: the "
    "intercept holds screen and processor, so base and tail are unknown and 0 here"
)

# Jetson boards have none: the published 5, 10 and 15 W are caps of their power modes, not what they draw.
DEVICES = {
    entry.name: entry
    for entry in (
        DevicePower(
            name="raspberry-pi-4",
            compute_w=5.25,
            idle_w=2.25,
            source="chipwired.com/raspberry-pi-power-use, 36 readings at the USB supply: idle 2.2 to 2.3 W, high load "
            "(all cores) 5.1 to 5.4 W; the middle of each",
            verified=True,
        ),
    )
}

RADIOS = {
    entry.name: entry
    for entry in (
        Radio("wifi", 0.13286, 283.17 * _MILLIWATT_PER_MBPS, 0.13286, 137.01 * _MILLIWATT_PER_MBPS,
              0.1193, 0.2381, _HUANG, verified=False),
        Radio("lte", 1.28804, 438.39 * _MILLIWATT_PER_MBPS, 1.28804, 51.97 * _MILLIWATT_PER_MBPS,
              1.06, 11.576, _HUANG, verified=False),
        Radio("3g", 0.81788, 868.98 * _MILLIWATT_PER_MBPS, 0.81788, 122.12 * _MILLIWATT_PER_MBPS,
              0.8039, 8.0882, _HUANG, verified=False),
        Radio("wifi-pixel-2-xl", 0.350 * 3.7, 0.0, 0.125 * 3.7, 0.0, 0.0, 0.0,
              "AOSP power_profile.xml of the Pixel 2 XL: 350 mA sending, 125 mA receiving, at 3.7 V; a phone's own "
              "estimate, the same at every throughput", verified=True),
        Radio("lte-2021", 0.0, 76.68 * _MILLIWATT_PER_MBPS, 0.0, 11.54 * _MILLIWATT_PER_MBPS,
              0.0, 0.0, f"Verizon LTE (r2 .55 up, .42 down): {_FITTED}", verified=True),
        Radio("5g", 0.0, 32.17 * _MILLIWATT_PER_MBPS, 0.0, 11.54 * _MILLIWATT_PER_MBPS,
              0.0, 0.0, f"NSA low band (r2 .55 up, .48 down): {_FITTED}", verified=True),
        Radio("5g-mmwave", 0.0, 8.88 * _MILLIWATT_PER_MBPS, 0.0, 1.73 * _MILLIWATT_PER_MBPS,
              0.0, 0.0, f"millimetre waves (r2 .84 up, .87 down): {_FITTED}", verified=True),
        Radio("wired", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, "no radio: a cable, whose power is the board's", verified=True),
    )
}  # fmt: skip
"""Huang's tail of 3G is that of its DCH state."""
