# SPDX-License-Identifier: Apache-2.0
"""A task and a data set of a user: which pixels are bright, learned from generated stripes."""

import numpy as np
from torch import nn

from rsvheat.data import IGNORE_INDEX, ArraySource, DatasetReader, Split
from rsvheat.evaluation import ConfusionMatrix, SegmentationScores
from rsvheat.models.task_model import TaskModel
from rsvheat.tasks import SupervisedTask


class Stripes(ArraySource):
    target, classes = "mask", ("dark", "bright")

    def read_target(self, index, window):
        values, _ = self.open(index, "optical").read(window)
        return (values[0] > 128).astype(np.int64)


class StripesReader(DatasetReader):
    def __init__(self, count: int = 12, side: int = 48) -> None:
        self.count, self.side = count, side

    def splits(self, scan):
        rng, x = np.random.default_rng(scan.seed), np.arange(self.side)
        lines = 127 + 100 * np.sin(x * rng.uniform(0.1, 0.5, (2 * self.count, 1)))
        images = [np.tile(line.astype(np.uint8), (3, self.side, 1)) for line in lines]
        parts = {"train": images[: self.count], "val": images[self.count :]}
        return {n: Split(scan(Stripes([{"optical": i} for i in p]))) for n, p in parts.items()}


class PixelModel(TaskModel):
    task, output = "stripes", "mask"

    def __init__(self, encoder, num_classes):
        super().__init__(encoder, num_classes)
        self.head = nn.Conv2d(3, num_classes, 1)

    def forward(self, images, index=None):
        return self.head(images["optical"])

    def predict(self, images):
        return self(images).softmax(1)


class StripesTask(SupervisedTask):
    model, target, monitor = PixelModel, "mask", "val/overall_accuracy"

    def losses(self, output, batch):
        loss = nn.functional.cross_entropy(output, batch["mask"], ignore_index=IGNORE_INDEX)
        return {"loss": loss}

    def metrics(self):
        return ConfusionMatrix(2)

    def compute_scores(self):
        return SegmentationScores.of(self.scored, self.spec.classes)
