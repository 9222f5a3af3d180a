"""Train the bottleneck of EfficientNet-Lite0 that comes with splitnn, on photos without labels, and judge it on others.

  pip install "splitnn[models,samples]"; apt-get install lomiri-wallpapers-16.04 mate-backgrounds
  python -m experiments.train_bottleneck --out DIR        # about ten minutes of one core
  python -m experiments.train_bottleneck --judge-only     # the one that comes with splitnn

writes what lies in splitnn/zoo: the weights in half precision, and notes on how they were made and on its rates, which
are steps of rounding. Each is judged beside closed-form bottlenecks at the same place, fitted to the same crops: bytes,
the nats by which answers change, and agreement with the unsplit model, on photos that neither saw (``unseen_photos``).
Which step to train at: ``python -m experiments.train_bottleneck.steps``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from experiments.train_bottleneck.unseen_photos import unseen_photos
from splitnn.graph.allocator import keep_freed_memory
from splitnn.graph.model import Model
from splitnn.graph.recipe import Drop, Recipe
from splitnn.transport.codec import CODECS
from splitnn.tuning.bottleneck import cut_tensor
from splitnn.tuning.fitting import CODEC, Ground, ground, transform_basis
from splitnn.tuning.sensitivity import answering
from splitnn.tuning.training import by_count, learned_bottleneck
from splitnn.tuning.transform import Basis, transform_bottleneck
from splitnn.zoo.autoencoder import Bottleneck
from splitnn.zoo.datasets import Samples, samples
from splitnn.zoo.pictures import crops
from splitnn.zoo.sources import open_model
from splitnn.zoo.squeezed import BASE, FINEST, NOTES, WEIGHTS, notes, trained_bottleneck

_RATES = {f"{FINEST}{suffix}": factor for suffix, factor in (("", 1.0), ("_x2", 2.0), ("_x4", 4.0))}
"""Models of the zoo, and how much wider their steps are than the one that is trained."""

_CLOSED_FORM_STEPS = (0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2)
_CROPS_A_PHOTO = 12
_JUDGE_SEED = 11
_RESAMPLES = 1000
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bottleneck on samples: of each the bytes, the nats by which the answer changed, and whether it is the same."""

    name: str
    size_bytes: NDArray[np.float64]
    nats: NDArray[np.float64]
    same: NDArray[np.float64]


def main() -> None:
    """Train and write, or take what there is; then judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="the folder to write to")
    what.add_argument("--judge-only", action="store_true", help="train nothing")
    parser.add_argument("--block", type=int, default=7, help="of EfficientNet-Lite0: its result passes through")
    parser.add_argument("--patch", type=int, default=1)
    parser.add_argument("--step", type=float, default=0.25, help="of rounding, from which training starts")
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--crops", type=int, default=1600, help="to train on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    model = open_model(BASE)
    tensor = notes().tensor if args.judge_only else f"classifier._blocks.{args.block}"
    given = grounds(model, tensor, count=args.crops, seed=args.seed)
    shipped = trained_bottleneck() if args.judge_only else None
    patch = args.patch if shipped is None else shipped.encoder.project.kernel_size[0]
    found = transform_basis(given, patch=patch, seed=args.seed, progress=_told)
    if shipped is not None:
        bottleneck = shipped
    else:
        bottleneck, settings = learned_bottleneck(
            given, found, step=args.step, pace=by_count(args.batches), seed=args.seed, progress=_told
        )
        settings |= {"patch": args.patch, "crops": args.crops}
        bottleneck = halved(bottleneck)
    judged = compared(given, found, bottleneck)
    if args.out:
        rates = {}
        for name, factor in _RATES.items():
            recipe = recipe_of(given, {**settings, "factor": factor}, judged["rates"][name]["learned"])
            rates[name] = {"factor": factor, "recipe": recipe.to_json()}
        trained_on = sorted(set(given.origins))
        write(bottleneck, args.out, block=args.block, trained_on=trained_on, rates=rates, judged=judged)
    print(json.dumps(judged, indent=1))


def grounds(model: Model, tensor: str, *, count: int, seed: int) -> Ground:
    """Crops of the photos to train on, and as samples to judge by those of photos that are not."""
    fit_to = samples("photos", model, count=count, part="train", seed=seed)
    photos = unseen_photos(fit_to.origins)
    origins, pixels = crops(photos, height=224, width=224, count=_CROPS_A_PHOTO * len(photos), seed=_JUDGE_SEED)
    (name,) = model.graph.inputs
    unseen = Samples({name: pixels}, None, tuple(origins), f"{len(photos)} unseen photos")
    return ground(model, cut_tensor(model, tensor), fit_to=fit_to, judge_by=unseen, progress=_told)


def halved(bottleneck: Bottleneck) -> Bottleneck:
    """The bottleneck with its weights rounded to half precision, as they are written."""
    weights = {name: weight.half().float() for name, weight in bottleneck.state_dict().items()}
    return Bottleneck.of_weights(weights, dead_zone=bottleneck.encoder.dead_zone)


def recipe_of(given: Ground, settings: Mapping[str, str | int | float], learned: Mapping[str, float]) -> Recipe:
    """What made the model with the bottleneck, and what that cost."""
    shares = [round(1 - learned[key], 4) for key in ("agreement", "agreement_high", "agreement_low")]
    return Recipe(
        method="learned bottleneck",
        base=given.model.digest,
        settings={"tensor": given.tensor, **settings},
        drop=Drop(*shares),
        data=given.judged_by.source,
        samples=len(given.held_out),
        figures={"mean_bytes": learned["bytes"], "nats": learned["nats"]},
    )


def write(bottleneck: Bottleneck, folder: Path, *, block: int, **notes_on_it: Any) -> None:
    """The two files that lie in splitnn/zoo; ``notes_on_it`` are values of JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.half().contiguous() for name, weight in bottleneck.state_dict().items()}, folder / WEIGHTS)
    told = {"block": block, "dead_zone": bottleneck.encoder.dead_zone, **notes_on_it}
    (folder / NOTES).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def verdict(given: Ground, bottleneck: Bottleneck, name: str) -> Verdict:
    """What a bottleneck does to the samples to judge by."""
    answer = answering(given.model, given.tensor, answers=given.answer.output)
    sizes: list[int] = []
    nats, same = [], []
    with torch.inference_mode():
        for values, teacher in zip(given.held_out.split(_BATCH), given.held_out_answers.split(_BATCH), strict=True):
            symbols = bottleneck.encoder(values)
            sizes += [len(memoryview(CODECS[CODEC].encode(each))) for each in symbols.split(1)]
            logits = answer(bottleneck.decoder(symbols), {})
            before, after = teacher.log_softmax(1), logits.log_softmax(1)
            nats.append((before.exp() * (before - after)).sum(1))
            same.append(teacher.argmax(1) == logits.argmax(1))
    return Verdict(
        name, np.array(sizes, np.float64), torch.cat(nats).double().numpy(), torch.cat(same).double().numpy()
    )


def compared(given: Ground, found: Basis, bottleneck: Bottleneck) -> dict[str, Any]:
    """The bottleneck at each rate beside closed-form ones on the samples to judge by, as ``beside`` has it."""
    origins = given.judged_by.origins
    closed = [
        verdict(given, transform_bottleneck(given.values, found, step=step), f"closed form, step {step:g}")
        for step in _CLOSED_FORM_STEPS
    ]
    learned = {name: verdict(given, bottleneck.coarser(factor), name) for name, factor in _RATES.items()}
    return {
        "samples": f"{len(origins)} crops of {len(set(origins))} unseen photos",
        "rates": {name: beside(each, closed, origins) for name, each in learned.items()},
        **{each.name: _described(each) for each in closed},
    }


def beside(learned: Verdict, closed: Sequence[Verdict], origins: Sequence[str]) -> dict[str, Any]:
    """One verdict beside others of finer steps to coarser ones; 95 % intervals by a bootstrap over photos."""
    names = sorted(set(origins))
    rows = [np.flatnonzero(np.array(origins) == name) for name in names]
    chance = np.random.default_rng(0)
    resamples = [
        np.concatenate([rows[number] for number in chance.integers(0, len(names), len(names))])
        for _ in range(_RESAMPLES)
    ]
    everything = np.arange(len(origins))
    low, high = np.quantile([learned.same[drawn].mean() for drawn in resamples], (0.025, 0.975))
    return {
        "learned": _described(learned) | {"agreement_low": round(low, 4), "agreement_high": round(high, 4)},
        **{
            key: _with_interval([at(learned, closed, drawn) for drawn in (everything, *resamples)])
            for key, at in (("bytes_at_equal_nats", bytes_at_equal_nats), ("nats_at_equal_bytes", nats_at_equal_bytes))
        },
    }


def _described(found: Verdict) -> dict[str, float]:
    return {
        "bytes": round(float(found.size_bytes.mean()), 1),
        "nats": round(float(found.nats.mean()), 5),
        "agreement": round(float(found.same.mean()), 4),
    }


def bytes_at_equal_nats(one: Verdict, others: Sequence[Verdict], drawn: NDArray[np.int64]) -> float:
    """Mean bytes of one over those that the others need for the same loss, on a line through logarithms."""
    nats = [math.log(each.nats[drawn].mean()) for each in others]
    sizes = [math.log(each.size_bytes[drawn].mean()) for each in others]
    needed = np.interp(math.log(one.nats[drawn].mean()), nats, sizes)  # both ascend with the step, or descend
    return float(one.size_bytes[drawn].mean() / math.exp(needed))


def nats_at_equal_bytes(one: Verdict, others: Sequence[Verdict], drawn: NDArray[np.int64]) -> float:
    """Mean loss of one over that of the others at the same bytes, on a line through logarithms."""
    nats = [math.log(each.nats[drawn].mean()) for each in reversed(others)]
    sizes = [math.log(each.size_bytes[drawn].mean()) for each in reversed(others)]
    lost = np.interp(math.log(one.size_bytes[drawn].mean()), sizes, nats)
    return float(one.nats[drawn].mean() / math.exp(lost))


def _with_interval(found: Sequence[float]) -> dict[str, float]:
    """The first, and the 95 % interval of the others."""
    low, high = np.quantile(found[1:], (0.025, 0.975))
    return {"ratio": round(found[0], 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def _told(done: float, what: str) -> None:
    print(f"\r{done:4.0%} {what:100}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
