"""How much of a network must be in int8 for it to pay, with the rest in floats?

``python -m experiments.int8_heads --json FILE``. For each tensor of ``--until`` the version that ``splitnn compress
--method int8 --until TENSOR`` makes, its whole and its head before that tensor, beside the same in floats: CPU
milliseconds of one thread in interleaved rounds, medians. The last row is all of the network.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from experiments.engines.__main__ import CALIBRATION, INT8, timed
from splitnn.graph.allocator import keep_freed_memory
from splitnn.graph.ancestors import layers_before
from splitnn.graph.code import Callee
from splitnn.graph.extract import extract
from splitnn.graph.model import Model
from splitnn.runtime.compiled import ENGINES
from splitnn.tuning.compress import int8_version
from splitnn.tuning.evaluation import Samples
from splitnn.zoo.datasets import samples
from splitnn.zoo.sources import open_model

UNTIL = ("0._bn2", "2", "4", "7", "10", "14")  # blocks of EfficientNet-Lite
_WARM_UPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description="int8 heads with tails in floats")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--until", default=",".join(f"classifier._blocks.{each}" for each in UNTIL), metavar="TENSORS")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    model = open_model(arguments.model)
    data = samples("photos", model, count=CALIBRATION, part="train")
    rows = []
    for until in [*filter(None, arguments.until.split(",")), ""]:
        rows.append(row_of(model, data, until, engines=INT8, rounds=arguments.rounds))
        print(said(rows[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def row_of(
    model: Model, data: Samples, until: str, *, engines: Sequence[str], rounds: int
) -> dict[str, str | float | dict[str, float]]:
    """Seconds of whole and head (of the whole alone where ``until`` is empty) in floats and in int8, by engine."""
    version = int8_version(model, data, until=until)
    ways = {
        f"{part} {precision} {engine}": partial(call, *model.example.values())
        for precision, each in (("float", model), ("int8", version))
        for engine in engines
        for part, call in _parts(each, until, engine).items()
    }
    before = layers_before(model.graph, [until or model.graph.outputs[-1]])
    flops = [sum(layer.flops for layer in model.graph.layers if layer.name in names) for names in (before, _all(model))]
    return {"until": until or "all", "flops": flops[0] / flops[1], "seconds": medians(ways, rounds=rounds)}


def medians(ways: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, float]:
    """CPU seconds of the process for each, run in turn."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for number in range(_WARM_UPS + rounds):
            for name, work in ways.items():
                seconds = timed(work)
                if number >= _WARM_UPS:
                    taken[name].append(seconds)
    return {name: statistics.median(each) for name, each in taken.items()}


def said(row: Mapping[str, str | float | dict[str, float]]) -> str:
    """One line; milliseconds in floats and in int8."""
    seconds = row["seconds"]
    assert isinstance(seconds, dict)
    pairs = [name for name in seconds if " float " in name]
    shown = [f"{name.replace(' float', '')} {_ms(seconds, name)} -> {_ms(seconds, _in_int8(name))}" for name in pairs]
    return f"{row['until']:24} {row['flops']:4.0%}  " + "  ".join(shown)


def _ms(seconds: Mapping[str, float], name: str) -> str:
    return f"{1e3 * seconds[name]:.2f}"


def _in_int8(name: str) -> str:
    return name.replace(" float ", " int8 ")


def _all(model: Model) -> set[str]:
    return {layer.name for layer in model.graph.layers}


def _parts(model: Model, until: str, engine: str) -> dict[str, Callee]:
    example = list(model.example.values())
    ends = {"whole": model.graph.outputs, **({"head": (until,)} if until else {})}
    return {
        part: ENGINES[engine].compile(extract(model, model.graph.inputs, end), example) for part, end in ends.items()
    }


if __name__ == "__main__":
    main()
