"""What a plan has to obey: where layers may run, and budgets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from splitnn.graph.graph import Graph
from splitnn.planner.names import layers_named, layers_of_operator, tensors_named
from splitnn.planner.pins import Bound, TierRanges, spread


@dataclass(frozen=True)
class Constraints:
    """Everything is optional. The device is the first host.

    ``private`` tensors, and with them all that they are made from, stay on the device: whoever holds what a tensor
    follows from holds the tensor. A module's name stands for all of its layers, and for the tensors that they make.
    ``forbidden`` names operators (``aten.conv2d.default`` or ``conv2d``) and the hosts that cannot run them.
    ``memory_bytes`` limits weights and the largest working set of a host, see ``splitnn.cost.memory``; ``max_bytes``
    what travels over all hops, both ways.

    Raises:
        ValueError: a budget below 0, or a deadline that is no time.
    """

    pins: Mapping[str, str] = field(default_factory=dict)  # layer -> host
    keep_on_device: Sequence[str] = ()  # layers
    private: Sequence[str] = ()  # tensors
    forbidden: Mapping[str, Sequence[str]] = field(default_factory=dict)  # operator -> hosts
    memory_bytes: Mapping[str, int] = field(default_factory=dict)  # host -> budget
    max_bytes: int | None = None
    deadline_s: float | None = None
    max_energy_j: float | None = None

    def __post_init__(self) -> None:
        budgets = {
            **{f"the memory of {host!r}": value for host, value in self.memory_bytes.items()},
            "the traffic": self.max_bytes,
            "the deadline": self.deadline_s,
            "the energy": self.max_energy_j,
        }
        for name, value in budgets.items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is limited to a finite number, 0 or more, not {value}")

    def loosened(self) -> Iterator[tuple[str, Constraints]]:
        """Each constraint by name, and all the others without it."""
        for layer, host in self.pins.items():
            rest = {name: at for name, at in self.pins.items() if name != layer}
            yield f"the pin of layer {layer!r} to {host!r}", replace(self, pins=rest)
        for layer in self.keep_on_device:
            kept = [name for name in self.keep_on_device if name != layer]
            yield f"layer {layer!r} kept on the device", replace(self, keep_on_device=kept)
        if self.private:
            count = f"{len(self.private)} tensors" if len(self.private) > 1 else f"tensor {self.private[0]!r}"
            yield f"privacy of {count}", replace(self, private=())
        for op, hosts in self.forbidden.items():
            others = {name: at for name, at in self.forbidden.items() if name != op}
            yield f"{op} forbidden on {' and '.join(hosts)}", replace(self, forbidden=others)
        yield from self.unbounded().items()

    def unbounded(self) -> dict[str, Constraints]:
        """Each budget by name, and all other constraints without it."""
        found = {}
        if self.deadline_s is not None:
            found["the deadline"] = replace(self, deadline_s=None)
        if self.max_bytes is not None:
            found["the traffic"] = replace(self, max_bytes=None)
        if self.max_energy_j is not None:
            found["the energy"] = replace(self, max_energy_j=None)
        for host in self.memory_bytes:
            rest = {name: size for name, size in self.memory_bytes.items() if name != host}
            found[f"the memory of {host}"] = replace(self, memory_bytes=rest)
        return found

    def check_hosts(self, hosts: Sequence[str]) -> None:
        """Raises ValueError when a constraint names a host that does not exist."""
        named = [*self.pins.values(), *self.memory_bytes, *(host for each in self.forbidden.values() for host in each)]
        for host in named:
            if host not in hosts:
                raise ValueError(f"a constraint names host {host!r}; the topology has {list(hosts)}")

    def bounds(self, graph: Graph, hosts: Sequence[str]) -> list[tuple[str, Bound]]:
        """The tiers that some layers are held to; forbidden hosts in the middle of a chain are in ``barred``.

        Raises:
            ValueError: a layer, tensor, operator or host does not exist.
        """
        self.check_hosts(hosts)
        device, last = hosts[0], len(hosts) - 1
        found: list[tuple[str, Bound]] = []
        for name, host in self.pins.items():
            tier = hosts.index(host)
            found += [(layer, Bound(tier, tier, f"is pinned to {host!r}")) for layer in layers_named(graph, name)]
        for name in self.keep_on_device:
            found += [(layer, Bound(0, 0, f"is kept on {device!r}")) for layer in layers_named(graph, name)]
        for tensor in dict.fromkeys(tensor for name in self.private for tensor in tensors_named(graph, name)):
            if tensor in graph.producer:
                found.append((graph.producer[tensor], Bound(0, 0, f"makes the private tensor {tensor!r}")))
            for reader in graph.consumers[tensor]:
                found.append((reader, Bound(0, 0, f"reads the private tensor {tensor!r}")))
        for layer, tiers in self._forbidden_tiers(graph, hosts).items():
            allowed = [tier for tier in range(last + 1) if tier not in tiers]
            names = " and ".join(repr(hosts[tier]) for tier in sorted(tiers))
            op = graph.layer(layer).op
            lowest, highest = (allowed[0], allowed[-1]) if allowed else (last + 1, -1)
            found.append((layer, Bound(lowest, highest, f"must not run on {names} ({op} is forbidden there)")))
        return found

    def tier_ranges(self, graph: Graph, hosts: Sequence[str]) -> TierRanges:
        """What is left open to each layer.

        Raises:
            InfeasiblePlan: constraints contradict each other.
            ValueError: a layer, tensor, operator or host does not exist.
        """
        return spread(graph, self.bounds(graph, hosts), hosts)

    def barred(self, graph: Graph, hosts: Sequence[str]) -> frozenset[tuple[int, int]]:
        """Layers (by position) and tiers between allowed ones where they must not run."""
        found = set()
        for layer, tiers in self._forbidden_tiers(graph, hosts).items():
            allowed = [tier for tier in range(len(hosts)) if tier not in tiers]
            found |= {(graph.index[layer], tier) for tier in tiers if allowed and allowed[0] < tier < allowed[-1]}
        return frozenset(found)

    def _forbidden_tiers(self, graph: Graph, hosts: Sequence[str]) -> dict[str, set[int]]:
        found: dict[str, set[int]] = {}
        for op, names in self.forbidden.items():
            for layer in layers_of_operator(graph, op):
                found.setdefault(layer, set()).update(hosts.index(name) for name in names)
        return found


NO_CONSTRAINTS = Constraints()
