"""Random problems with random exits, and a simulation of hosts that run them sample by sample: the oracle for means."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from splitnn.cost.cost import Cost, Download, Transfer
from splitnn.cost.estimate import CostTable
from splitnn.graph.exits import Exit, Exits, part_used
from splitnn.graph.graph import Graph, TensorSpec
from splitnn.graph.segments import segments
from tests.planner.random_problems import Problem, random_problem


def random_exit_problem(rng: random.Random, *, layers: int, tiers: int, pinned: bool = False) -> tuple[Problem, Exits]:
    """A problem some of whose tensors, in random order, are exits; now and then one of them needs hardly anything."""
    problem = random_problem(rng, layers=layers, tiers=tiers, pinned=pinned)
    made = list(problem.graph.producer)
    chosen = rng.sample(made, min(len(made), rng.randint(1, 3)))
    graph = problem.graph
    classes = rng.choice((1, 10))
    logits = {tensor: TensorSpec((1, classes), "float32") for tensor in chosen}
    outputs = (*graph.outputs, *(tensor for tensor in chosen if tensor not in graph.outputs))
    graph = replace(graph, tensors={**graph.tensors, **logits}, outputs=outputs)
    problem = replace(problem, graph=graph, pins={n: h for n, h in problem.pins.items() if n in graph.index})
    return problem, random_exits(rng, chosen)


def random_exits(rng: random.Random, tensors: Sequence[str]) -> Exits:
    """Exits that were sure and right at random, some never, some always."""
    sure_rates = [rng.choice((0.0, 0.3, 0.6, 1.0)) for _ in tensors]
    outcomes = [
        ([rng.random() < rate for rate in sure_rates], [rng.random() < 0.8 for _ in tensors])
        for _ in range(rng.randint(1, 12))
    ]
    exits = [
        Exit(f"exit {at}", tensor, threshold=0.5 if at < len(tensors) - 1 else 0.0) for at, tensor in enumerate(tensors)
    ]
    return Exits.counted(exits, outcomes, against="labels", data="made up")


def simulated_ns(graph: Graph, placement: Sequence[int], table: CostTable, exits: Exits) -> float:
    """Mean nanoseconds of a request: every sample is run host by host, segment by segment, until an exit is sure."""
    total = 0
    for leaves, samples in enumerate(exits.left):
        if samples:
            total += samples * simulated(graph, placement, table, exits, leaves).latency_ns
    return total / exits.samples


def simulated(graph: Graph, placement: Sequence[int], table: CostTable, exits: Exits, leaves: int) -> Cost:
    """What a sample costs that leaves at exit number ``leaves``, run host by host, segment by segment."""
    hosts = len(table.round_trip_ns) + 1
    ends, stages = (table.message_ns or (0,) * hosts), (table.stage_ns or (0,) * hosts)
    needed = {layer.name for layer in part_used(graph, exits).layers}
    stays = any(at == 0 and layer.name in needed for layer, at in zip(graph.layers, placement, strict=True))
    handling, compute, trips = [0] * hosts, [0] * hosts, 0
    handling[0] = ends[0] + stays * stages[0]
    transfers: list[Transfer] = []
    decided = 0
    held = tuple(graph.inputs)
    for tier in range(hosts):
        own = {layer.name for layer, at in zip(graph.layers, placement, strict=True) if at == tier}
        todo = segments(graph, exits, held, layers=own, first=decided)
        for step in todo.steps:
            compute[tier] += sum(table.compute_ns[layer.name][tier] for layer in graph.between(step.given, step.wanted))
            if step.exit is not None:
                if decided == leaves:
                    assert step.exit == exits.exits[leaves]
                    back = table.download_ns[step.exit.output][:tier]
                    size = graph.tensors[step.exit.output].size_bytes
                    total = sum(compute) + sum(each.total_ns for each in transfers) + sum(back) + trips + sum(handling)
                    return Cost(
                        latency_ns=total,
                        compute_s=tuple(ns * 1e-9 for ns in compute),
                        transfers=tuple(transfers),
                        download_s=sum(back) * 1e-9,
                        round_trip_s=trips * 1e-9,
                        downloads=tuple(
                            Download(step.exit.output, hop, size, ns * 1e-9) for hop, ns in enumerate(back)
                        ),
                        used_hops=tier,
                        handling_s=tuple(ns * 1e-9 for ns in handling),
                    )
                decided += 1
        handling[tier] += ends[tier]
        handling[tier + 1] += ends[tier + 1] + stages[tier + 1]
        trips += table.round_trip_ns[tier]
        transfers += [table.transfers[tensor][tier] for tensor in todo.frontier]
        held = todo.frontier
    raise AssertionError("no host decided the last exit")
