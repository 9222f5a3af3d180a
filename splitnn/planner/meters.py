"""Additive quantities of a placement, in integers: what each decision bit adds to seconds, joules, bytes or money.

A meter has the form of ``Terms``, but keeps every codec of every tensor apart: which one is best depends on what is
wanted. Any weighted sum of meters is again a minimum cut, with the best codec of each tensor chosen inside its arc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from splitnn.cost.cost import Transfer, nanoseconds
from splitnn.cost.energy import EnergyPrices
from splitnn.cost.estimate import Codecs, CostTable, codec_options, tabulate
from splitnn.cost.expected import Shares
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph

Rows = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Meter:
    """What one quantity of a placement consists of: ``on_device`` when nothing moves, and the others as in ``Terms``.

    ``ways[h][t]`` has an entry for each codec of wire t on hop h.
    """

    on_device: int
    move: Rows  # hop, layer: for running beyond the hop
    ways: Sequence[Sequence[Sequence[int]]]  # hop, wire, codec: for crossing
    use: Sequence[int]  # hop: for using it at all
    first_stage: int = 0


@dataclass(frozen=True, slots=True)
class Tariff:
    """What servers and traffic cost, in any currency."""

    per_server_s: float = 0.0  # a second in which a host beyond the first one computes or codes
    per_gb: float = 0.0  # 10**9 bytes over any hop, up or down

    def __post_init__(self) -> None:
        if not (0 <= self.per_server_s < float("inf") and 0 <= self.per_gb < float("inf")):
            raise ValueError(f"prices are finite and not below 0: {self}")


class Metering:
    """Makes the meters of one model on one topology; hosts and hops by their index.

    With ``shares`` every meter shows a mean over samples, of the part of the model that its exits use.
    """

    def __init__(
        self,
        graph: Graph,
        profiles: Mapping[str, Profile],
        topology: Topology,
        *,
        codecs: Codecs = ("raw",),
        shares: Shares | None = None,
    ) -> None:
        self.graph = graph if shares is None else shares.graph
        self.full: CostTable = tabulate(graph, profiles, topology, codecs=codecs)  # of a request that pays all of it
        self.layout = self.graph.layout
        self.tensors = list(self.graph.wires)
        self.hops = len(topology.up)
        self.options: list[list[tuple[Transfer, ...]]] = []  # hop, wire: raw first, then by name
        for hop in range(self.hops):
            found = codec_options(graph, hop, profiles=profiles, topology=topology, codecs=codecs)
            self.options.append([_distinct(found[tensor]) for tensor in self.tensors])
        self._shares = shares
        self._table = self.full if shares is None else shares.table(self.full)
        self._compute = [self._table.compute_ns[layer.name] for layer in self.graph.layers]

    def latency(self) -> Meter:
        """Nanoseconds, exactly those of ``estimate``."""
        return self._meter(
            layer=lambda position, tier: self._compute[position][tier],
            transfer=lambda transfer: self._mean(transfer).total_ns,
            download=lambda tensor, hop: self._table.download_ns[tensor][hop],
            use=self._table.hop_ns,
            request=self._table.request_ns,
            first_stage=self._table.first_stage_ns,
        )

    def energy(self, prices: EnergyPrices) -> Meter:
        """Nanojoules of the device."""
        return self._meter(
            layer=lambda position, tier: nanoseconds(prices.layer_j(self._compute[position][tier] * 1e-9, tier=tier)),
            transfer=lambda transfer: nanoseconds(self._crossed(transfer.hop) * prices.transfer_j(transfer)),
            download=lambda tensor, hop: nanoseconds(
                self._answered(tensor)
                * prices.download_j(self._size(tensor), hop=hop, seconds=self.full.download_ns[tensor][hop] * 1e-9)
            ),
            use=[
                nanoseconds(
                    self._crossed(hop) * (prices.round_trip_j(ns * 1e-9, hop=hop) + self._handling_j(prices, hop))
                )
                for hop, ns in enumerate(self.full.round_trip_ns)
            ],
            request=nanoseconds(prices.layer_j(self._table.request_ns * 1e-9, tier=0)),
            first_stage=nanoseconds(prices.layer_j(self._table.first_stage_ns * 1e-9, tier=0)),
        )

    def _handling_j(self, prices: EnergyPrices, hop: int) -> float:
        """What the messages over a hop, and the stage beyond it, cost the device."""
        if not self.full.message_ns:
            return 0.0
        near_s, far_s = (ns * 1e-9 for ns in self.full.message_ns[hop : hop + 2])
        far_s += self.full.stage_ns[hop + 1] * 1e-9
        return prices.layer_j(near_s, tier=hop) + prices.layer_j(far_s, tier=hop + 1)

    def traffic(self) -> Meter:
        """Bytes over all hops, both ways."""
        return self._meter(
            transfer=lambda transfer: self._mean(transfer).size_bytes,
            download=lambda tensor, hop: round(self._answered(tensor) * self._size(tensor)),
        )

    def money(self, tariff: Tariff) -> Meter:
        """Steps of 1e-36 of the tariff's currency, the prices as the decimal numbers that they are written as.

        So nothing is lost of a tiny price, and two plans cost the same only when they do.
        """
        byte, server_ns = (Fraction(repr(float(p))) * 10**27 for p in (tariff.per_gb, tariff.per_server_s))

        def price(transfer: Transfer) -> int:
            server_s = transfer.decode_s + (transfer.encode_s if transfer.hop else 0.0)
            crossed = Fraction(self._crossed(transfer.hop))
            return round(crossed * (nanoseconds(server_s) * server_ns + transfer.size_bytes * byte))

        return self._meter(
            layer=lambda position, tier: round(self._compute[position][tier] * server_ns) * bool(tier),
            transfer=price,
            download=lambda tensor, hop: round(Fraction(self._answered(tensor)) * self._size(tensor) * byte),
        )

    def loads(self) -> list[Meter]:
        """Nanoseconds for which a request keeps each resource busy: hosts, then the hops upwards, then downwards."""
        hops = range(self.hops)
        return [
            *(self._host_load(tier) for tier in range(self.hops + 1)),
            *(self._up_load(hop) for hop in hops),
            *(self._down_load(hop) for hop in hops),
        ]

    def _host_load(self, tier: int) -> Meter:
        def coding(full: Transfer) -> int:
            transfer = self._mean(full)
            encode_ns = nanoseconds(transfer.encode_s) if transfer.hop == tier else 0
            return encode_ns + (nanoseconds(transfer.decode_s) if transfer.hop + 1 == tier else 0)

        return self._meter(layer=lambda position, at: self._compute[position][at] * (at == tier), transfer=coding)

    def _up_load(self, hop: int) -> Meter:
        return self._meter(transfer=lambda transfer: nanoseconds(self._mean(transfer).wire_s) * (transfer.hop == hop))

    def _down_load(self, hop: int) -> Meter:
        return self._meter(download=lambda tensor, at: self._table.download_ns[tensor][at] * (at == hop))

    def weights(self, tier: int) -> Meter:
        """Bytes of weights on a host, at least: one that several layers share counts where one of them runs.

        That is the first of them on hosts before the last one, and the last of them there.
        """
        own = weight_owners(self.graph, tier, self.hops)
        return self._meter(layer=lambda position, at: own[position] * (at == tier))

    def _meter(
        self,
        *,
        layer: Callable[[int, int], int] = lambda position, tier: 0,
        transfer: Callable[[Transfer], int] = lambda transfer: 0,
        download: Callable[[str, int], int] = lambda tensor, hop: 0,
        use: Sequence[int] = (),
        request: int = 0,
        first_stage: int = 0,
    ) -> Meter:
        first_stage *= bool(len(self.graph))
        index, producer = self.graph.index, self.graph.producer
        costs = [[layer(position, tier) for tier in range(self.hops + 1)] for position in range(len(self.graph))]
        move = [[each[hop + 1] - each[hop] for each in costs] for hop in range(self.hops)]
        for tensor in self._table.download_ns:
            for hop in range(self.hops):
                move[hop][index[producer[tensor]]] += download(tensor, hop)
        return Meter(
            on_device=sum(each[0] for each in costs) + request + first_stage,
            move=move,
            ways=[[tuple([transfer(each) for each in ways]) for ways in row] for row in self.options],
            use=use or [0] * self.hops,
            first_stage=first_stage,
        )

    def _size(self, tensor: str) -> int:
        return self.graph.tensors[tensor].size_bytes

    def _mean(self, transfer: Transfer) -> Transfer:
        return transfer if self._shares is None else self._shares.transfer(transfer)

    def _answered(self, tensor: str) -> float:
        """The share of requests that a result answers."""
        return 1.0 if self._shares is None else self._shares.answers[tensor] / self._shares.samples

    def _crossed(self, hop: int) -> float:
        """The share of requests that use a hop."""
        return 1.0 if self._shares is None else self._shares.hops[hop] / self._shares.samples


def weight_owners(graph: Graph, tier: int, hops: int) -> list[int]:
    """Of each layer the bytes of weights that count for it on a host; those that layers share count for one of them."""
    owner: dict[str, int] = {}
    for position, layer in enumerate(graph.layers):
        for weight in layer.weights:
            if weight not in owner or (tier == hops and tier):
                owner[weight] = position
    own = [0] * len(graph)
    for weight, position in owner.items():
        own[position] += graph.weight_bytes[weight]
    return own


def _distinct(options: Sequence[Transfer]) -> tuple[Transfer, ...]:
    """Each codec once, raw first and then by name, so that of equals raw is taken."""
    return tuple(sorted(dict.fromkeys(options), key=lambda option: (option.codec != "raw", option.codec)))
