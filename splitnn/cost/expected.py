"""What a request costs on average when exits may answer it: every term times the share of samples that pay it.

An exit acts on the host where its logits are made, and hosts decide exits in order. What a host sends it sends at once,
when the first exit that is decided further on is reached: so a tensor crosses a hop for exactly the samples that arrive
at that exit, whichever layers read it there. Given the host of each exit every term therefore has one share, and the
cost is a sum again, as it is without exits. Knows no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from splitnn.cost.cost import Cost, Transfer
from splitnn.cost.estimate import Codecs, CostTable, price, tabulate
from splitnn.cost.network import Topology
from splitnn.cost.profile import Profile
from splitnn.graph.exits import Exits, levels, part_used
from splitnn.graph.graph import Graph


@dataclass(frozen=True)
class Shares:
    """Of so many samples those that pay each term; hosts and hops are indexed as in the topology."""

    samples: int
    graph: Graph  # the part that the exits use: nothing else costs anything
    layers: Mapping[str, tuple[int, ...]]  # layer -> host: for which it runs, if it runs there
    hops: tuple[int, ...]  # which cross the hop
    answers: Mapping[str, int]  # output -> which it answers

    @classmethod
    def of(cls, graph: Graph, exits: Exits, decided_on: Sequence[int], *, hosts: int) -> Shares:
        """When each exit is decided on the host of that index.

        Raises:
            ValueError: an exit is decided before the one before it, or is no output of the graph.
        """
        if len(decided_on) != len(exits.exits) or list(decided_on) != sorted(decided_on):
            raise ValueError(
                f"{len(exits.exits)} exits are decided in order, each on the host of the one before it or later; "
                f"not on {list(decided_on)}"
            )
        arrived = (*exits.arrived, 0)
        beyond = [sum(tier <= hop for tier in decided_on) for hop in range(hosts)]  # hop: the first exit beyond it
        runs = [tuple(arrived[min(first, far)] for far in beyond) for first in range(len(exits.exits))]
        return cls(
            samples=exits.samples,
            graph=part_used(graph, exits),
            layers={layer: runs[level] for layer, level in levels(graph, exits).items()},
            hops=tuple(arrived[far] for far in beyond[:-1]),
            answers={each.output: left for each, left in zip(exits.exits, exits.left, strict=True)},
        )

    def expected(self, cost_ns: int, paying: int) -> int:
        """The mean over all samples of what some of them pay, in whole nanoseconds."""
        return (2 * cost_ns * paying + self.samples) // (2 * self.samples)

    def transfer(self, sent: Transfer) -> Transfer:
        """Its mean over all samples."""
        share = self.hops[sent.hop] / self.samples
        return sent._replace(
            size_bytes=round(sent.size_bytes * share),
            encode_s=sent.encode_s * share,
            wire_s=sent.wire_s * share,
            decode_s=sent.decode_s * share,
        )

    def price(self, placement: Mapping[str, int], table: CostTable) -> Cost:
        """The mean cost of a placement (layer to index of its host) by a table of the terms.

        Raises:
            ValueError: a host does not exist, or data would flow back to an earlier host.
        """
        used = {name: placement[name] for name in self.layers}
        cost = price(self.graph, used, self.table(table))
        downloads = tuple(
            each._replace(size_bytes=round(each.size_bytes * self.answers[each.tensor] / self.samples))
            for each in cost.downloads
        )  # the tensor's own size is what price knows
        return replace(cost, downloads=downloads)

    def table(self, table: CostTable) -> ExpectedTable:
        """Every term's mean over all samples."""
        known = {field.name: getattr(table, field.name) for field in fields(CostTable)}
        expected = {
            "compute_ns": {
                name: tuple(map(self.expected, table.compute_ns[name], paying)) for name, paying in self.layers.items()
            },
            "transfers": {
                name: tuple(map(self.transfer, choices))
                for name, choices in table.transfers.items()
                if self.graph.consumers[name]
            },
            "download_ns": {
                name: tuple(self.expected(ns, answered) for ns in table.download_ns[name])
                for name, answered in self.answers.items()
            },
            "round_trip_ns": tuple(map(self.expected, table.round_trip_ns, self.hops)),
        }
        return ExpectedTable(**{**known, **expected}, shares=self)


@dataclass(frozen=True)
class ExpectedTable(CostTable):
    """Terms that are means over samples; ``message_ns`` and ``stage_ns`` are those of a sample that pays them."""

    shares: Shares | None = None

    def ends_ns(self, hop: int) -> tuple[int, int]:
        """The mean of what messages over a hop cost at both ends."""
        near_ns, far_ns = super().ends_ns(hop)
        if self.shares is None:
            return near_ns, far_ns
        paying = self.shares.hops[hop]
        return self.shares.expected(near_ns, paying), self.shares.expected(far_ns, paying)


def deciding_tiers(graph: Graph, exits: Exits, placement: Mapping[str, int]) -> tuple[int, ...]:
    """The index of the host that decides each exit: where its logits are made."""
    return tuple(placement[graph.producer[each.output]] for each in exits.exits)


def expected_cost(
    graph: Graph,
    placement: Mapping[str, str],
    profiles: Mapping[str, Profile],
    topology: Topology,
    *,
    exits: Exits,
    codecs: Codecs = ("raw",),
) -> Cost:
    """``estimate`` for a model with exits: the mean cost of a request, and the mean bytes that it sends.

    Raises:
        ProfileMismatch: a host has no profile, or one of another model.
        ValueError: a layer has no host or an unknown one, data would flow back to an earlier host, or an exit would be
            decided on an earlier host than the one before it.
    """
    tiers = {host.name: i for i, host in enumerate(topology.hosts)}
    if unknown := set(placement.values()) - tiers.keys():
        raise ValueError(f"the placement names hosts {sorted(unknown)}; the topology has {list(tiers)}")
    placed = {layer: tiers[host] for layer, host in placement.items()}
    if missing := sorted(graph.index.keys() - placed.keys()):
        raise ValueError(f"the placement has no host for layer {missing[0]!r}")
    shares = Shares.of(graph, exits, deciding_tiers(graph, exits, placed), hosts=len(tiers))
    return shares.price(placed, tabulate(graph, profiles, topology, codecs=codecs))
