"""The headline figures of a sweep, and what they rest on."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from experiments.bandwidth_sweep.cells import Cell, Measured, percentile
from experiments.bandwidth_sweep.ways import (
    AGENT,
    BASELINES,
    CANDIDATE,
    CLOUD_RAW,
    COMPRESSED,
    DEVICE,
    NEUROSURGEON,
    NEUROSURGEON_CODED,
    PLANNED,
    STATIC,
)

_LEAST_S = 0.02  # predictions count for latencies above it,
_SLOW_BPS = 20e6  # and the overhead on links up to this
ENDS = (DEVICE, COMPRESSED)
"""What nobody should be slower than: everything here, and everything there with the input as a user would send it."""

_SPEEDUPS = {
    "device": DEVICE, "cloud": COMPRESSED, "cloud_raw": CLOUD_RAW, "neurosurgeon": NEUROSURGEON,
    "neurosurgeon_with_codecs": NEUROSURGEON_CODED, "static": STATIC,
}  # fmt: skip


def overhead_s(cell: Cell, way: Measured) -> float:
    """Measured minus head, wire limit and tail: coding, queues, Python, and what TCP and the link lost."""
    computed_s = sum(way.number(part) for part in ("head_s", "tail_s", "local_tail_s"))
    return way.p50_s - computed_s - way.wire_limit_s(cell.shape)


def headline(cells: Sequence[Cell]) -> dict[str, float | None]:
    """The figures that steer the project. None where nothing was measured that they rest on.

    Of the plan that the agent follows by itself; ``planned_`` figures are of the plan that the planner makes from the
    profile and the stated link alone. Loss and regret are fractions: 0.02 is 2 % slower. Cells where every request of
    the agent's own way failed or was degraded have no such figures: ``cells_without_choice`` counts them. Cells over
    links off their rates, ``cells_off_target``, are left out of all but the counts where there are others.
    """
    judged = _judged(cells)
    chosen = [(cell, way) for cell in judged if (way := cell.chosen)]
    regrets = _regrets(judged, AGENT)
    planned = _regrets(judged, PLANNED)
    crossed = [loss for cell in judged if (loss := cross_fitted_regret(cell)) is not None]
    slow, _ = _overhead_cells(judged)
    overheads = [overhead_s(cell, way) / way.p50_s for cell, way in slow]
    without_coding = [
        (overhead_s(cell, way) - way.number("encode_s") - way.number("decode_s")) / way.p50_s for cell, way in slow
    ]
    figures: dict[str, float | None] = {
        "regret_mean": _or_none(statistics.mean, regrets),
        "regret_worst": _or_none(max, regrets),
        "regret_cross_fitted_mean": _or_none(statistics.mean, crossed),
        "planned_regret_mean": _or_none(statistics.mean, planned),
        "planned_regret_worst": _or_none(max, planned),
    }
    for name, errors in (
        ("prediction_error", _errors(judged, lambda way: way.number("predicted_s"))),
        ("uncorrected_prediction_error", _errors(judged, lambda way: way.plan.predicted.latency_s)),
    ):
        figures[f"{name}_median"] = _or_none(statistics.median, errors)
        figures[f"{name}_p90"] = _or_none(lambda values: percentile(values, 90), errors)
    figures["overhead_share"] = _or_none(statistics.median, overheads)
    figures["overhead_share_worst"] = _or_none(max, overheads)
    figures["overhead_share_without_coding"] = _or_none(statistics.median, without_coding)
    for name, role in _SPEEDUPS.items():
        ratios = [other.p50_s / way.p50_s for cell, way in chosen if (other := cell.find(role))]
        for word, figure in (("min", min), ("median", statistics.median), ("max", max)):
            figures[f"speedup_vs_{name}_{word}"] = _or_none(figure, ratios)
    figures["worst_loss_vs_any_baseline"] = _or_none(max, _losses(chosen, BASELINES))
    figures["worst_loss_vs_both_ends"] = _or_none(max, _losses(chosen, ENDS))
    figures["cells"] = len(cells)
    figures["cells_off_target"] = sum(not cell.is_calibrated for cell in cells)
    figures["cells_without_choice"] = len(without_choice(cells))
    surveys = [cell.survey for cell in cells if cell.survey]
    figures["candidate_cuts"] = sum(survey.candidates for survey in surveys)
    figures["candidate_cuts_measured"] = sum(survey.measured for survey in surveys)
    figures["candidate_cuts_left_out"] = sum(survey.left_out for survey in surveys)
    figures["candidate_cuts_unanswered"] = sum(survey.unanswered for survey in surveys)
    figures["requests"] = sum(len(way.requests) for cell in cells for way in cell.ways)
    figures["requests_degraded"] = sum(len(way.degraded) for cell in cells for way in cell.ways)
    figures["requests_failed"] = sum(len(way.failures) for cell in cells for way in cell.ways)
    return figures


def notes_of(cells: Sequence[Cell]) -> dict[str, Any]:
    """What the headline figures rest on, in words: oracle, overhead, links, and which cells have no choice."""
    return {
        "oracle": oracle_in_words(cells),
        "overhead_share": _overhead_cells(_judged(cells))[1],
        "links": _links_in_words(cells),
        "without_choice": without_choice(cells),
    }


def oracle_in_words(cells: Iterable[Cell]) -> str:
    """What regret is measured against."""
    surveys = [cell.survey for cell in cells if cell.survey]
    cuts, measured = sum(each.candidates for each in surveys), sum(each.measured for each in surveys)
    text = f"the quickest way that was measured in the cell: baselines, and {measured} of {cuts} candidate cuts"
    if left_out := sum(each.left_out for each in surveys):
        factors = ", ".join(f"{factor:g}" for factor in sorted({each.within for each in surveys}))
        text += f"; {left_out} were left out, predicted above {factors} times the quickest measured and predicted"
    if unanswered := sum(each.unanswered for each in surveys):
        text += f"; {unanswered} were not answered"
    return text


def _judged(cells: Sequence[Cell]) -> Sequence[Cell]:
    """The cells over links that kept their rates; where none did, all, since some figures are better than none."""
    return [cell for cell in cells if cell.is_calibrated] or cells


def _links_in_words(cells: Sequence[Cell]) -> str:
    off = sum(not cell.is_calibrated for cell in cells)
    if not off:
        return f"all {len(cells)} cells are over links that kept their rates"
    if off == len(cells):
        return f"all {off} cells are over links off their rates, and the figures are of those, for want of others"
    return f"{off} of {len(cells)} cells are over links off their rates: counted, but in none of the other figures"


def _overhead_cells(cells: Iterable[Cell]) -> tuple[list[tuple[Cell, Measured]], str]:
    """The agent's ways that the overhead is taken from, and which they are: remote ones on slow links, if there are."""
    chosen = [(cell, way) for cell in cells if (way := cell.chosen)]
    slow = [(cell, way) for cell, way in chosen if cell.shape.up_bps <= _SLOW_BPS]
    if remote := [(cell, way) for cell, way in slow if way.number("sent_bytes")]:
        return remote, f"of the {len(remote)} cells up to 20 Mbit/s in which the agent used the cloud"
    if slow:
        return slow, f"of {len(slow)} cells up to 20 Mbit/s, in none of which the agent used the cloud"
    if chosen:
        return chosen, f"of {len(chosen)} cells above 20 Mbit/s: none was slower"
    return [], "none: no cell has a figure of the agent's choice"


def without_choice(cells: Iterable[Cell]) -> list[str]:
    """Which cells have no figure of the agent's own choice, and why."""
    return [f"{cell.model} over {cell.shape}: {why_no_choice(cell)}" for cell in cells if cell.chosen is None]


def cross_fitted_regret(cell: Cell) -> float | None:
    """Regret against the oracle of the other half of the rounds: the least of many noisy medians flatters an oracle."""
    chosen = cell.chosen
    ways = [way for way in cell.ways if len(way.requests) >= 4]
    if chosen is None or chosen not in ways:
        return None
    losses = []
    for half in (0, 1):
        seen = {way.plan.id: statistics.median(way.latencies_s[half::2]) for way in ways}
        unseen = {way.plan.id: statistics.median(way.latencies_s[1 - half :: 2]) for way in ways}
        best = min(seen, key=lambda name: seen[name])
        losses.append(unseen[chosen.plan.id] / unseen[best] - 1)
    return statistics.mean(losses)


def why_no_choice(cell: Cell) -> str:
    """In words."""
    own = [way for way in cell.ways if AGENT in way.roles]
    if not own:
        return "; ".join((*cell.notes, "it answered no request that left the choice to it"))
    failures = [failure for way in own for failure in way.failures]
    degraded = [str(request["degraded"]) for way in own for request in way.degraded]
    reasons = "; ".join(dict.fromkeys((*failures, *degraded)))[:200]
    return f"{len(failures)} requests failed, {len(degraded)} were degraded: {reasons}"


def _regrets(cells: Iterable[Cell], role: str) -> list[float]:
    return [way.p50_s / oracle.p50_s - 1 for cell in cells if (way := cell.find(role)) and (oracle := cell.oracle)]


def _losses(chosen: Iterable[tuple[Cell, Measured]], roles: Iterable[str]) -> list[float]:
    roles = tuple(roles)
    return [way.p50_s / other.p50_s - 1 for cell, way in chosen for role in roles if (other := cell.find(role))]


def _errors(cells: Iterable[Cell], predicted_s: Callable[[Measured], float]) -> list[float]:
    """Relative errors over every way that took longer than 20 ms; a look at a candidate, one request, is no median."""
    return [
        abs(predicted_s(way) - way.p50_s) / way.p50_s
        for cell in cells
        for way in cell.ways
        if way.requests and way.p50_s > _LEAST_S and not (way.roles == (CANDIDATE,) and len(way.requests) == 1)
    ]


def _or_none(figure: Callable[[Sequence[float]], float], values: Sequence[float]) -> float | None:
    return float(figure(values)) if values else None
