"""Which engine and which precision runs a head or a tail fastest, and how far off are its answers?

``python -m experiments.engines --quick --json FILE``. CPU seconds of the whole process on one thread, interleaved
rounds, medians, as ratios to torch's operators in the same rounds. Beside each: the largest difference to torch as a
share of the largest value, and for int8 the share of answers that stay the same on photos that nothing was calibrated
on. ``int8`` is the version that ``splitnn compress --method int8`` makes, the same one in each engine. Engines that are
not installed are left out and named.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import which

import torch
import torch._inductor.config
from torch import nn

from experiments.engines.static_int8 import int8_call
from splitnn.graph.allocator import keep_freed_memory
from splitnn.graph.code import Callee
from splitnn.graph.extract import extract
from splitnn.graph.graft import tensor_values
from splitnn.graph.model import Model
from splitnn.runtime.compiled import ENGINES, difference, installed
from splitnn.runtime.head import head_before
from splitnn.tuning.answers import answer_of
from splitnn.tuning.compress import int8_version
from splitnn.tuning.drops import drop_of
from splitnn.tuning.int8 import int8_weights
from splitnn.zoo.datasets import samples
from splitnn.zoo.reference import resolve
from splitnn.zoo.sources import open_model

MODELS = ("efficientnet_lite0", "resnet18")
QUICK_MODELS = ("efficientnet_lite0",)
INT8 = ("onnxruntime", "openvino")  # that compute in it
CALIBRATION, HELD_OUT = 32, 64
PT2E, STATIC = "pt2e int8", "onnxruntime's own int8"


@dataclass(frozen=True, slots=True)
class Row:
    """One engine on one part of a model."""

    model: str
    part: str
    engine: str
    seconds: float  # CPU, median
    ratio: float  # of torch's seconds in the same rounds, median
    difference: float  # largest, as a share of the largest value
    agreement: float | None = None  # of answers with torch's, on held-out photos
    agreement_low: float | None = None  # of a 95 % interval
    agreement_high: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description="Engines and precisions for heads and tails")
    parser.add_argument("--quick", action="store_true", help="one model, fewer rounds, about two minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rounds = 11 if arguments.quick else 41
    held_out = 32 if arguments.quick else HELD_OUT
    rows: list[Row] = []
    missing: dict[str, str] = {}
    for name in QUICK_MODELS if arguments.quick else MODELS:
        model = open_model(name)
        version = int8_version(model, samples("photos", model, count=CALIBRATION, part="train"))
        for (part, call, example), (_, small, _) in zip(parts_of(model), parts_of(version), strict=True):
            ways, absent = compiled_ways(call, example)
            missing |= absent
            ways |= {"torch int8": small}
            ways |= {f"{one} int8": ENGINES[one].compile(small, example) for one in INT8 if one in ways}
            if part == "whole":
                ways |= int8_ways(name, model, call, missing)
            found = measured(name, part, call, example, ways, rounds=rounds)
            rows += judged(found, model, ways, count=held_out) if part == "whole" else found
    print_table(rows)
    for engine, why in missing.items():
        print(f"left out: {engine} ({why})")
    if arguments.json:
        arguments.json.write_text(json.dumps(report(rows, missing), indent=1))


def parts_of(model: Model) -> list[tuple[str, Callee, list[torch.Tensor]]]:
    """The whole, and head and tail at the middle of its operations, each with inputs."""
    graph = model.graph
    done, half = 0, sum(layer.flops for layer in graph.layers) / 2
    middle = graph.layers[-1]
    for layer in graph.layers:
        done += layer.flops
        if done >= half and len(graph.crossing([y.name for y in graph.layers[: graph.index[layer.name] + 1]])) == 1:
            middle = layer
            break
    head = head_before(model, middle.outputs[:1])
    values = tensor_values(model, head.crossing)
    tensors = [values[tensor] for tensor in head.crossing]
    return [
        ("whole", extract(model, graph.inputs, graph.outputs), list(model.example.values())),
        ("head", head.stage.call, [model.example[tensor] for tensor in head.stage.inputs]),
        ("tail", extract(model, head.crossing, graph.outputs), [v for v in tensors if isinstance(v, torch.Tensor)]),
    ]


def compiled_ways(call: Callee, example: Sequence[torch.Tensor]) -> tuple[dict[str, Callee], dict[str, str]]:
    """The part on every engine that is installed, and in bfloat16; why the others are not there."""
    ways: dict[str, Callee] = {}
    absent: dict[str, str] = {}
    for name in ENGINES:
        try:
            ways[name] = installed(name).compile(call, example)
        except ModuleNotFoundError as error:
            absent[name] = str(error)

    def in_bfloat16(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return tuple(value.float() for value in call(*values))

    return {**ways, "torch bfloat16": in_bfloat16}, absent


def int8_ways(name: str, model: Model, call: Callee, missing: dict[str, str]) -> dict[str, Callee]:
    """The whole model in int8 otherwise: weights only, by ONNX Runtime's quantiser, by PyTorch 2 export."""
    train = samples("photos", model, count=CALIBRATION, part="train")
    feeds = [list(train.batch(row).values()) for row in range(len(train))]
    small = int8_weights(model)
    ways = {"torch int8 weights": extract(small, small.graph.inputs, small.graph.outputs)}
    try:
        ways[STATIC] = int8_call(call, feeds)
    except ModuleNotFoundError as error:
        missing[STATIC] = str(error)
    try:
        converted = pt2e(name, feeds)
        ways[PT2E] = lambda *values: (converted(*values),)
        if which("g++"):
            compiled = frozen(converted)
            compiled(*feeds[0])
            ways[f"{PT2E}, compiled"] = compiled
    except ModuleNotFoundError as error:
        missing[PT2E] = f"{error}: pip install torchao"
    except Exception as error:  # noqa: BLE001 - torchao meets models that it cannot quantise in many ways
        missing[PT2E] = f"{type(error).__name__}: {error}"
    return ways


def pt2e(name: str, feeds: Sequence[Sequence[torch.Tensor]]) -> nn.Module:
    """The model by PyTorch 2 export quantisation with the quantiser for x86; by itself it computes in floats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao's own
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        quantiser = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        module, _ = resolve(name)
        # Traced strictly: the quantiser finds layers by the functions and modules that they came from, which only that
        # records. Otherwise it takes 1 of EfficientNet-Lite0's 50 weights.
        prepared = prepare_pt2e(torch.export.export(module, tuple(feeds[0]), strict=True).module(), quantiser)
        with torch.no_grad():
            for given in feeds:
                prepared(*given)
        converted = convert_pt2e(prepared)
    calls = [str(node.target) for node in converted.graph.nodes if node.op == "call_function"]
    weighty = sum("conv2d" in call or "linear" in call for call in calls)
    if (taken := sum("dequantize_per_channel" in call for call in calls)) < weighty:
        raise RuntimeError(f"its quantiser takes {taken} of {weighty} weights, the rest stays in float")
    quantised: nn.Module = converted
    return quantised


def frozen(module: nn.Module) -> Callee:
    """A module under torch.compile, weights folded in: what PyTorch 2 export quantisation is made for on x86."""
    compiled = torch.compile(module)

    def run(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        freezing = torch._inductor.config.patch(freezing=True)  # read when the first call compiles
        with torch.inference_mode(False), torch.no_grad(), freezing:
            return (compiled(*values),)

    return run


def measured(
    model: str,
    part: str,
    call: Callee,
    example: Sequence[torch.Tensor],
    ways: Mapping[str, Callee],
    *,
    rounds: int,
) -> list[Row]:
    """Seconds and differences of every way; torch's are the measure."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        expected = call(*example)
        gaps = {
            name: max(difference(want, got) for want, got in zip(expected, way(*example), strict=True))
            for name, way in ways.items()
        }
        for _ in range(rounds):
            for name, way in ways.items():
                seconds[name].append(timed(lambda way=way: way(*example)))  # type: ignore[misc]
    return [
        Row(
            model,
            part,
            name,
            seconds=statistics.median(each),
            ratio=statistics.median(one / base for one, base in zip(each, seconds["torch"], strict=True)),
            difference=gaps[name],
        )
        for name, each in seconds.items()
    ]


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of all threads: some engines bring threads of their own."""
    started = time.process_time()
    work()
    return time.process_time() - started


def judged(rows: Sequence[Row], model: Model, ways: Mapping[str, Callee], *, count: int) -> list[Row]:
    """The rows of less than float32 with the share of answers that stay torch's."""
    test = samples("photos", model, count=count, part="test")
    answer = answer_of(model)
    at = model.graph.outputs.index(answer.output)

    def answers(way: Callee) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([way(*test.batch(row).values())[at] for row in range(len(test))])

    expected = answers(ways["torch"])
    found = []
    for row in rows:
        if "int8" in row.engine or "bfloat16" in row.engine:
            drop = drop_of(answer.changes(expected, answers(ways[row.engine]), None), test.origins)
            shares = {
                "agreement": 1 - drop.estimate,
                "agreement_low": 1 - drop.high,
                "agreement_high": min(1.0, 1 - drop.low),
            }
            found.append(Row(**{**asdict(row), **shares}))
        else:
            found.append(row)
    return found


def print_table(rows: Sequence[Row]) -> None:
    print(f"{'model':20}{'part':7}{'engine':20}{'CPU ms':>8}{'of torch':>10}{'difference':>12}  agreement (95 %)")
    for row in rows:
        agreement = ""
        if row.agreement is not None:
            agreement = f"{row.agreement:.1%} ({row.agreement_low:.1%} to {row.agreement_high:.1%})"
        print(
            f"{row.model:20}{row.part:7}{row.engine:20}{row.seconds * 1e3:8.2f}{row.ratio:10.2f}"
            f"{row.difference:12.1e}  {agreement}"
        )


def report(rows: Sequence[Row], missing: Mapping[str, str]) -> dict[str, object]:
    """What ``--json`` keeps; the headline is of the first model."""
    first = [row for row in rows if row.model == rows[0].model]
    exact = [row for row in first if row.engine in ENGINES]
    ratios = {f"{row.part}_{row.engine.replace(' ', '_')}_ratio": row.ratio for row in first}
    return {
        "headline": {
            "best_head_ratio": min(row.ratio for row in exact if row.part == "head"),
            "best_tail_ratio": min(row.ratio for row in exact if row.part == "tail"),
            "largest_float32_difference": max(row.difference for row in exact),
            **{
                f"agreement_{row.engine.replace(' ', '_')}": row.agreement for row in first if row.agreement is not None
            },
            **ratios,
        },
        "rows": [asdict(row) for row in rows],
        "left_out": dict(missing),
    }


if __name__ == "__main__":
    main()
