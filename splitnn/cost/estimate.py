"""The single definition of what a placement costs. Planners minimise these numbers; nobody else adds seconds up.

Every term is rounded to whole nanoseconds before it is added, so that a minimum cut with integer capacities and the
estimate of the placement that it returns are equal, not nearly equal. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from splitnn.cost.codec_names import CODEC_NAMES, check_codec_names
from splitnn.cost.cost import Cost, Download, Transfer, nanoseconds
from splitnn.cost.network import Topology
from splitnn.cost.profile import CodecCost, Profile
from splitnn.errors import ProfileMismatch
from splitnn.graph.graph import Graph

Codecs = Collection[str] | Mapping[str, Collection[str]]
"""Names of the codecs that may be used: for every tensor, or tensor by tensor (``raw`` where it names none)."""


@dataclass(frozen=True)
class CostTable:
    """Every term of the cost in nanoseconds, before any decision."""

    compute_ns: Mapping[str, tuple[int, ...]]  # layer -> host
    transfers: Mapping[str, tuple[Transfer, ...]]  # tensor -> hop: the cheapest codec
    download_ns: Mapping[str, tuple[int, ...]]  # output tensor that a layer makes -> hop
    round_trip_ns: tuple[int, ...]  # hop
    message_ns: tuple[int, ...] = ()  # host; both are (), or neither
    stage_ns: tuple[int, ...] = ()
    inexact_tiers: frozenset[int] = frozenset()  # hosts that compute on another engine than torch

    @property
    def request_ns(self) -> int:
        """What every placement pays: the first host takes the request in and answers it."""
        return self.message_ns[0] if self.message_ns else 0

    @property
    def first_stage_ns(self) -> int:
        """What every placement pays that leaves any layer on the first host."""
        return self.stage_ns[0] if self.stage_ns else 0

    @property
    def hop_ns(self) -> tuple[int, ...]:
        """[hop]: round trip and handling at both ends, of placements with any layer beyond the hop."""
        if not self.message_ns:
            return self.round_trip_ns
        return tuple(trip + sum(self.ends_ns(hop)) for hop, trip in enumerate(self.round_trip_ns))

    def ends_ns(self, hop: int) -> tuple[int, int]:
        """What messages over a hop cost the host before it, and the one beyond it with its stage."""
        if not self.message_ns:
            return 0, 0
        return self.message_ns[hop], self.message_ns[hop + 1] + self.stage_ns[hop + 1]

    def handling_ns(self, used_hops: int, *, stays: bool) -> list[int]:
        """[host]: what stages and messages cost there, given how many hops are used and whether any layer stays."""
        if not self.message_ns:
            return []
        found = [0] * len(self.message_ns)
        found[0] = self.request_ns + (self.first_stage_ns if stays else 0)
        for hop in range(used_hops):
            near_ns, far_ns = self.ends_ns(hop)
            found[hop] += near_ns
            found[hop + 1] += far_ns
        return found


_NONE: Mapping[str, CodecCost] = {}


def tabulate(
    graph: Graph, profiles: Mapping[str, Profile], topology: Topology, *, codecs: Codecs = ("raw",)
) -> CostTable:
    """All terms of the cost of ``graph`` on ``topology``; the best allowed codec of each tensor is chosen here.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        ValueError: ``codecs`` names one that does not exist (those that the profiles measured do), or is one text,
            whose letters would be taken for names.
    """
    _check_codecs(codecs, profiles)
    check_profiles(graph, profiles, topology)
    times = [
        [nanoseconds(seconds * host.slowdown) for seconds in profiles[host.name].planned(graph.index)]
        for host in topology.hosts
    ]
    hops = [
        [
            Transfer(tensor, hop, *(ways[0] if len(ways) == 1 else _quickest(ways)))
            for tensor, ways in _ways(graph, hop, profiles=profiles, topology=topology, codecs=codecs)
        ]
        for hop in range(len(topology.up))
    ]
    download = {
        tensor: tuple(nanoseconds(graph.tensors[tensor].size_bytes * 8 / link.bandwidth_bps) for link in topology.down)
        for tensor in dict.fromkeys(graph.outputs)
        if tensor in graph.producer
    }
    round_trip = tuple(
        nanoseconds(up.latency_s + down.latency_s) for up, down in zip(topology.up, topology.down, strict=True)
    )
    return CostTable(
        compute_ns=dict(zip(graph.index, zip(*times, strict=True), strict=True)),
        transfers=dict(zip(graph.wires, zip(*hops, strict=True) if hops else [()] * len(graph.wires), strict=True)),
        download_ns=download,
        round_trip_ns=round_trip,
        inexact_tiers=frozenset(
            tier for tier, host in enumerate(topology.hosts) if profiles[host.name].engine != "torch"
        ),
        **_handling(profiles, topology),
    )


def _check_codecs(codecs: Codecs, profiles: Mapping[str, Profile]) -> None:
    collections = codecs.values() if isinstance(codecs, Mapping) else (codecs,)
    if text := [each for each in collections if isinstance(each, str)]:
        raise ValueError(f"codecs are a collection of names, not the text {text[0]!r}")
    if unknown := set().union(*collections) - CODEC_NAMES:
        measured = (costs for profile in profiles.values() for costs in profile.codecs.values())
        check_codec_names(unknown, others=set().union(*measured))


def _handling(profiles: Mapping[str, Profile], topology: Topology) -> dict[str, tuple[int, ...]]:
    messages, stages = [], []
    for host in topology.hosts:
        profile = profiles[host.name]
        messages.append(nanoseconds(_observed(host.message_s, profile.message_s * host.slowdown)))
        stages.append(nanoseconds(_observed(host.stage_s, profile.stage_s * host.slowdown)))
    return {"message_ns": tuple(messages), "stage_ns": tuple(stages)} if any(messages) or any(stages) else {}


def _observed(seconds: float | None, otherwise: float) -> float:
    return otherwise if seconds is None else seconds


def check_profiles(graph: Graph, profiles: Mapping[str, Profile], topology: Topology) -> str:
    """Digest of the model that the profiles of all hosts belong to.

    Raises:
        ProfileMismatch: a host has no profile, one that does not fit the graph, or one of another model.
    """
    models = {}
    for host in topology.hosts:
        if host.name not in profiles:
            raise ProfileMismatch(f"no profile of host {host.name!r}; there are {sorted(profiles)}")
        profiles[host.name].check_fits(graph)
        models[host.name] = profiles[host.name].model
    if len(set(models.values())) > 1:
        raise ProfileMismatch(f"the profiles belong to different models: {models}")
    return models[topology.hosts[0].name]


def codec_options(
    graph: Graph, hop: int, *, profiles: Mapping[str, Profile], topology: Topology, codecs: Codecs
) -> dict[str, list[Transfer]]:
    """Of each tensor that layers read, in graph order, the ways to carry it over one hop.

    These are the allowed codecs that both ends were measured with, and raw, which needs no measurement. When nothing
    is left, raw is: a tensor can always be sent.
    """
    return {
        tensor: [Transfer(tensor, hop, *way) for way in ways]
        for tensor, ways in _ways(graph, hop, profiles=profiles, topology=topology, codecs=codecs)
    }


_Way = tuple[str, int, float, float, float]
"""The fields of a Transfer from ``codec`` on: most ways are never chosen, so they stay plain tuples."""


def _ways(
    graph: Graph, hop: int, *, profiles: Mapping[str, Profile], topology: Topology, codecs: Codecs
) -> Iterator[tuple[str, list[_Way]]]:
    """Each tensor that layers read with the ways to carry it over one hop, at least one."""
    sender, receiver = topology.hosts[hop], topology.hosts[hop + 1]
    encoded, decoded = profiles[sender.name].codecs, profiles[receiver.name].codecs
    rate = topology.up[hop].bandwidth_bps
    encoding, decoding = (_observed(host.coding_slowdown, host.slowdown) for host in (sender, receiver))
    by_tensor = codecs if isinstance(codecs, Mapping) else dict.fromkeys(graph.wires, codecs)
    for tensor, raw_bytes in graph.wire_bytes.items():
        there, here = encoded.get(tensor, _NONE), decoded.get(tensor, _NONE)
        found: list[_Way] = []
        for name in by_tensor.get(tensor, ("raw",)):
            if name in there and name in here:
                cost = there[name]
                size = cost.size_bytes
                found.append((name, size, cost.encode_s * encoding, size * 8 / rate, here[name].decode_s * decoding))
            elif name == "raw":
                found.append(("raw", raw_bytes, 0.0, raw_bytes * 8 / rate, 0.0))
        yield tensor, found or [("raw", raw_bytes, 0.0, raw_bytes * 8 / rate, 0.0)]


def _quickest(ways: Sequence[_Way]) -> _Way:
    """The quickest codec; of equals raw, then by name."""
    times = [nanoseconds(encode_s + wire_s + decode_s) for _, _, encode_s, wire_s, decode_s in ways]
    least = min(times)
    if times.count(least) == 1:
        return ways[times.index(least)]
    equals = [way for way, ns in zip(ways, times, strict=True) if ns == least]
    return min(equals, key=lambda way: (way[0] != "raw", way[0]))


def price(graph: Graph, placement: Mapping[str, int], table: CostTable) -> Cost:
    """Cost of a placement (layer to index of its host) by a table that holds the terms.

    Raises:
        ValueError: a layer has no host or one that does not exist, or data would flow back to an earlier host.
    """
    hops = len(table.round_trip_ns)
    compute = [0] * (hops + 1)
    tiers = [placement.get(name, -1) for name in graph.index]
    for name, tier in zip(graph.index, tiers, strict=True):
        if not 0 <= tier <= hops:
            if name not in placement:
                raise ValueError(f"the placement has no host for layer {name!r}")
            raise ValueError(f"the placement puts layer {name!r} on tier {tier}; there are 0 to {hops}")
        compute[tier] += table.compute_ns[name][tier]
    crossing: list[Transfer] = []
    for tensor, (producer, readers) in graph.wires.items():
        source = tiers[producer] if producer >= 0 else 0
        if len(readers) == 1:
            nearest = furthest = tiers[readers[0]]
        else:
            at = [tiers[reader] for reader in readers]
            nearest, furthest = min(at), max(at)
        if nearest < source:
            raise ValueError(f"tensor {tensor!r} would flow back from host {source} to host {nearest}")
        if source < furthest:
            crossing.extend(table.transfers[tensor][source:furthest])
    download = 0
    downloads: list[Download] = []
    for tensor, hops_ns in table.download_ns.items():
        size_bytes = graph.tensors[tensor].size_bytes
        for hop, hop_ns in enumerate(hops_ns[: placement[graph.producer[tensor]]]):
            download += hop_ns
            downloads.append(Download(tensor, hop, size_bytes, hop_ns * 1e-9))
    used_hops = max(placement.values(), default=0)
    round_trip = sum(table.round_trip_ns[:used_hops])
    handling = table.handling_ns(used_hops, stays=0 in placement.values())
    return Cost(
        latency_ns=sum(compute) + sum(t.total_ns for t in crossing) + download + round_trip + sum(handling),
        compute_s=tuple(ns * 1e-9 for ns in compute),
        transfers=tuple(crossing),
        download_s=download * 1e-9,
        round_trip_s=round_trip * 1e-9,
        downloads=tuple(downloads),
        used_hops=used_hops,
        handling_s=tuple(ns * 1e-9 for ns in handling),
    )


def estimate(
    graph: Graph,
    placement: Mapping[str, str],
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    codecs: Codecs = ("raw",),
) -> Cost:
    """Predicted cost of one request when each layer runs on the named host.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        ValueError: a layer has no host or an unknown one, or data would flow back to an earlier host.
    """
    tiers = {host.name: i for i, host in enumerate(topology.hosts)}
    if unknown := set(placement.values()) - tiers.keys():
        raise ValueError(f"the placement names hosts {sorted(unknown)}; the topology has {list(tiers)}")
    return price(
        graph,
        {layer: tiers[host] for layer, host in placement.items()},
        tabulate(graph, profiles, topology, codecs=codecs),
    )
