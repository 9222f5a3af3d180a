"""The training script: it repeats to the last bit, and its policy is counted as the exits answer."""

from __future__ import annotations

import torch

from experiments.train_fashion_exits import calibrated, judged, logits_of, train


def test_training_repeats_and_its_policy_keeps_the_accuracy() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(376) % 10
    images = torch.randint(0, 40, (376, 28, 28, 1), dtype=torch.uint8, generator=generator)
    for row, label in enumerate(labels.tolist()):
        images[row, 2 * label + 3 : 2 * label + 6] = 250  # a bar whose height is the class
    module = train(images[:256], labels[:256], epochs=3, batch=32)
    again = train(images[:256], labels[:256], epochs=3, batch=32)
    for name, value in module.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    exits = calibrated(module, images[256:], labels[256:], max_drop=0.1)
    logits = logits_of(module, images[256:])
    assert [tuple(rows.shape) for rows in logits] == [(120, 10)] * 3
    found = judged(exits, logits, labels[256:])
    assert found["accuracy"] == exits.accuracy
    assert exits.accuracy >= exits.right_alone[-1] / exits.samples - 0.1
    assert exits.right_alone[-1] > 0.5 * exits.samples
