"""The codec experiment's arithmetic: fronts, bytes at equal answers, intervals, and the cuts that it looks at."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.codecs.learned import best_lossy, learned_ratio, share_of_input
from experiments.codecs.measure import Case, Point, narrow_cuts
from experiments.codecs.smallest import SmallestFile
from experiments.codecs.statistics import between_resamples, by_origin, bytes_at, differs, pareto, wilson
from experiments.codecs.tables import Table, shipped_points
from experiments.train_bottleneck.unseen_photos import unseen_photos
from splitnn import zoo
from splitnn.graph.capture import capture
from splitnn.transport.codec import codec
from splitnn.transport.image import ImageCodec
from tests.models import captured_real


def a_point(size: float, share: float) -> Point:
    right = np.arange(100) < 100 * share
    return Point("cut", 0.1, "codec", 1000, np.array([int(size)]), right, 0.0, 0.0)


def test_only_points_that_no_other_beats_are_on_the_front() -> None:
    points = [a_point(100, 0.5), a_point(200, 0.4), a_point(300, 0.9), a_point(50, 0.3), a_point(400, 0.9)]
    assert [point.mean_bytes for point in pareto(points)] == [50, 100, 300]


def test_bytes_between_two_points_lie_on_a_line_through_their_logarithms() -> None:
    points = [a_point(100, 0.5), a_point(400, 0.9)]
    assert bytes_at(points, 0.7) == pytest.approx(200)
    assert bytes_at(points, 0.9) == 400
    assert bytes_at(points, 0.2) == 100
    assert bytes_at(points, 0.95) is None


@pytest.mark.parametrize("name", ["jpeg75", "jpeg95", "jpeg100f", "png", "webp", "webp90"])
@pytest.mark.parametrize("channels", [3, 1])
def test_an_image_counts_with_the_smallest_file_of_its_pixels(name: str, channels: int) -> None:
    wire = codec(name)
    assert isinstance(wire, ImageCodec)
    photo = torch.from_numpy(zoo.photos(224)["coffee"])[None, :, :, :channels].contiguous()
    usual, smallest = wire.encode(photo), SmallestFile(wire).encode(photo)
    assert len(smallest) < len(usual) or (name, channels) == ("png", 1)
    pixels = SmallestFile(wire).decode(smallest, tuple(photo.shape), "uint8")
    if name != "webp90":  # whose slowest method finds others
        assert torch.equal(pixels, wire.decode(usual, tuple(photo.shape), "uint8"))


def test_small_images_do_not_pay_for_the_scans_of_a_progressive_jpeg() -> None:
    dark = torch.zeros(2, 8, 8, 1, dtype=torch.uint8)
    wire = codec("jpeg90")
    assert isinstance(wire, ImageCodec)
    batch = SmallestFile(wire).encode(dark)
    assert batch == 2 * bytes(SmallestFile(wire).encode(dark[:1]))
    assert b"\xff\xc2" not in batch  # a progressive frame
    assert len(batch) < len(wire.encode(dark))


def test_intervals_hold_the_share_and_those_of_few_origins_are_wider() -> None:
    right = np.random.default_rng(1).random(400) < 0.8
    low, high = wilson(right)
    assert low < right.mean() < high
    assert wilson(np.ones(10, bool))[0] == pytest.approx(0.7225, abs=1e-3)
    alike = np.repeat([True, False, True, True], 100)
    few, many = by_origin(alike, [str(n // 100) for n in range(400)]), by_origin(alike, [str(n) for n in range(400)])
    assert few[1] - few[0] > 3 * (many[1] - many[0])


def test_a_loss_is_one_where_more_answers_were_lost_than_won() -> None:
    before = np.ones(1000, bool)
    after = before.copy()
    after[:40] = False
    assert differs(after, before)
    assert not differs(before, after)
    shuffled = before.copy()
    shuffled[:20] = False
    other = before.copy()
    other[20:40] = False
    assert not differs(shuffled, other)


class Narrow(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.down = torch.nn.Conv2d(8, 2, 1)
        self.up = torch.nn.Conv2d(2, 16, 1)
        self.last = torch.nn.Linear(16, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        narrow = self.down(self.first(image.permute(0, 3, 1, 2).float() / 255).relu())
        logits: torch.Tensor = self.last(self.up(narrow).relu().mean((2, 3)))
        return logits


def test_a_lossless_codec_at_the_narrow_cut_changes_no_answer() -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (12, 9, 9, 3), dtype=torch.uint8)
    model = capture(Narrow().eval(), (pixels[:1],))
    assert [model.graph.tensors[name].shape for name, _ in narrow_cuts(model.graph, model.graph.outputs[-1])] == [
        (1, 2, 9, 9)
    ]
    case = Case(model, pixels, batch=5)
    (cut,) = case.cuts()
    exact = case.point(cut, "raw", alone=7)
    assert exact.right.all()
    assert exact.sample_bytes.tolist() == [2 * 9 * 9 * 4] * 10  # whole batches are counted
    assert case.point(cut, "int2", alone=7).mean_bytes < exact.mean_bytes / 10
    assert 0 < cut.flops_share < 1


def test_a_bottleneck_stands_for_the_image_that_answers_as_often_right_as_it_does() -> None:
    images = [replace(a_point(size, share), codec="jpeg") for size, share in ((100, 0.5), (400, 0.9), (1600, 0.92))]
    assert share_of_input([a_point(50, 0.9), *images]) == pytest.approx(50 / 400)
    assert share_of_input([a_point(50, 0.91), *images]) == pytest.approx(50 / 800)
    assert share_of_input([a_point(50, 0.99), *images]) == pytest.approx(50 / 1600)  # better than any JPEG
    assert share_of_input([a_point(50, 0.4), *images]) == pytest.approx(50 / 100)
    lossless = replace(a_point(2000, 1.0), codec="webp")
    assert best_lossy([*images, lossless]).mean_bytes == 1600
    assert share_of_input([a_point(50, 0.99), *images, lossless]) == pytest.approx(50 / 1600)


def test_headline_of_several_bottlenecks_is_that_of_the_one_that_agrees_most_not_of_the_best_ratio() -> None:
    images = [replace(a_point(size, share), codec="jpeg") for size, share in ((100, 0.5), (400, 0.9), (1600, 0.92))]
    case = Case(
        capture(Narrow().eval(), (torch.zeros(1, 9, 9, 3, dtype=torch.uint8),)),
        torch.zeros(2, 9, 9, 3, dtype=torch.uint8),
        batch=2,
    )
    table = Table("a model", "100 samples", (), tuple(images), 1.0, (), case)
    small, large = replace(a_point(20, 0.9), cut="small"), replace(a_point(160, 0.92), cut="large")
    found = learned_ratio([(table, small), (table, large)])
    assert found["learned_vs_jpeg_bytes"] == pytest.approx(0.1)
    assert found["learned"]["small"]["bytes"] == pytest.approx(0.05)
    assert found["learned_vs_best_jpeg"]["image_bytes"] == 1600
    assert found["learned_vs_best_jpeg"]["points"] == pytest.approx(0.0)


def test_interval_between_points_on_the_same_samples_is_that_of_their_difference() -> None:
    chance = np.random.default_rng(2)
    origins = [str(number // 10) for number in range(400)]
    one = chance.random(400) < 0.7
    other = one.copy()
    other[::40] = ~other[::40]  # they differ in ten samples only, however few photos there are
    points = [replace(a_point(10, 0.5), right=right, sample_bytes=np.full(400, 10)) for right in (one, other)]
    found = between_resamples(points, origins, lambda both: both[0].share_right - both[1].share_right)
    assert found is not None
    low, high = found
    assert low <= one.mean() - other.mean() <= high
    alone = by_origin(one, origins)
    assert high - low < 0.5 * (alone[1] - alone[0])
    assert between_resamples(points, origins, lambda both: None) is None


def test_photos_that_a_bottleneck_was_trained_on_are_no_unseen_ones() -> None:
    found = unseen_photos(())
    some = sorted(found)[:3]
    assert sorted(unseen_photos(some)) == sorted(set(found) - set(some))
    with pytest.raises(FileNotFoundError, match="apt-get install lomiri"):
        unseen_photos(found)


def test_headline_of_the_bottleneck_that_comes_with_splitnn_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.codecs.tables.open_model", captured_real)
    table, points = shipped_points(crops_a_photo=1)
    found = learned_ratio([(table, point) for point in points])
    assert math.isfinite(found["learned_vs_jpeg_bytes"])
    assert found["learned_vs_jpeg_bytes"] < 0.23  # 77 % fewer bytes than the compressed input
    assert found["learned_vs_best_jpeg"]["points"] > -10  # 32 crops: three of them
    assert [each["bytes"] is not None and each["bytes"] < 0.5 for each in found["learned"].values()] == [True] * 3
    assert sorted((point.mean_bytes for point in points), reverse=True) == [point.mean_bytes for point in points]
    for point in points:
        assert 0.2 < point.flops_share < 0.6
        assert len(point.sample_bytes) == len(point.right) == len(table.origins)
