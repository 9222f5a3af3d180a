"""Train the network with three exits that comes with splitnn, on Fashion-MNIST, in about eight minutes of one core.

  apt-get install dataset-fashion-mnist
  python -m experiments.train_fashion_exits --out DIR

writes what lies in splitnn/zoo: the weights, the exits' policy, and some test images. 54,000 of the training images are
trained on; the other 6,000 choose temperatures and thresholds. The 10,000 test images are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from splitnn.graph.capture import capture
from splitnn.graph.exits import Exits
from splitnn.runtime.exits import confidences
from splitnn.tuning.confidence import calibrate_exits
from splitnn.zoo.datasets import Samples, fashion_mnist
from splitnn.zoo.fashion import IMAGES, POLICY, WEIGHTS, FashionExits

HELD_OUT = 6_000
_KEPT_IMAGES = 600
_WEIGHT_OF_EXIT = (0.4, 0.6, 1.0)
_SHIFT = 1  # pixels


def train(images: Tensor, labels: Tensor, *, epochs: int, seed: int = 0, batch: int = 128) -> FashionExits:
    """All exits together, the early ones also towards the last one's answer; images uint8 (N, 28, 28, 1)."""
    torch.manual_seed(seed)
    module = FashionExits()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = len(images) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.15, total_steps=epochs * steps, pct_start=0.25)
    for epoch in range(epochs):
        started_s = time.thread_time()
        module.train()
        order = torch.randperm(len(images))
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            *early, last = module(_augmented(images[rows]))
            target = softmax(last.detach(), 1)
            loss = _WEIGHT_OF_EXIT[-1] * cross_entropy(last, labels[rows])
            for weight, logits in zip(_WEIGHT_OF_EXIT, early, strict=False):
                towards_last = kl_div(log_softmax(logits, 1), target, reduction="batchmean")
                loss = loss + weight * (0.5 * cross_entropy(logits, labels[rows]) + 0.5 * towards_last)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(
            f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}, {time.thread_time() - started_s:.0f} s", flush=True
        )
    return module.eval()


def _augmented(images: Tensor) -> Tensor:
    """Half of them mirrored, all shifted by up to a pixel."""
    count = len(images)
    mirrored = torch.where((torch.rand(count) < 0.5).view(-1, 1, 1, 1), images.flip(2), images)
    padded = torch.nn.functional.pad(mirrored, (0, 0, _SHIFT, _SHIFT, _SHIFT, _SHIFT))  # (N, 30, 30, 1)
    down, right = torch.randint(0, 2 * _SHIFT + 1, (2, count, 1))
    rows, columns = down + torch.arange(28), right + torch.arange(28)  # (N, 28)
    return padded[torch.arange(count).view(-1, 1, 1), rows[:, :, None], columns[:, None, :]]


@torch.inference_mode()
def logits_of(module: FashionExits, images: Tensor) -> tuple[Tensor, ...]:
    """The logits (N, 10) of each exit."""
    parts = [module(chunk) for chunk in images.split(500)]
    return tuple(torch.cat(logits) for logits in zip(*parts, strict=True))


def calibrated(module: FashionExits, images: Tensor, labels: Tensor, *, max_drop: float) -> Exits:
    """Temperatures and thresholds, chosen on images that the module was not trained on."""
    model = capture(module, (images[:2],))
    (name,) = model.graph.inputs
    outputs = {f"exit{number}": tensor for number, tensor in enumerate(model.graph.outputs, 1)}
    source = "fashion-mnist, training images held out"
    held_out = Samples({name: images}, labels, tuple(str(number) for number in range(len(images))), source)
    return calibrate_exits(model, outputs, held_out, max_drop=max_drop)


def judged(exits: Exits, logits: Sequence[Tensor], labels: Tensor) -> dict[str, object]:
    """What the policy does on these samples: accuracy and share of each exit alone, and of all together."""
    right = [(each.argmax(1) == labels).tolist() for each in logits]
    sure = [
        (confidences(rows, each.temperature) >= each.threshold).tolist()
        for rows, each in zip(logits, exits.exits, strict=True)
    ]
    found = Exits.counted(
        exits.exits, zip(zip(*sure, strict=True), zip(*right, strict=True), strict=True), against="labels", data="test"
    )
    return {
        "alone": [count / found.samples for count in found.right_alone],
        "left": [count / found.samples for count in found.left],
        "accuracy": found.accuracy,
        "held_out": {"alone": [n / exits.samples for n in exits.right_alone], "accuracy": exits.accuracy},
        "thresholds": [each.threshold for each in exits.exits],
        "temperatures": [each.temperature for each in exits.exits],
    }


def main() -> None:
    """Train, calibrate, judge and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--max-drop", type=float, default=0.0041, help="accuracy that early exits may cost, upper end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = fashion_mnist("train")
    images = images[..., None]  # (60000, 28, 28, 1)
    module = train(images[:-HELD_OUT], labels[:-HELD_OUT], epochs=args.epochs)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, args.out / WEIGHTS)
    exits = calibrated(module, images[-HELD_OUT:], labels[-HELD_OUT:], max_drop=args.max_drop)
    (args.out / POLICY).write_text(json.dumps(exits.to_json(), indent=1) + "\n")
    tests, answers = fashion_mnist("test")
    np.savez_compressed(
        args.out / IMAGES,
        images=tests[:_KEPT_IMAGES].numpy(),
        labels=answers[:_KEPT_IMAGES].to(torch.uint8).numpy(),
    )
    print(json.dumps(judged(exits, logits_of(module, tests[..., None]), answers)))


if __name__ == "__main__":
    main()
