# SPDX-License-Identifier: Apache-2.0
"""Small networks whose right answer is known, one of each kind of output."""

import numpy as np
import scipy.ndimage
import torch

from rsvheat.checkpoint import TrainedModel
from rsvheat.data import Normalizer
from rsvheat.data.spec import DataSpec
from rsvheat.models import RSVHeat
from rsvheat.models.classification import Classifier
from rsvheat.models.task_model import TaskModel


def small_encoder(modalities=None, num_classes=0, size=32):
    return RSVHeat(
        dims=(8, 16),
        depths=(1, 1),
        img_size=size,
        modalities=modalities or {"optical": 3},
        num_classes=num_classes,
    )


class Pixels(TaskModel):
    """Classes of pixels by two convolutions: covariant under translation, 3 pixels of context."""

    task = "stand_in_pixels"
    output = "mask"

    def __init__(self, encoder, num_classes, *, gain=1.0):
        super().__init__(encoder, num_classes, gain=gain)
        bands = sum(encoder.modalities.values())
        self.gain = gain
        self.first = torch.nn.Conv2d(bands, 6, 3, padding=1)
        self.second = torch.nn.Conv2d(6, num_classes, 5, padding=2)

    def forward(self, images):
        x = torch.cat([images[name] for name in self.encoder.modalities], 1)
        return self.gain * self.second(self.first(x).tanh())

    def predict(self, images):
        return self(images).float().softmax(1)


class Differences(TaskModel):
    """Change where two dates differ by more than 1 in the mean over bands."""

    task = "stand_in_change"
    output = "mask"

    def forward(self, images):
        difference = (images["after"] - images["before"]).abs().mean(1, keepdim=True)
        return torch.cat((1 - difference, difference - 1), 1) * 4

    def predict(self, images):
        return self(images).float().softmax(1)


class _Objects(TaskModel):
    """Finds what is brighter than 0 in the first band; its class is 1 where the second is too."""

    def forward(self, images):
        return images["optical"]

    def predict(self, images):
        found = []
        for image in self(images).cpu().numpy():
            areas, _ = scipy.ndimage.label(image[0] > 0)
            objects = [
                np.nonzero(areas[part] == number) + np.array([[p.start] for p in part])
                for number, part in enumerate(scipy.ndimage.find_objects(areas), 1)
            ]
            boxes = [self._box(rows, columns) for rows, columns in objects]
            second = np.array([image[1][rows, columns].mean() for rows, columns in objects])
            scores = np.array([rows.size for rows, _ in objects], np.float32)
            found.append(
                {
                    "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, self.numbers),
                    "scores": torch.from_numpy(scores / (1 + scores)).float().reshape(-1),
                    "labels": torch.from_numpy((second > 0).astype(np.int64)).reshape(-1),
                }
            )
        return found


class Boxes(_Objects):
    task = "stand_in_boxes"
    output = "boxes"
    numbers = 4

    def _box(self, rows, columns):
        return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


class OrientedBoxes(_Objects):
    """Oriented boxes by the moments of their pixels."""

    task = "stand_in_oriented"
    output = "oriented_boxes"
    numbers = 5

    def _box(self, rows, columns):
        x, y = columns + 0.5, rows + 0.5
        variances, axes = np.linalg.eigh(np.cov(x, y, bias=True) + 1e-9 * np.eye(2))
        # The sides of a filled rectangle are sqrt(12) standard deviations; the image's y axis
        # points down, so a counter-clockwise angle has the other sign.
        short, long = np.sqrt(12 * variances)
        angle = -np.degrees(np.arctan2(axes[1, 1], axes[0, 1]))
        return [x.mean(), y.mean(), long, short, angle]


def trained(kind, modalities=None, classes=("a", "b"), size=32, window=None, names=None, **options):
    """A model of a kind whose normalization is (value - 100) / 50."""
    modalities = modalities or {"optical": 3}
    names = names or modalities
    heads = len(classes) if kind is Classifier else 0
    network = kind(small_encoder(modalities, heads, size), len(classes), **options)
    target = {"class": "label", "mask": "mask"}.get(kind.output, kind.output)
    spec = DataSpec(names, target, classes, (size, size))
    normalizers = {
        name: Normalizer((100.0,) * bands, (50.0,) * bands, 5.0) for name, bands in names.items()
    }
    return TrainedModel(network, spec, normalizers, window=window)


def interrupted(monkeypatch, network, at):
    """Make a call of a network's ``predict`` raise KeyboardInterrupt; return the list of calls."""
    original, calls = network.predict, []

    def predict(images):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return original(images)

    monkeypatch.setattr(network, "predict", predict)
    return calls
