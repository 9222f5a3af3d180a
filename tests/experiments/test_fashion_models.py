"""The network without its early exits is what it was with them, and the student starts alike every time."""

from __future__ import annotations

import torch

from experiments.fashion_models import backbone, student
from splitnn.zoo import load
from splitnn.zoo.fashion import sample_images


def test_backbone_answers_what_the_last_exit_does() -> None:
    images, _ = sample_images()
    network, _ = load("fashion_exits")
    module, _ = backbone()
    with torch.inference_mode():
        assert torch.equal(module(images[:20]), network(images[:20])[-1])


def test_student_is_small_and_the_same_on_every_call() -> None:
    one, other, large = student()[0], student()[0], backbone()[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert 14 * sum(p.numel() for p in one.parameters()) < sum(p.numel() for p in large.parameters())
