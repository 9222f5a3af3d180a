"""What a sweep says: a row for each model, link and way, each request, and one table for a person."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.bandwidth_sweep.cells import Cell, Measured
from experiments.bandwidth_sweep.figures import notes_of, overhead_s, why_no_choice
from experiments.bandwidth_sweep.ways import BASELINES

_ABOUT = ("commit", "processor", "link_method", "hosts_method", "device_share", "server_share", "content")
_PARTS = ("head_s", "encode_s", "network_s", "decode_s", "tail_s", "local_tail_s", "queue_s", "cloud_queue_s")


def rows_of(cells: Iterable[Cell], about: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row for each model, link and way, those that were too slow to be measured included (without figures)."""
    return [_row(cell, way) | dict(about) | dict(cell.about) for cell in cells for way in cell.ways]


def requests_of(cells: Iterable[Cell], about: Mapping[str, str]) -> list[dict[str, Any]]:
    """One row for each request; ``degraded`` and ``failed`` say why one did not go its way."""
    return [
        {"model": cell.model, **_link(cell), "roles": "; ".join(way.roles), "plan_id": way.plan.id}
        | request
        | dict(about)
        | dict(cell.about)
        for cell in cells
        for way in cell.ways
        for request in (*way.requests, *way.degraded, *({"failed": failure} for failure in way.failures))
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All keys of any row are columns, in the order of their first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def summary_lines(cells: Sequence[Cell], figures: Mapping[str, float | None], about: Mapping[str, str]) -> list[str]:
    """Where and how it was measured, one line for each model and link, then the headline figures."""
    measured = [dict(cell.about) for cell in cells] or [{}]
    lines = [f"{name}: {', '.join(values)}" for name in _ABOUT if (values := _values([*measured, about], name))]
    lines += [
        "",
        f"{'model':<19} {'link':<15} {'agent':>8} {'predicted':>9} {'oracle':>8} {'regret':>7} "
        f"{'device':>8} {'raw':>8} {'jpeg':>8} {'neuro':>8} {'n+codec':>8} {'static':>8} {'cuts':>8}  "
        "what the agent chose",
    ]
    for cell in cells:
        chosen, oracle = cell.chosen, cell.oracle
        if chosen is None or oracle is None:
            lines.append(f"{cell.model:<19} {cell.shape!s:<15} no figure of the agent's choice: {why_no_choice(cell)}")
            continue
        others = " ".join(_ms(cell.find(role)) for role in BASELINES)
        lines.append(
            f"{cell.model:<19} {cell.shape!s:<15} {_ms(chosen)} {chosen.number('predicted_s') * 1e3:9.0f} "
            f"{_ms(oracle)} {chosen.p50_s / oracle.p50_s - 1:7.1%} {others} {_cuts(cell):>8}  "
            + choice_in_words(chosen)
            + ("" if cell.is_calibrated else "  (link off its rate)")
        )
    width = max(map(len, figures))
    lines += ["", "times in ms, medians of the requests; cuts: candidates measured / all", ""]
    notes = notes_of(cells)
    lines += [f"{name}: {notes[name]}" for name in ("oracle", "overhead_share", "links")] + [""]
    lines += [f"{name:<{width}}  {'-' if figure is None else f'{figure:.4g}'}" for name, figure in figures.items()]
    return lines


def choice_in_words(way: Measured) -> str:
    """``device``, ``cloud (jpeg90)``, or where it cuts: ``45 of 107 layers, int8 20.1 kB``."""
    on_device = sum(tier == 0 for tier in way.plan.tiers)
    if way.plan.is_local:
        return "device"
    codecs = "+".join(sorted({transfer.codec for transfer in way.plan.predicted.transfers}))
    if not on_device:
        return f"cloud ({codecs})"
    return f"{on_device} of {len(way.plan.tiers)} layers, {codecs} {way.plan.predicted.sent_bytes / 1e3:.1f} kB"


def _values(abouts: Iterable[Mapping[str, str]], name: str) -> list[str]:
    return list(dict.fromkeys(about[name] for about in abouts if name in about))


def _row(cell: Cell, way: Measured) -> dict[str, Any]:
    cost = way.plan.predicted
    row: dict[str, Any] = {
        "model": cell.model,
        **_link(cell),
        "load": f"{cell.load:.2f}",
        "roles": "; ".join(way.roles),
        "plan_id": way.plan.id,
        "layers_on_device": sum(tier == 0 for tier in way.plan.tiers),
        "crossing": len(cost.transfers),
        "codecs": "+".join(sorted({transfer.codec for transfer in cost.transfers})),
        "requests": len(way.requests),
        "degraded": len(way.degraded),
        "failed": len(way.failures),
        "uncorrected_s": cost.latency_s,
        "oracle": str(cell.survey) if cell.survey else "",
    }
    if not way.requests:
        return row
    best, chosen = cell.oracle, cell.chosen
    row |= {
        "p50_s": way.p50_s,
        "p95_s": way.p95_s,
        "least_s": min(way.latencies_s),
        "seen_p50_s": way.seen_s,
        "predicted_s": way.number("predicted_s"),
        **{part: way.number(part) for part in _PARTS},
        **{f"predicted_{part}_s": way.number(f"predicted_{part}_s") for part in ("head", "transfer", "tail")},
        "choose_s": way.number("choose_s"),
        "wire_limit_s": way.wire_limit_s(cell.shape),
        "overhead_s": overhead_s(cell, way),
        "sent_bytes": way.number("sent_bytes"),
        "received_bytes": way.number("received_bytes"),
        "regret": way.p50_s / best.p50_s - 1 if best else None,
        "agent_speedup": way.p50_s / chosen.p50_s if chosen else None,
        "same_label": statistics.mean(request["same_label"] for request in way.requests),
        "cosine": min(request["cosine"] for request in way.requests),
    }
    return row


def _link(cell: Cell) -> dict[str, Any]:
    shape = cell.shape
    return {
        "up_bps": shape.up_bps,
        "down_bps": shape.down_bps,
        "rtt_s": shape.rtt_s,
        "link_within_3_percent": cell.is_calibrated,
    }


def _cuts(cell: Cell) -> str:
    return f"{cell.survey.measured}/{cell.survey.candidates}" if cell.survey else "-"


def _ms(way: Measured | None) -> str:
    return f"{'-':>8}" if way is None else f"{way.p50_s * 1e3:8.0f}"
