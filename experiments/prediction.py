"""How well does a regression predict the profile of a model that was never run here, and does the plan suffer?

``python -m experiments.prediction --quick --json FILE``. Profiles some models of the zoo on this machine, holds each
out in turn and predicts it from the others, in three ways:

    features    ours: FLOPs, bytes moved and weight bytes, not negative, a regression for each kind of layer
    flops       as Neurosurgeon has it: for each kind of layer one quantity, FLOPs (bytes where there are none)
    throughput  FLOPs over the host's mean rate

Three errors, relative to the model's measured time: of the whole, of the layers (the sum of their absolute errors), of
the heads (the mean over all cuts). And what counts: how much latency is lost by planning with the prediction, where the
device is this machine made eight times slower and predicted, the cloud this machine and measured, and tensors travel as
int8. With four models, as in the short mode, everything depends on whether the others hold the held-out model's kinds
of layers; its four were chosen so that they do. The measured profile is itself a few per cent off; its own error is
printed beside. Presets have no machine here to be compared with: their errors on published figures held out of their
fit are listed last.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any, get_args

import torch

from splitnn import zoo
from splitnn.cost.estimate import estimate
from splitnn.cost.machine import describe_machine
from splitnn.cost.network import Topology
from splitnn.cost.predict import HeldOut, Method, Sample, fit, held_out_error
from splitnn.cost.presets import preset, presets
from splitnn.cost.profile import CodecCost, Profile
from splitnn.cost.profiler import profile
from splitnn.graph.capture import capture
from splitnn.graph.graph import Graph
from splitnn.planner.min_cut import plan

QUICK = ("resnet18", "squeezenet1_1", "mobilenet_v2", "shufflenet_v2_x1_0")  # each kind of layer in two or more
FULL = (
    *QUICK,
    "alexnet",
    "googlenet",
    "mnasnet1_0",
    "efficientnet_b0",
    "mobilenet_v3_large",
    "regnet_y_400mf",
    "resnet50",
    "densenet121",
    "vgg16",
)
METHODS: tuple[Method, ...] = get_args(Method)
SLOWDOWN = 8.0
LINKS = tuple(f"{mbps:g}Mbps/20ms" for mbps in (0.5, 1, 2, 4, 8, 16, 32, 64, 128))


def main() -> None:
    parser = argparse.ArgumentParser(description="How well a profile is predicted without running the model")
    parser.add_argument("--quick", action="store_true", help=f"{len(QUICK)} models instead of {len(FULL)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    names = QUICK if arguments.quick else FULL
    samples = [profiled(name, i, len(names), budget_s=2.0 if arguments.quick else 8.0) for i, name in enumerate(names)]
    errors = {method: held_out_error(samples, method=method) for method in METHODS}
    lost = {method: [plan_loss(samples, i, method) for i in range(len(samples))] for method in METHODS}
    print_models(names, samples, errors)
    headline = summary(errors, lost)
    print_summary(headline)
    by_preset = print_presets()
    if arguments.json:
        result = {
            "machine": describe_machine() | {"load": " ".join(f"{load:.1f}" for load in os.getloadavg())},
            "models": list(names),
            "measured_s": [sample[1].whole.cpu_s for sample in samples],
            "profile_error": [sample[1].error for sample in samples],
            "held_out": {method: [each._asdict() for each in found] for method, found in errors.items()},
            "plan_loss": lost,
            "presets": by_preset,
            "headline": headline,
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def profiled(name: str, position: int, count: int, *, budget_s: float) -> Sample:
    """One model of the zoo and its profile here, with a line of progress."""
    started = time.monotonic()
    model = capture(*zoo.resolve(name))
    found = profile(model, host="here", budget_s=budget_s)
    print(
        f"{position + 1}/{count} {name}: {len(model.graph)} layers, {found.whole.cpu_s * 1e3:.1f} ms, "
        f"profiled in {time.monotonic() - started:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return model.graph, found


def plan_loss(samples: Sequence[Sample], held: int, method: Method) -> float:
    """Mean fraction of latency, over the links, that the plan by the prediction loses against the plan by the truth."""
    graph, here = samples[held]
    others = [*samples[:held], *samples[held + 1 :]]
    guess = fit(others, method=method).predict(graph, model=here.model)
    cloud = replace(here, host="cloud", codecs=int8_sizes(graph))
    truth = cloud.scaled(SLOWDOWN, "device")
    belief = replace(guess, host="device", codecs=int8_sizes(graph)).scaled(SLOWDOWN)
    losses = []
    for link in LINKS:
        topology = Topology.chain(["device", "cloud"], [link])
        latencies_s = []
        for device in (belief, truth):
            placement = plan(graph, {"device": device, "cloud": cloud}, topology, codecs=("raw", "int8")).placement
            cost = estimate(graph, placement, {"device": truth, "cloud": cloud}, topology, codecs=("raw", "int8"))
            latencies_s.append(cost.latency_s)
        losses.append(latencies_s[0] / latencies_s[1] - 1)
    return mean(losses)


def int8_sizes(graph: Graph) -> Mapping[str, Mapping[str, CodecCost]]:
    """int8 as the planner sees it, at no time to encode: this experiment is about layers."""
    return {
        name: {"int8": CodecCost(spec.size_bytes // 4, 0.0, 0.0)}
        for name, spec in graph.tensors.items()
        if spec.dtype == "float32"
    }


def summary(
    errors: Mapping[Method, Sequence[HeldOut]], lost: Mapping[Method, Sequence[float]]
) -> dict[str, dict[str, float]]:
    """By method the medians over models, and the worst whole."""
    return {
        method: {
            "whole_median": median(abs(each.whole) for each in found),
            "whole_worst": max(abs(each.whole) for each in found),
            "layers_median": median(each.layers for each in found),
            "heads_median": median(each.heads for each in found),
            "plan_loss_mean": mean(lost[method]),
            "plan_loss_worst": max(lost[method]),
        }
        for method, found in errors.items()
    }


def print_models(
    names: Sequence[str], samples: Sequence[tuple[Graph, Profile]], errors: Mapping[Method, Sequence[HeldOut]]
) -> None:
    print(f"{'model held out':20} {'measured':>9} {'± heads':>8}   whole model predicted by")
    print(f"{'':39}   " + " ".join(f"{method:>11}" for method in METHODS))
    for i, (name, (_, found)) in enumerate(zip(names, samples, strict=True)):
        own = "" if found.error is None else f"{found.error:.1%}"
        wholes = " ".join(f"{errors[method][i].whole:>+11.0%}" for method in METHODS)
        print(f"{name:20} {found.whole.cpu_s * 1e3:6.1f} ms {own:>8}   {wholes}")


def print_summary(headline: Mapping[str, Mapping[str, float]]) -> None:
    print(
        f"\n{'held out':12} {'whole, median (worst)':>22} {'layers':>8} {'heads':>8} {'plan loses, mean (worst)':>26}"
    )
    for method, found in headline.items():
        whole = f"{found['whole_median']:.1%} ({found['whole_worst']:.0%})"
        loss = f"{found['plan_loss_mean']:.1%} ({found['plan_loss_worst']:.0%})"
        print(f"{method:12} {whole:>22} {found['layers_median']:8.1%} {found['heads_median']:8.1%} {loss:>26}")


def print_presets() -> dict[str, dict[str, Any]]:
    """Errors of the presets on published figures that their fit did not see."""
    print(f"\n{'preset (ncnn)':32} {'figures':>7} {'median':>7}   worst")
    found = {}
    for name in presets():
        held_out = preset(name).held_out()
        worst = max(held_out, key=lambda model: abs(held_out[model]))
        middle = median(abs(error) for error in held_out.values())
        print(f"{name:32} {len(held_out):>7} {middle:7.0%}   {worst} {held_out[worst]:+.0%}")
        found[name] = {"median": middle, "held_out": held_out}
    return found


if __name__ == "__main__":
    main()
