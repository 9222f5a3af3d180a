"""All plans of a small problem, each with its whole cost: the oracle for every objective and every budget."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace

from splitnn.cost.cost import Cost
from splitnn.cost.energy import EnergyPrices, energy, energy_prices
from splitnn.cost.estimate import CostTable, codec_options, price
from splitnn.cost.power import DevicePower, Radio
from splitnn.graph.graph import Graph
from tests.planner.random_problems import CODECS, Problem, every_placement


def every_plan(problem: Problem) -> Iterator[tuple[tuple[int, ...], Cost]]:
    """Every placement that obeys the pins with every choice of codecs, by trying all."""
    for tiers, table in every_table(problem):
        yield tiers, price(problem.graph, dict(zip(problem.graph.index, tiers, strict=True)), table)


def every_table(problem: Problem) -> Iterator[tuple[tuple[int, ...], CostTable]]:
    """The same with the costs of what it consists of, the chosen codecs among them."""
    graph, table = problem.graph, problem.table()
    tiers = {host.name: i for i, host in enumerate(problem.topology.hosts)}
    pins = {layer: tiers[host] for layer, host in problem.pins.items()}
    names = [layer.name for layer in graph.layers]
    options = [
        codec_options(graph, hop, profiles=problem.profiles, topology=problem.topology, codecs=CODECS)
        for hop in range(len(tiers) - 1)
    ]
    for tiers_of in every_placement(graph, len(tiers), pins):
        placement = dict(zip(names, tiers_of, strict=True))
        crossing = price(graph, placement, table).transfers
        for chosen in itertools.product(*(options[transfer.hop][transfer.tensor] for transfer in crossing)):
            transfers = dict(table.transfers)
            for choice in chosen:
                hops = list(transfers[choice.tensor])
                hops[choice.hop] = choice
                transfers[choice.tensor] = tuple(hops)
            yield tiers_of, replace(table, transfers=transfers)


def joules(cost: Cost, prices: EnergyPrices) -> float:
    """What the device needs, by the energy model's own evaluation."""
    received = sum(download.size_bytes for download in cost.downloads if download.hop == 0)
    return energy(cost, prices, downloaded_bytes=received).total_j


def random_prices(rng: random.Random, problem: Problem) -> EnergyPrices:
    """A device and a radio; watts so large that rounding to nanojoules does not matter for microseconds."""
    device = DevicePower("d", rng.choice((1e3, 5e3)), rng.choice((0.0, 500.0)), "made up", verified=False)
    radio = Radio("r", rng.choice((0.0, 900.0)), rng.choice((0.0, 1e-6)), 300.0, 0.0, 1000.0, rng.choice((0.0, 1e-6)),
                  "made up", verified=False)  # fmt: skip
    up, down = problem.topology.up[0], problem.topology.down[0]
    return energy_prices(device, radio, up=up, down=down)


def with_weights(rng: random.Random, graph: Graph) -> Graph:
    """The same graph with weights, some of which two layers share."""
    sizes = {f"w{i}": rng.choice((10, 40, 200)) for i in range(len(graph))}
    layers = []
    for layer in graph.layers:
        weights = rng.sample(list(sizes), rng.choice((0, 1, 1, 2)) if len(sizes) > 1 else 0)
        layers.append(replace(layer, weights=tuple(weights)))
    return replace(graph, layers=tuple(layers), weight_bytes=sizes)


def memory_by_hand(graph: Graph, tiers: tuple[int, ...], host: int) -> int:
    """Weights on a host, each once, and the most that is alive in the whole model while one of its layers runs."""
    mine = [position for position, tier in enumerate(tiers) if tier == host]
    weights = {weight for position in mine for weight in graph.layers[position].weights}
    alive = [0]
    for now in mine:
        total = 0
        for tensor, spec in graph.tensors.items():
            made = graph.index[graph.producer[tensor]] if tensor in graph.producer else -1
            later = any(graph.index[reader] >= now for reader in graph.consumers[tensor])
            if made == now or (made < now and (later or tensor in graph.outputs)):
                total += spec.size_bytes
        alive.append(total)
    return sum(graph.weight_bytes[weight] for weight in weights) + max(alive)
