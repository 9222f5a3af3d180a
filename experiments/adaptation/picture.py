"""One picture a trace: the link's rate above, what each way took below, and which plan the agent followed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

from experiments.adaptation.figures import STRETCH_S, stretches
from experiments.adaptation.passes import AGENT, Pass
from experiments.emulation.traces import Trace

_MOST_PLANS = 8  # in the legend


def draw_trace(path: Path, trace: Trace, passes: Sequence[Pass], *, duration_s: float, title: str) -> None:
    """Dots are the agent's requests, coloured by plan; lines are means of five seconds of the fixed plans."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(10, 7.5), sharex=True, gridspec_kw={"height_ratios": [1, 3]}, constrained_layout=True
    )
    times_s, rates = [], []
    for at_s, rate_bps in trace.looped():
        if at_s >= duration_s:
            break
        times_s.append(at_s)
        rates.append(rate_bps / 1e6)
    above.step([*times_s, duration_s], [*rates, rates[-1]], where="post", color="0.3", linewidth=1)
    above.set(ylabel="link, Mbit/s", ylim=(0, None))
    above.set_title(title, fontsize=10)
    for number, way in enumerate(dict.fromkeys(each.way for each in passes if each.way != AGENT)):
        found = [(s.start_s, s.mean_s.get(way, math.nan) * 1e3) for s in stretches(passes, duration_s=duration_s)]
        starts_s, means_ms = zip(*found, strict=True)
        steps = ([*starts_s, starts_s[-1] + STRETCH_S], [*means_ms, means_ms[-1]])
        below.step(*steps, where="post", linestyle="--", linewidth=1.2, color=f"C{number}", label=way)
    answered = [asked for each in passes if each.way == AGENT for asked in each.asked if not asked.lost]
    plans = list(dict.fromkeys(answer.plan for answer in answered))
    for number, plan in enumerate(plans):
        mine = [answer for answer in answered if answer.plan == plan]
        below.scatter(
            [answer.sent_s for answer in mine], [answer.latency_s * 1e3 for answer in mine],
            s=10, color=mpl.colormaps["Dark2"](number % 8), zorder=3,
            label=f"agent: {_shortened(plan)}" if number < _MOST_PLANS else None,
        )  # fmt: skip
    below.set(xlabel="seconds", ylabel="latency, ms", yscale="log")
    for each in (below.yaxis.set_major_formatter, below.yaxis.set_minor_formatter):
        each("{x:g}")
    below.yaxis.set_minor_locator(LogLocator(subs=(1.5, 2.0, 3.0, 5.0, 7.0)))
    figure.legend(fontsize=7, loc="outside lower left", ncols=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _shortened(plan: str, most: int = 70) -> str:
    return plan if len(plan) <= most else plan[: most - 1] + "…"
