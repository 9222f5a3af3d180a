"""What does an engineer lose who optimises the wrong thing?

``python -m experiments.objectives --quick --json FILE --plot FILE``. For each model and link: the plan under each
objective, what it takes of everything, and whether that is proven to be the best. Then the loss: a plan made for one
objective, judged by another, against the plan made for that one. And the front of latency against the device's energy.

The server is this machine, measured (layers, one thread). The device is a Raspberry Pi 4, predicted from published
latencies; its energy is modelled from published powers, nothing of it was measured. Prices are examples. Tensors travel
raw or as int8, whose coding counts as free. Fewest bytes alone is the device alone, so ``bytes`` has a deadline here:
half as long again as the quickest plan.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from experiments.prediction import int8_sizes
from splitnn import zoo
from splitnn.cost.energy import energy_prices
from splitnn.cost.machine import describe_machine
from splitnn.cost.network import Topology
from splitnn.cost.power import device_power, radio
from splitnn.cost.presets import preset, preset_profile
from splitnn.cost.profile import Profile
from splitnn.cost.profiler import profile
from splitnn.graph.capture import capture
from splitnn.graph.graph import Graph
from splitnn.planner.choice import Choice, choose
from splitnn.planner.constraints import Constraints
from splitnn.planner.meters import Tariff
from splitnn.planner.objective import OBJECTIVES
from splitnn.planner.pareto import FrontPoint, pareto

QUICK = ("resnet18", "mobilenet_v2", "squeezenet1_1")
FULL = (*QUICK, "alexnet", "googlenet", "efficientnet_b0", "resnet50", "vgg16")
LINKS = ("2Mbps/20ms", "10Mbps/20ms", "50Mbps/20ms")
DEVICE, RADIO = "raspberry-pi-4", "wifi-pixel-2-xl"
TARIFF = Tariff(per_server_s=0.40 / 3600, per_gb=0.09)
CODECS = ("raw", "int8")
SLACK = 1.5


@dataclass(frozen=True, slots=True)
class Case:
    """One model over one link: a plan for each objective, and the front."""

    model: str
    link: str
    layers: int
    choices: Mapping[str, Choice]  # by objective
    front: Sequence[FrontPoint]


def main() -> None:
    parser = argparse.ArgumentParser(description="What optimising the wrong objective costs")
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK)} models instead of {len(FULL)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the fronts there, as PNG or SVG")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases: list[Case] = []
    for name in QUICK if arguments.quick else FULL:
        model = capture(*zoo.resolve(name))
        server = profile(model, host="cloud", budget_s=2.0 if arguments.quick else 8.0)
        print(f"{name}: {len(model.graph)} layers, {server.whole.cpu_s * 1e3:.1f} ms here", file=sys.stderr, flush=True)
        cases.extend(solve(name, model.graph, server, link) for link in LINKS)
    for case in cases:
        print_case(case)
    losses = loss_matrix(cases)
    print_losses(losses)
    if arguments.plot:
        plot(cases, arguments.plot)
    if arguments.json:
        arguments.json.write_text(json.dumps(to_json(cases, losses), indent=1) + "\n")


def solve(name: str, graph: Graph, server: Profile, link: str) -> Case:
    """All plans of one model over one link."""
    server = replace(server, codecs=int8_sizes(graph))
    device = preset_profile(preset(DEVICE), graph, model=server.model, reference=server)
    profiles = {"device": replace(device, codecs=int8_sizes(graph)), "cloud": server}
    topology = Topology.chain(["device", "cloud"], [link])
    prices = energy_prices(device_power(DEVICE), radio(RADIO), up=topology.up[0], down=topology.down[0])
    choices: dict[str, Choice] = {}
    for objective in OBJECTIVES.values():
        deadline_s = SLACK * choices["latency"].value if objective.name == "bytes" else None
        choices[objective.name] = choose(
            graph,
            profiles,
            topology,
            objective=objective,
            constraints=Constraints(deadline_s=deadline_s),
            codecs=CODECS,
            mode="fast",
            energy=prices,
            tariff=TARIFF,
        )
    front = pareto(graph, profiles, topology, energy=prices, codecs=CODECS, mode="fast")
    return Case(name, link, len(graph), choices, front)


def worth(choice: Choice, objective: str) -> float:
    """What a plan, whatever it was made for, is worth to an objective; less is better."""
    if objective == "throughput":
        return 1 / choice.plan.predicted.throughput_rps
    return next(amount for quantity, amount in choice.amounts.items() if quantity == objective)


def loss_matrix(cases: Sequence[Case]) -> dict[str, dict[str, dict[str, float]]]:
    """Of plans made for one objective, judged by another: how much worse than that one's own, median and worst.

    ``bytes`` is left out as a judge: its plans keep a deadline that the others' may not keep.
    """
    losses: dict[str, dict[str, dict[str, float]]] = {}
    for made_for in OBJECTIVES:
        losses[made_for] = {}
        for judge in OBJECTIVES:
            if judge == "bytes":
                continue
            found = []
            for case in cases:
                best, mine = worth(case.choices[judge], judge), worth(case.choices[made_for], judge)
                found.append(mine / best - 1 if best > 0 else (0.0 if mine == 0 else math.inf))
            finite = [each for each in found if math.isfinite(each)]
            losses[made_for][judge] = {
                "median": median(found),
                "worst": max(finite, default=0.0),
                "from_nothing": sum(not math.isfinite(each) for each in found),
            }
    return losses


def print_case(case: Case) -> None:
    print(f"\n{case.model}, {case.layers} layers, {case.link}; front of {len(case.front)} plans")
    print(f"  {'objective':11}{'on device':>10}{'ms':>9}{'J':>9}{'KB':>9}{'1/s':>8}{'per 10^6':>10}  proven")
    for name, choice in case.choices.items():
        amounts, plan = choice.amounts, choice.plan
        print(
            f"  {name:11}{plan.tiers.count(0):>10}{amounts['latency'] * 1e3:>9.1f}{amounts['energy']:>9.3f}"
            f"{amounts['bytes'] / 1e3:>9.1f}{plan.predicted.throughput_rps:>8.1f}{amounts['cost'] * 1e6:>10.2f}  "
            + ("yes" if choice.is_optimal else f"gap {choice.gap:.1%}")
        )


def print_losses(losses: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    judges = list(losses["latency"])
    print("\nhow much worse by another measure, median (worst) over models and links; * some where the best is nothing")
    print(f"  {'made for':11}" + "".join(f"{judge:>20}" for judge in judges))
    for made_for, row in losses.items():
        cells = []
        for judge in judges:
            middle = f"{row[judge]['median']:+.0%}" if math.isfinite(row[judge]["median"]) else "*"
            cells.append(f"{middle} ({row[judge]['worst']:+.0%}){'*' if row[judge]['from_nothing'] else ''}")
        print(f"  {made_for:11}" + "".join(f"{cell:>20}" for cell in cells))


def plot(cases: Sequence[Case], path: Path) -> None:
    """Latency against energy: the front of each model, one line a link, with the plans of all objectives as dots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(case.model for case in cases))
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.6), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for case in (case for case in cases if case.model == name):
            points = [(point.first * 1e3, point.second) for point in case.front]
            (line,) = axis.plot(*zip(*points, strict=True), marker="o", label=case.link)
            others = [(each.amounts["latency"] * 1e3, each.amounts["energy"]) for each in case.choices.values()]
            axis.scatter(*zip(*others, strict=True), marker="x", color=line.get_color(), alpha=0.6)
        axis.set_title(name)
        axis.set_xlabel("latency, ms (predicted)")
    axes[0][0].set_ylabel("device energy, J (modelled)")
    axes[0][0].legend(title="front; x: other objectives", fontsize=8, title_fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def to_json(cases: Sequence[Case], losses: Mapping[str, Any]) -> dict[str, Any]:
    """Everything for programs; an infinite median is null."""
    return {
        "machine": describe_machine(),
        "device": f"{DEVICE}, predicted; {RADIO}; energy modelled",
        "headline": {
            "plans": sum(len(case.choices) for case in cases),
            "unproven": sum(not each.is_optimal for case in cases for each in case.choices.values()),
            "latency_plan_wastes_energy_worst": losses["latency"]["energy"]["worst"],
            "latency_plan_loses_throughput_worst": losses["latency"]["throughput"]["worst"],
            "energy_plan_loses_latency_worst": losses["energy"]["latency"]["worst"],
            "longest_front": max(len(case.front) for case in cases),
        },
        "losses": {
            made_for: {
                judge: {key: value if math.isfinite(value) else None for key, value in found.items()}
                for judge, found in row.items()
            }
            for made_for, row in losses.items()
        },
        "cases": [
            {
                "model": case.model,
                "link": case.link,
                "plans": {
                    name: {
                        "line": str(choice.plan),
                        "value": choice.value,
                        "bound": choice.bound,
                        "is_optimal": choice.is_optimal,
                        "amounts": dict(choice.amounts),
                        "throughput_rps": choice.plan.predicted.throughput_rps,
                        "peak_bytes": choice.peak_bytes,
                    }
                    for name, choice in case.choices.items()
                },
                "front": [[point.first, point.second, str(point.plan)] for point in case.front],
            }
            for case in cases
        ],
    }


if __name__ == "__main__":
    main()
