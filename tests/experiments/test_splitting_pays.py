"""Where a cut wins, against every prefix cut tried by hand."""

from __future__ import annotations

import pytest

from experiments.splitting_pays import LOW_BPS, cell, row_of, topology
from splitnn.cost.estimate import price, tabulate
from splitnn.cost.profile import Profile, Timing
from splitnn.graph.graph import Graph, Layer, TensorSpec

LAYERS = 4


def waist(narrowest: int) -> Graph:
    """A wide input, four layers, and a tensor of ``narrowest`` values in the middle."""
    sizes = (50_000, 20_000, narrowest, 20_000, 10)
    tensors = {f"t{i}": TensorSpec((1, size), "float32") for i, size in enumerate(sizes)}
    layers = tuple(Layer(f"l{i}", "op", (f"t{i}",), (f"t{i + 1}",)) for i in range(LAYERS))
    return Graph(layers, tensors, ("t0",), (f"t{LAYERS}",))


def measured(graph: Graph) -> Profile:
    return Profile("0" * 64, "cloud", {y.name: Timing(0.01, 0.01) for y in graph.layers}, Timing(0.04, 0.04))


def test_the_best_gain_is_that_of_the_best_prefix_cut_over_the_better_end() -> None:
    graph = waist(100)
    row = row_of("m", graph, measured(graph), content="tensor", inside="exact", slower=5, round_trip_s=0.01)
    assert row.best_bps is not None
    assert row.low_bps is not None
    assert row.high_bps is not None
    assert LOW_BPS <= row.low_bps <= row.best_bps <= row.high_bps
    profiles = {"device": measured(graph).scaled(5, host="device"), "cloud": measured(graph)}
    table = tabulate(graph, profiles, topology(row.best_bps, 0.01), codecs=("raw",))
    seconds = [
        price(graph, {f"l{i}": int(i >= cut) for i in range(LAYERS)}, table).latency_s for cut in range(LAYERS + 1)
    ]
    assert row.best_gain == pytest.approx(min(seconds[0], seconds[-1]) / min(seconds) - 1, rel=1e-6)
    assert cell(row).endswith(f"+{row.best_gain:.0%}")


def test_without_a_waist_no_cut_wins_and_the_cell_says_where_the_ends_meet() -> None:
    graph = waist(200_000)
    row = row_of("m", graph, measured(graph), content="tensor", inside="exact", slower=1.01, round_trip_s=0.01)
    assert row.low_bps is None
    assert cell(row) == "no cut (never)"
