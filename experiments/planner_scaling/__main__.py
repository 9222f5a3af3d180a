"""How long does the exact plan take, from 20 to 10,000 layers, and does anybody else find it sooner?

``python -m experiments.planner_scaling --quick --json FILE``. CPU seconds of one thread, medians of interleaved
rounds. Ours and the rivals start from the same table of costs and end with the value of the best cut; a whole ``plan``
(tabulating, cutting, pricing) and a whole envelope are timed beside them. Along the way every value is compared: the
cut with each exact rival and, on small graphs, with all placements; the envelope with planning at single bandwidths.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from experiments.planner_scaling.graphs import FAMILIES, Family, synthetic_graph, synthetic_profiles
from experiments.planner_scaling.rivals import EXACT_RIVALS, chain_scan
from splitnn.cost.estimate import price, tabulate
from splitnn.cost.network import Link, Topology
from splitnn.cost.profile import Profile
from splitnn.graph.graph import Graph
from splitnn.planner.envelope import Envelope, compute_envelope
from splitnn.planner.min_cut import plan
from splitnn.planner.pins import tier_ranges
from splitnn.planner.search import cheapest
from splitnn.planner.terms import terms_of

CODECS = ("raw", "int8")
HOSTS = {"device": 8.0, "cloud": 1.0}  # times slower than the fastest
LINKS = ("2Mbps/20ms", "60Mbps/20ms", "1Gbps/2ms")
HEADLINE_LAYERS = 1000
LARGEST_FOR_NETWORKX = 1000  # beyond, one cut takes it seconds
LARGEST_ENVELOPE = 3000
BANDWIDTHS = 10  # at which each envelope is compared with planning


@dataclass(frozen=True, slots=True)
class Row:
    """One graph; CPU seconds, the mean over the links. Rivals that were left out are absent."""

    family: Family
    layers: int
    plan_s: float  # of a graph that was planned before
    first_plan_s: float
    cut_s: float
    rivals_s: dict[str, float]
    chain_scan_s: float
    chain_scan_loss: float  # how much slower its best plan is than the best one, at worst
    envelope_s: float | None
    pieces: int | None
    mismatches: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of the exact plan against its rivals")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, rounds and checks, about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    sizes = (20, 200, 1000) if arguments.quick else (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
    rounds = 3 if arguments.quick else 7
    gc.collect()
    gc.freeze()  # what was imported needs no visits while we measure
    rows = []
    columns = "".join(
        f"{name:>10}" for name in ("plan", "first", "cut", *EXACT_RIVALS, "scan", "scan loss", "envelope")
    )
    print(f"{'family':10}{'layers':>7}{columns} pieces   (ms of CPU)")
    for layers, family in itertools.product(sizes, FAMILIES):
        rows.append(measure(rng, family, layers, rounds=rounds))
        print_row(rows[-1])
    trials = 300 if arguments.quick else 10_000
    wrong = sum(differs_from_brute_force(rng) for _ in range(trials))
    summary = headline(rows, decision_seconds(rng))
    summary["mismatches"] += wrong
    print(f"{wrong} of {trials} small problems differ from trying all placements")
    for key, value in summary.items():
        print(f"{key}: {value:.3g}")
    if arguments.json:
        rows_json = [asdict(row) for row in rows]
        arguments.json.write_text(json.dumps({**summary, "seed": arguments.seed, "rows": rows_json}, indent=1) + "\n")


def measure(rng: random.Random, family: Family, layers: int, *, rounds: int) -> Row:
    """Time everything on one graph and count the values that differ."""
    graph = synthetic_graph(rng, family, layers)
    profiles = synthetic_profiles(rng, graph, HOSTS)
    cuts = [time_cuts(graph, profiles, link, rounds=rounds) for link in LINKS]
    mean_s = {name: statistics.mean(times[name] for _, times in cuts) for name in cuts[0][1]}
    exact = [name for name in mean_s if name != "scan"]
    mismatches = sum(values[name] != values["cut"] for values, _ in cuts for name in exact)
    envelope_s, pieces = None, None
    if layers <= LARGEST_ENVELOPE:
        envelope, envelope_s = time_envelope(graph, profiles, rounds=rounds)
        pieces = len(envelope.pieces())
        mismatches += sum(differs_at_a_bandwidth(rng, envelope, graph, profiles) for _ in range(BANDWIDTHS))
    return Row(
        family=family,
        layers=len(graph),
        plan_s=mean_s["plan"],
        first_plan_s=mean_s["first plan"],
        cut_s=mean_s["cut"],
        rivals_s={name: mean_s[name] for name in exact if name in EXACT_RIVALS},
        chain_scan_s=mean_s["scan"],
        chain_scan_loss=max(values["scan"] / values["cut"] for values, _ in cuts) - 1,
        envelope_s=envelope_s,
        pieces=pieces,
        mismatches=mismatches,
    )


def time_cuts(
    graph: Graph, profiles: Mapping[str, Profile], link: str, *, rounds: int
) -> tuple[dict[str, int], dict[str, float]]:
    """What each way finds (nanoseconds) and its median CPU seconds, the ways taking turns.

    All but ``plan`` meet a graph whose structure nobody has looked at yet.
    """
    topology = Topology.chain(list(HOSTS), [link])
    table = tabulate(graph, profiles, topology, codecs=CODECS)
    tiers = tier_ranges(graph, {}, list(HOSTS))
    ways: dict[str, Callable[[Graph], int]] = {
        "plan": lambda _: plan(graph, profiles, topology, codecs=CODECS).predicted.latency_ns,
        "first plan": lambda unseen: plan(unseen, profiles, topology, codecs=CODECS).predicted.latency_ns,
        "cut": lambda unseen: cheapest(terms_of(unseen, table, tiers)).latency_ns,
        "scan": lambda unseen: chain_scan(terms_of(unseen, table, tiers)),
    }
    for name, rival in EXACT_RIVALS.items():
        if name != "networkx" or len(graph) <= LARGEST_FOR_NETWORKX * 1.05:
            ways[name] = lambda unseen, rival=rival: rival(terms_of(unseen, table, tiers))  # type: ignore[misc]
    values: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            unseen = replace(graph)
            gc.collect()  # no way pays for another's garbage
            began = time.process_time()
            values[name] = way(unseen)
            seconds[name].append(time.process_time() - began)
    return values, {name: statistics.median(times) for name, times in seconds.items()}


def time_envelope(graph: Graph, profiles: Mapping[str, Profile], *, rounds: int) -> tuple[Envelope, float]:
    """All bandwidths at once, and the median CPU seconds that takes."""
    seconds = []
    for _ in range(rounds):
        gc.collect()
        began = time.process_time()
        envelope = compute_envelope(graph, profiles, Topology.chain(list(HOSTS), [LINKS[0]]), codecs=CODECS)
        seconds.append(time.process_time() - began)
    return envelope, statistics.median(seconds)


def differs_at_a_bandwidth(
    rng: random.Random, envelope: Envelope, graph: Graph, profiles: Mapping[str, Profile]
) -> bool:
    """Whether planning at a random bandwidth finds less than the envelope says, beyond the rounding to nanoseconds."""
    bandwidth_bps = 10 ** rng.uniform(4, 10)
    topology = Topology.chain(list(HOSTS), [LINKS[0]])
    up = Link(bandwidth_bps, topology.up[0].latency_s)
    single = plan(graph, profiles, replace(topology, up=(up,)), codecs=CODECS).predicted
    found = envelope.predict(bandwidth_bps).predicted
    return not 0 <= found.latency_ns - single.latency_ns <= len(found.transfers) + len(single.transfers)


def differs_from_brute_force(rng: random.Random) -> bool:
    """Whether some placement of a small random graph on two or three hosts is better, or none is as good."""
    hosts = ["device", "edge", "cloud"][: rng.choice((2, 3))]
    graph = synthetic_graph(rng, "random", rng.randint(1, 7))
    profiles = synthetic_profiles(rng, graph, {host: rng.uniform(1, 8) for host in hosts})
    links = [f"{10 ** rng.uniform(5, 10):.0f}bps/{rng.choice((0, 1, 20))}ms" for _ in hosts[1:]]
    topology = Topology.chain(hosts, links)
    table = tabulate(graph, profiles, topology, codecs=CODECS)
    names = list(graph.index)
    best_ns = None
    for tiers in itertools.product(range(len(hosts)), repeat=len(names)):
        placement = dict(zip(names, tiers, strict=True))
        if all(
            placement[graph.producer[t]] <= placement[y.name]
            for y in graph.layers
            for t in y.inputs
            if t in graph.producer
        ):
            latency_ns = price(graph, placement, table).latency_ns
            best_ns = latency_ns if best_ns is None else min(best_ns, latency_ns)
    return plan(graph, profiles, topology, codecs=CODECS).predicted.latency_ns != best_ns


def decision_seconds(rng: random.Random) -> float:
    """Median wall time of one look-up."""
    graph = synthetic_graph(rng, "residual", HEADLINE_LAYERS)
    profiles = synthetic_profiles(rng, graph, HOSTS)
    envelope = compute_envelope(graph, profiles, Topology.chain(list(HOSTS), [LINKS[0]]), codecs=CODECS)
    seconds = []
    for _ in range(10_000):
        bandwidth_bps = 10 ** rng.uniform(4, 10)
        began = time.perf_counter()
        envelope.at(bandwidth_bps)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def headline(rows: Sequence[Row], decision_s: float) -> dict[str, float]:
    """The numbers to remember, at 1,000 layers: medians over the families, and the worst family where it says so."""
    at_headline = [row for row in rows if HEADLINE_LAYERS <= row.layers < 1.1 * HEADLINE_LAYERS]
    ratios = [min(row.rivals_s.values()) / row.cut_s for row in at_headline]
    envelopes = [row.envelope_s for row in at_headline if row.envelope_s is not None]
    return {
        "plan_1000_layers_s": statistics.median(row.plan_s for row in at_headline),
        "plan_1000_layers_worst_s": max(row.plan_s for row in at_headline),
        "first_plan_1000_layers_s": statistics.median(row.first_plan_s for row in at_headline),
        "envelope_1000_layers_s": statistics.median(envelopes),
        "envelope_1000_layers_worst_s": max(envelopes),
        "decision_s": decision_s,
        "best_rival_ratio": statistics.median(ratios),
        "best_rival_worst_ratio": min(ratios),
        "mismatches": sum(row.mismatches for row in rows),
    }


def print_row(row: Row) -> None:
    times = [
        row.plan_s,
        row.first_plan_s,
        row.cut_s,
        *(row.rivals_s.get(name) for name in EXACT_RIVALS),
        row.chain_scan_s,
    ]
    cells = "".join(f"{'-' if t is None else format(t * 1e3, '.2f'):>10}" for t in times)
    envelope = "-" if row.envelope_s is None else f"{row.envelope_s * 1e3:.1f}"
    print(f"{row.family:10}{row.layers:>7}{cells}{row.chain_scan_loss:>10.1%}{envelope:>10}{row.pieces or '-':>7}")


if __name__ == "__main__":
    main()
