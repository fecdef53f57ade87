# SPDX-License-Identifier: Apache-2.0
"""Small images with masks, of one sensor, several sensors or two dates, and tasks for them."""

import numpy as np

from rsvheat.data import (
    ArraySource,
    Crop,
    DataModule,
    DatasetReader,
    LoaderOptions,
    Sensor,
    Split,
)

TINY = {"dims": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}
SMALL = {"encoder_options": TINY, "decoder": "fpn", "model_options": {"channels": 16}}


class Fields(ArraySource):
    """Dark rectangles and bright ones on a gray ground: class 1 and class 2."""

    target, classes = "mask", ("ground", "field", "roof")

    def __init__(self, count, seed, names):
        rng = np.random.default_rng(seed)
        self.masks, samples = [], []
        for _ in range(count):
            mask = np.zeros((64, 80), np.uint8)
            for label in (1, 2):
                top, left = rng.integers(0, 40, 2)
                mask[top : top + 24, left : left + 24] = label
            image = np.choose(mask, [100, 20, 200]) + rng.integers(0, 30, mask.shape)
            self.masks.append(mask)
            samples.append({name: image[None].astype(np.uint8) for name in names})
        super().__init__(samples)

    def read_target(self, index, window):
        rows = slice(window.top, window.top + window.height)
        return self.masks[index][rows, window.left : window.left + window.width]


class Changes(Fields):
    """The date after has one more roof, which is the change."""

    classes = ("no change", "change")

    def __init__(self, count, seed, names=("before", "after")):
        super().__init__(count, seed, names)
        for mask, sample in zip(self.masks, self._samples, strict=True):
            changed = mask == 2
            sample["before"] = np.where(changed[None], 110, sample["before"]).astype(np.uint8)
            mask[:] = changed


class Reader(DatasetReader):
    """Twelve images for training and four for validation."""

    def __init__(self, source, *arguments):
        self.source, self.arguments = source, arguments

    def make(self, count, seed):
        return self.source(count, seed, *self.arguments)

    def splits(self, scan):
        return {"train": Split(scan(self.make(12, 0))), "val": Split(scan(self.make(4, 1)))}

    def sensors(self):
        return {name: Sensor(1) for name in self.make(1, 0).modalities}


def module(reader, **options):
    """Make a data module with crops of 32 pixels in batches of 8."""
    return DataModule(
        reader,
        crop=Crop(32, 32),
        loader=LoaderOptions(batch_size=8, num_workers=0),
        **options,
    )
