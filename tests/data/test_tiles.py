# SPDX-License-Identifier: Apache-2.0
"""Tiles of large images, and masks and boxes that move with their images."""

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")

from rsvheat.data import (
    IGNORE_INDEX,
    ArraySource,
    Boxes,
    Crop,
    DataError,
    ImageDataset,
    Normalize,
    SampleIndex,
    Sensor,
    Window,
    collate,
)
from rsvheat.data.tiles import Tiles, starts

PLAIN = Normalize("fixed", low=-1, high=1, clip=False)


class Masked(ArraySource):
    """The mask of a pixel is its value modulo 7, and 255 where the image is 0."""

    target, classes = "mask", tuple("abcdefg")

    def read_target(self, index, window):
        values, _ = self.open(index, "sar").read(window)
        return np.where(values[0] == 0, IGNORE_INDEX, values[0] % 7).astype(np.uint8)


class Labeled(ArraySource):
    """Every pixel is of one class, also those without data."""

    target, classes = "mask", ("a", "b")

    def read_target(self, index, window):
        return np.zeros((window.height, window.width), np.uint8)


class Boxed(ArraySource):
    """A box around every bright pixel of an image."""

    classes = ("ship",)

    def __init__(self, samples, oriented):
        super().__init__(samples)
        self.target = "oriented_boxes" if oriented else "boxes"

    def read_target(self, index, window):
        values, _ = self.open(index, "sar").read(window)
        y, x = np.nonzero(values[0] > 1000)
        if self.target == "boxes":
            boxes = np.stack([x, y, x + 1, y + 1], 1)
        else:  # longer along the row, as the image has it
            boxes = np.stack([x + 0.5, y + 0.5, 3 + 0 * x, 1 + 0 * x, 0 * x], 1)
        return Boxes(boxes.astype(np.float32), np.zeros(len(x), np.int64))


def dataset(source, crop, **options):
    source.scan()
    sensors = {name: Sensor(1, normalize=PLAIN) for name in source.modalities}
    normalizers = {name: PLAIN.resolve(1) for name in source.modalities}
    return ImageDataset(source, sensors, normalizers, crop, **options)


def image(height, width, low=1):
    return np.arange(low, low + height * width, dtype=np.float32).reshape(1, height, width)


def test_masks_move_with_their_images():
    data = dataset(Masked([{"sar": image(30, 40)}]), Crop(16, 16))
    for epoch in range(20):
        sample = data[SampleIndex(epoch, 0)]
        assert sample["mask"].dtype == torch.int64
        assert torch.equal(sample["mask"], (sample["images"]["sar"][0] % 7).long())


@pytest.mark.parametrize("oriented", [False, True])
def test_boxes_move_with_their_images(oriented):
    values = np.zeros((1, 24, 24), np.float32)
    values[0, 5, 15:18] = 2000  # three pixels in a row
    data = dataset(Boxed([{"sar": values}], oriented), Crop(24, 24))
    seen = set()
    for epoch in range(40):
        sample = data[SampleIndex(epoch, 0)]
        bright = (sample["images"]["sar"][0] > 1000).nonzero().float()
        boxes = sample["boxes"]
        assert sample["labels"].tolist() == [0, 0, 0]
        if oriented:
            centers = boxes[:, :2].flip(1) - 0.5
            vertical = float(bright[:, 1].std()) == 0
            assert all(abs(angle % 180 - 90 * vertical) < 1e-3 for angle in boxes[:, 4].tolist())
        else:
            centers = (boxes[:, :2].flip(1) + boxes[:, 2:].flip(1) - 1) / 2
        found = {tuple(row) for row in centers.round().int().tolist()}
        assert found == {tuple(row) for row in bright.int().tolist()}
        seen.add(tuple(sorted(found)))
    assert len(seen) == 8


def test_pixels_without_data_in_any_modality_are_ignored():
    a, b = image(8, 8), image(8, 8)
    a[0, :2], b[0, 1:3] = np.nan, np.nan
    source = Masked([{"sar": np.nan_to_num(image(8, 8)), "optical": b}])
    source._samples[0]["sar"] = a

    def mask(index, window):
        return np.ones((window.height, window.width), np.uint8)

    source.read_target = mask
    batch = collate([dataset(source, Crop(8, augment=False))[0]])
    assert (batch["mask"][0, 1] == IGNORE_INDEX).all()
    assert (batch["mask"][0, [0, 2, 3]] == 1).all()
    assert not batch["valid"]["sar"][0, 0, 0].any()
    assert batch["valid"]["optical"][0, 0, 0].all()


def test_small_images_with_masks_are_padded_and_not_resized():
    sample = dataset(Masked([{"sar": image(10, 12)}]), Crop(16, 16, augment=False))[0]
    assert torch.equal(sample["images"]["sar"][0, :10, :12], torch.from_numpy(image(10, 12)[0]))
    assert (sample["mask"][10:] == IGNORE_INDEX).all()
    assert (sample["mask"][:, 12:] == IGNORE_INDEX).all()
    assert sample["missing"]["sar"][0, 10:].bool().all()


def test_balanced_windows_are_drawn():
    values = np.full((1, 64, 64), 7, np.float32)  # class 0
    values[0, :, 48:] = 1  # class 1
    parts = {}
    for cat_max in (1.0, 0.75):
        data = dataset(Masked([{"sar": values}]), Crop(16, 16, cat_max=cat_max))
        masks = [data[SampleIndex(epoch, 0)]["mask"] for epoch in range(60)]
        shares = [torch.bincount(mask.flatten()).max() / mask.numel() for mask in masks]
        parts[cat_max] = np.mean([float(share) <= 0.75 for share in shares])
    assert parts[0.75] > 0.7 > 0.5 > parts[1.0]  # measured: 0.77 and 0.40


@pytest.mark.parametrize(("height", "width"), [(64, 96), (37, 75), (20, 33), (10, 12), (33, 32)])
@pytest.mark.parametrize("overlap", [0, 9, 16, 31])
def test_tiles_count_every_pixel_once(height, width, overlap):
    tiles = Tiles(Masked([{"sar": image(height, width)}]), None, 32, overlap)
    data = dataset(tiles, Crop(32, 32, augment=False))
    counted = np.zeros(height * width + 1, int)
    for index in range(len(data)):
        sample = data[index]
        inside = sample["mask"] != IGNORE_INDEX
        values = sample["images"]["sar"][0][inside].long()
        assert torch.equal(sample["mask"][inside], values % 7)
        counted += np.bincount(values.numpy(), minlength=len(counted))
    assert counted[0] == 0
    assert (counted[1:] == 1).all()
    assert len({tiles.key(i) for i in range(len(tiles))}) == len(tiles)


def test_tiles_predict_with_context_on_all_sides():
    tiles = Tiles(Masked([{"sar": image(64, 64)}]), None, 32, 16)
    tiles.scan()
    middle = next(i for i in range(len(tiles)) if tiles.key(i).endswith("@16_16"))
    mask = tiles.read_target(middle, Window(0, 0, 32, 32))
    counted = np.argwhere(mask != IGNORE_INDEX)
    assert counted.min() == 8
    assert counted.max() == 23
    assert starts(64, 32, 16) == [0, 16, 32]


def test_wrong_overlaps_are_named():
    with pytest.raises(ValueError, match="overlap must be at least 0 and below 8, got 8"):
        Tiles(Masked([{"sar": image(8, 8)}]), None, 8, 8)


def test_crops_without_a_label_are_drawn_again_and_else_left_out():
    values = np.zeros((1, 64, 64), np.float32)  # without a class
    values[0, 40:, 40:] = 1
    nothing = np.zeros((1, 64, 64), np.float32)
    source = Masked([{"sar": values}, {"sar": nothing}])
    data = dataset(source, Crop(16, 16))
    labeled = [SampleIndex(epoch, index) for epoch in range(40) for index in range(2)]
    samples = [data[where] for where in labeled]
    assert all((sample["mask"] != IGNORE_INDEX).any() for sample in samples)
    skipped = [skip for sample in samples for skip in sample.get("skipped", ())]
    assert {(skip.kind, skip.key) for skip in skipped} >= {("empty", "000001")}
    assert "no pixel of 8 random windows has both a class and data" in skipped[0].reason
    # Drawn again 8 times, most windows of the first image have a label.
    assert sum(skip.key == "000000" for skip in skipped) < 30
    # Evaluation takes all there is: such pixels count for nothing there.
    plain = dataset(source, Crop(16, 16, augment=False))
    assert (plain[1]["mask"] == IGNORE_INDEX).all()
    with pytest.raises(DataError, match="none of 5 samples tried can be used"):
        dataset(Masked([{"sar": nothing}]), Crop(16, 16), attempts=5)[0]
    with pytest.raises(DataError, match=r"both a class and data \(sample 000001\)"):
        dataset(source, Crop(16, 16), on_error="raise")[1]


def test_labels_without_data_are_no_labels():
    values = np.full((1, 64, 64), 3, np.float32)
    values[0, :, :32] = np.nan
    source = Labeled([{"sar": values}])
    data = dataset(source, Crop(16, 16, min_valid=0.0))
    for epoch in range(30):
        sample = data[SampleIndex(epoch, 0)]
        assert (sample["mask"] != IGNORE_INDEX).any()
