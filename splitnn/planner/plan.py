"""A plan: which host runs which layers, and how the tensors between them travel. A value; knows no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from splitnn.cost.codec_names import check_codec_names
from splitnn.cost.cost import Cost, Download, Transfer
from splitnn.cost.estimate import CostTable, price
from splitnn.cost.expected import Shares
from splitnn.graph.graph import Graph
from splitnn.planner.line import Line, parse_line, print_line

Mode = Literal["exact", "fast"]
"""exact: every tensor is bit-identical to the whole model's, the logits of its exits included, whichever of them
answers; fast: a lossy codec, or a host whose profile is of another engine."""

LOSSLESS = frozenset({"raw", "raw+fast", "zstd", "lz4", "shuffle+zstd", "mask", "mask+zstd", "entropy", "png", "webp"})
"""Codecs that an exact plan may use."""

MODEL_DIGITS = 12
"""How much of a model's digest a plan's line and its id carry."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A decision about one model. Two plans with one ``id`` run alike, whatever they were predicted to cost.

    ``str`` prints it on one line, which ``parse`` reads back.
    """

    model: str  # digest
    hosts: tuple[str, ...]
    order: tuple[str, ...]  # all layers, as in the graph
    tiers: tuple[int, ...]  # of each layer the index of its host
    hops: tuple[Mapping[str, str], ...]  # of each hop the tensors that cross it and their codecs there
    predicted: Cost
    mode: Mode = "exact"

    def __post_init__(self) -> None:
        if len(self.order) != len(self.tiers):
            raise ValueError(f"a plan needs one tier a layer: {len(self.order)} layers, {len(self.tiers)} tiers")
        if self.tiers and not 0 <= min(self.tiers) <= max(self.tiers) < len(self.hosts):
            raise ValueError(f"a plan's tiers lie between 0 and {len(self.hosts) - 1}, not {sorted(set(self.tiers))}")
        if len(self.hops) != len(self.hosts) - 1:
            raise ValueError(f"{len(self.hosts)} hosts have {len(self.hosts) - 1} hops between them: {self.hops}")
        if self.mode not in get_args(Mode):
            raise ValueError(f"a plan's mode is 'exact' or 'fast', not {self.mode!r}")
        if self.mode == "exact" and (lossy := {codec for hop in self.hops for codec in hop.values()} - LOSSLESS):
            raise ValueError(f"a plan that uses {sorted(lossy)} is not exact; its mode is 'fast'")

    @classmethod
    def priced(
        cls,
        graph: Graph,
        tiers: Sequence[int],
        *,
        table: CostTable,
        model: str,
        hosts: Iterable[str],
        mode: Mode = "exact",
        shares: Shares | None = None,
    ) -> Plan:
        """The plan that puts layer i of ``graph`` on host ``tiers[i]``, with the codecs and the cost of ``table``.

        It is exact when ``mode`` says so, no codec that it uses is lossy, and its hosts compute in torch. With
        ``shares`` its cost is a mean over samples; tensors that cross for none of the exits are never sent: as if raw.

        Raises:
            ValueError: a tier does not exist, or data would flow back to an earlier host.
        """
        order = tuple(layer.name for layer in graph.layers)
        placement = dict(zip(order, tiers, strict=True))
        cost = price(graph, placement, table)
        hops: list[dict[str, str]] = [{} for _ in table.round_trip_ns]
        for transfer in cost.transfers:
            is_sent = shares is None or shares.graph.consumers[transfer.tensor]
            hops[transfer.hop][transfer.tensor] = transfer.codec if is_sent else "raw"
        computing = set(tiers) if shares is None else {placement[name] for name in shares.layers}
        if any(codec not in LOSSLESS for hop in hops for codec in hop.values()) or table.inexact_tiers & computing:
            mode = "fast"
        if shares is not None:
            cost = shares.price(placement, table)
        return cls(model, tuple(hosts), order, tuple(tiers), tuple(hops), cost, mode)

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that name the decision."""
        hops = [sorted(hop.items()) for hop in self.hops]
        decision = (self.model[:MODEL_DIGITS], self.hosts, self.tiers, hops, self.mode)
        return hashlib.sha256(repr(decision).encode()).hexdigest()[:12]

    @property
    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Of each host the layers that it runs, in topological order."""
        parts: list[list[str]] = [[] for _ in self.hosts]
        for name, tier in zip(self.order, self.tiers, strict=True):
            parts[tier].append(name)
        return tuple(tuple(part) for part in parts)

    @property
    def placement(self) -> dict[str, str]:
        """Host of each layer."""
        return {name: self.hosts[tier] for name, tier in zip(self.order, self.tiers, strict=True)}

    @property
    def codecs(self) -> dict[str, tuple[str, ...]]:
        """Of each crossing tensor its codec on each hop that it crosses, in hop order."""
        found: dict[str, tuple[str, ...]] = {}
        for hop in self.hops:
            for tensor, codec in hop.items():
                found[tensor] = (*found.get(tensor, ()), codec)
        return found

    @property
    def is_local(self) -> bool:
        """Whether the first host, the device, runs everything."""
        return not any(self.tiers)

    def __str__(self) -> str:
        return print_line(
            Line(
                hosts=self.hosts,
                tiers=self.tiers,
                hops=self.hops,
                model=self.model[:MODEL_DIGITS],
                mode=self.mode,
                latency_s=self.predicted.latency_s,
            )
        )

    @classmethod
    def parse(cls, line: str, graph: Graph, *, model: str | None = None) -> Plan:
        """The plan that ``str`` printed, with the same id.

        A line holds the decision, and of the predicted cost only the latency, to four digits: price the tiers again
        for the rest. The digest has twelve digits unless ``model`` gives all of it.

        Raises:
            ValueError: the line is no plan, or no plan of this graph or model, or it names a codec that does not exist.
        """
        found = parse_line(line, len(graph))
        if model is not None and model[:MODEL_DIGITS] != found.model:
            raise ValueError(f"the plan belongs to model {found.model!r}, not {model[:MODEL_DIGITS]!r}")
        for hop, (expected, given) in enumerate(zip(_crossing(graph, found), found.hops, strict=True)):
            if expected != given.keys():
                raise ValueError(
                    f"between {found.hosts[hop]!r} and {found.hosts[hop + 1]!r} cross the tensors "
                    f"{sorted(expected)}, not {sorted(given)}"
                )
        _check_codecs(found.hops)
        return cls(
            model=model or found.model,
            hosts=found.hosts,
            order=tuple(layer.name for layer in graph.layers),
            tiers=found.tiers,
            hops=found.hops,
            predicted=Cost(round(found.latency_s * 1e9), (), (), 0.0, 0.0),
            mode=found.mode,  # type: ignore[arg-type]  # checked when the plan is made
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object that ``from_json`` reads back to an equal plan."""
        return {
            "format": "splitnn-plan-1",
            "id": self.id,
            "model": self.model,
            "mode": self.mode,
            "hosts": list(self.hosts),
            "layers": [list(pair) for pair in zip(self.order, self.tiers, strict=True)],
            "hops": [dict(hop) for hop in self.hops],
            "predicted": {
                **asdict(self.predicted),
                "transfers": [transfer._asdict() for transfer in self.predicted.transfers],
                "downloads": [download._asdict() for download in self.predicted.downloads],
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that ``to_json`` wrote.

        Raises:
            ValueError: the object is not such a plan.
        """
        try:
            if data["format"] != "splitnn-plan-1":
                raise ValueError(f"not a plan: format {data['format']!r}")
            cost = data["predicted"]
            hops = tuple({str(tensor): str(codec) for tensor, codec in hop.items()} for hop in data["hops"])
            _check_codecs(hops)
            found = cls(
                model=str(data["model"]),
                hosts=tuple(str(host) for host in data["hosts"]),
                order=tuple(str(name) for name, _ in data["layers"]),
                tiers=tuple(int(tier) for _, tier in data["layers"]),
                hops=hops,
                predicted=Cost(
                    latency_ns=int(cost["latency_ns"]),
                    compute_s=tuple(float(seconds) for seconds in cost["compute_s"]),
                    transfers=tuple(Transfer(**transfer) for transfer in cost["transfers"]),
                    download_s=float(cost["download_s"]),
                    round_trip_s=float(cost["round_trip_s"]),
                    downloads=tuple(Download(**download) for download in cost.get("downloads", ())),
                    used_hops=int(cost.get("used_hops", 0)),
                    handling_s=tuple(float(seconds) for seconds in cost.get("handling_s", ())),
                ),
                mode=data["mode"],
            )
            stated = str(data["id"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a plan: {error!r}") from error
        if found.id != stated:
            raise ValueError(f"not a plan: its id is {found.id}, not {stated} as it says")
        return found


def _check_codecs(hops: Iterable[Mapping[str, str]]) -> None:
    """Raises ValueError: they name a codec that does not exist."""
    check_codec_names({codec for hop in hops for codec in hop.values()})


def _crossing(graph: Graph, line: Line) -> list[set[str]]:
    """The tensors that cross each hop when the layers lie as the line says."""
    crossing: list[set[str]] = [set() for _ in line.hops]
    for tensor, readers in graph.consumers.items():
        source = line.tiers[graph.index[graph.producer[tensor]]] if tensor in graph.producer else 0
        tiers = [line.tiers[graph.index[reader]] for reader in readers]
        if tiers and min(tiers) < source:
            raise ValueError(f"tensor {tensor!r} would flow back from {line.hosts[source]!r} to an earlier host")
        for hop in range(source, max(tiers, default=source)):
            crossing[hop].add(tensor)
    return crossing
