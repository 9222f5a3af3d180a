"""Joules that a request costs the device: modelled from powers and times, never measured. Knows no torch.

The device draws its computing power while it runs layers and encodes, and its idle power for every other second of the
request; sending and receiving add the radio's. So each layer, byte and round trip has a price of its own, whatever the
others do, and a minimum cut can minimise their sum exactly. Only the device's energy counts: servers have a socket.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from splitnn.cost.cost import Cost, Transfer
from splitnn.cost.network import Link
from splitnn.cost.power import DevicePower, Radio


@dataclass(frozen=True, slots=True)
class EnergyPrices:
    """What a second and a byte cost the device, at one bandwidth.

    The joules of a byte are ``a + b / bandwidth``: like latency, the energy of a fixed cut is linear in 1/bandwidth.
    Hosts and hops are indexed as in a topology: the device is host 0 and its own link hop 0.
    """

    compute_w: float  # joules a second while the device computes
    wait_w: float  # joules a second while it does not
    sending_w: float  # joules a second while it sends, what grows with the throughput left out
    receiving_w: float
    send_j_per_bit: float  # what grows with the throughput: joules a bit, at any bandwidth
    receive_j_per_bit: float
    send_s_per_byte: float
    receive_s_per_byte: float
    tail_j: float  # once, when the device's link was used at all
    is_verified: bool  # whether every constant was read in its source
    source: str

    @property
    def send_j_per_byte(self) -> float:
        """On the device's own link, waiting included."""
        return self.sending_w * self.send_s_per_byte + 8 * self.send_j_per_bit

    @property
    def receive_j_per_byte(self) -> float:
        """Likewise."""
        return self.receiving_w * self.receive_s_per_byte + 8 * self.receive_j_per_bit

    def layer_j(self, seconds: float, *, tier: int) -> float:
        """A layer that takes so long on host ``tier``."""
        return seconds * (self.wait_w if tier else self.compute_w)

    def transfer_j(self, transfer: Transfer) -> float:
        """One tensor over one hop: encoding, wire, decoding."""
        if transfer.hop:
            return (transfer.encode_s + transfer.wire_s + transfer.decode_s) * self.wait_w
        return (
            transfer.encode_s * self.compute_w
            + transfer.size_bytes * self.send_j_per_byte
            + transfer.decode_s * self.wait_w
        )

    def download_j(self, size_bytes: int, *, hop: int, seconds: float) -> float:
        """A result of so many bytes on its way back over one hop, on which it takes so long."""
        return seconds * self.wait_w if hop else size_bytes * self.receive_j_per_byte

    def round_trip_j(self, seconds: float, *, hop: int) -> float:
        """The use of a hop at all."""
        return seconds * self.wait_w + (0.0 if hop else self.tail_j)


@dataclass(frozen=True, slots=True)
class EnergyCost:
    """Modelled joules of the device for one request."""

    compute_j: float  # layers, encoding, stages and messages on the device
    transfer_j: float  # sending and receiving, the board included
    waiting_j: float  # while others compute, decode or forward, and for round trips
    tail_j: float  # of the radio after the last byte

    @property
    def total_j(self) -> float:
        """Their sum."""
        return self.compute_j + self.transfer_j + self.waiting_j + self.tail_j

    def __str__(self) -> str:
        return (
            f"{self.total_j:.3g} J modelled: {self.compute_j:.3g} computing, {self.transfer_j:.3g} transferring, "
            f"{self.waiting_j:.3g} waiting, {self.tail_j:.3g} in the radio's tail"
        )


def energy_prices(
    device: DevicePower, radio: Radio, *, up: Link, down: Link, interval_s: float = math.inf
) -> EnergyPrices:
    """The prices for a device whose own link is ``up`` and ``down``.

    ``interval_s`` is the time between requests: a radio that is needed again before its tail ends pays only so much
    of it.

    Raises:
        ValueError: the interval is negative or not a number.
    """
    if not interval_s >= 0:
        raise ValueError(f"requests come in intervals of 0 s or more, not {interval_s}")
    return EnergyPrices(
        compute_w=device.compute_w,
        wait_w=device.idle_w,
        sending_w=device.idle_w + radio.send_base_w,
        receiving_w=device.idle_w + radio.receive_base_w,
        send_j_per_bit=radio.send_w_per_bps,
        receive_j_per_bit=radio.receive_w_per_bps,
        send_s_per_byte=8 / up.bandwidth_bps,
        receive_s_per_byte=8 / down.bandwidth_bps,
        tail_j=radio.tail_w * min(radio.tail_s, interval_s),
        is_verified=device.verified and radio.verified,
        source=f"modelled, not measured; device: {device.source}; radio: {radio.source}",
    )


def energy(cost: Cost, prices: EnergyPrices, *, downloaded_bytes: float | None = None) -> EnergyCost:
    """Joules of a request of that cost, which was estimated with the links that the prices were made for.

    ``downloaded_bytes`` come back over the device's own link; by default as many as that link carries in the cost's
    download time, which is right for two hosts and must be said for longer chains.
    """
    if downloaded_bytes is None:
        downloaded_bytes = cost.download_s / prices.receive_s_per_byte
    own = [transfer for transfer in cost.transfers if transfer.hop == 0]
    waiting_s = sum(cost.compute_s[1:]) + cost.round_trip_s + sum(transfer.decode_s for transfer in own)
    waiting_s += sum(t.encode_s + t.wire_s + t.decode_s for t in cost.transfers if t.hop)
    waiting_s += sum(cost.handling_s[1:])
    waiting_s += max(0.0, cost.download_s - downloaded_bytes * prices.receive_s_per_byte)
    return EnergyCost(
        compute_j=(cost.compute_s[0] + sum(cost.handling_s[:1]) + sum(transfer.encode_s for transfer in own))
        * prices.compute_w,
        transfer_j=sum(transfer.size_bytes for transfer in own) * prices.send_j_per_byte
        + downloaded_bytes * prices.receive_j_per_byte,
        waiting_j=waiting_s * prices.wait_w,
        tail_j=prices.tail_j if cost.used_hops or own or downloaded_bytes > 0 or any(cost.compute_s[1:]) else 0.0,
    )
