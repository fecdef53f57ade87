# SPDX-License-Identifier: Apache-2.0
"""Boxes as arrays: their corners, and suppression of those that overlap."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsvheat.data import Window
from rsvheat.ops import batched_nms_rotated


@dataclass(frozen=True)
class FoundBoxes:
    """Boxes in pixels of a scene.

    Attributes:
        boxes: Horizontal boxes (N, 4) as left, top, right, bottom, or oriented ones (N, 5) as
            center x, center y, width, height, angle counter-clockwise in degrees; float64, which
            holds a hundredth of a pixel in scenes of any size.
        scores: Scores (N,).
        labels: Numbers of the classes (N,).
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def none(cls, numbers: int) -> "FoundBoxes":
        """Return no boxes.

        Args:
            numbers: 4 for horizontal boxes, 5 for oriented ones.
        """
        return cls(np.zeros((0, numbers)), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def of(cls, found: Mapping[str, Tensor], window: Window, min_score: float) -> "FoundBoxes":
        """Return boxes that were found in a window.

        Args:
            found: Tensors ``boxes``, ``scores`` and ``labels`` in pixels of the window.
            window: Place of the window in the scene.
            min_score: Lowest score of boxes that are kept.
        """
        boxes = found["boxes"].cpu().double().numpy()
        origin = window.left, window.top
        boxes = np.add(boxes, (*origin, *origin) if boxes.shape[1] == 4 else (*origin, 0, 0, 0))
        scores, labels = found["scores"].cpu().float().numpy(), found["labels"].cpu().numpy()
        return cls(boxes, scores, labels.astype(np.int64))[scores >= min_score]

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.boxes)

    def __getitem__(self, chosen: NDArray[Any]) -> "FoundBoxes":
        """Return some of the boxes.

        Args:
            chosen: Mask or numbers of the boxes.
        """
        return FoundBoxes(self.boxes[chosen], self.scores[chosen], self.labels[chosen])

    def __add__(self, other: "FoundBoxes") -> "FoundBoxes":
        """Return these boxes and others after them."""
        return FoundBoxes(
            np.concatenate((self.boxes, other.boxes)),
            np.concatenate((self.scores, other.scores)),
            np.concatenate((self.labels, other.labels)),
        )

    @property
    def centers(self) -> NDArray[np.float64]:
        """Centers (N, 2) as x, y."""
        if self.boxes.shape[1] == 5:
            return self.boxes[:, :2]
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    @property
    def corners(self) -> NDArray[np.float64]:
        """Corners (N, 4, 2) as x, y, around the box."""
        if self.boxes.shape[1] == 4:
            return self.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        width, height, angle = self.boxes[:, 2:].T
        cosine, sine = np.cos(np.deg2rad(angle)) / 2, np.sin(np.deg2rad(angle)) / 2
        # The angle is counter-clockwise as seen, where y points down.
        along = np.stack((cosine * width, -sine * width), 1)[:, None]
        across = np.stack((sine * height, cosine * height), 1)[:, None]
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        corners: NDArray[np.float64] = (
            self.boxes[:, None, :2] + signs[:, :1] * along + signs[:, 1:] * across
        )
        return corners

    @property
    def extents(self) -> NDArray[np.float64]:
        """Horizontal boxes (N, 4) around the boxes."""
        corners = self.corners
        return np.concatenate((corners.min(1), corners.max(1)), 1)


def suppress(found: FoundBoxes, iou: float) -> NDArray[np.bool_]:
    """Return which boxes stay if those that overlap one of a higher score and their class go.

    Args:
        found: Boxes.
        iou: Intersection over union from which boxes overlap.

    Returns:
        Mask (N,).
    """
    kept = np.zeros(len(found), bool)
    if len(found):
        # Coordinates of large scenes would lose their fractions in float32.
        origin = found.extents[:, :2].min(0)
        boxes = found.boxes.copy()
        boxes[:, :2] -= origin
        if boxes.shape[1] == 4:
            boxes[:, 2:] -= origin
        kept[_nms(boxes, found.scores, found.labels, iou)] = True
    return kept


def _nms(
    boxes: NDArray[np.float64], scores: NDArray[np.float32], labels: NDArray[np.int64], iou: float
) -> NDArray[np.int64]:
    # torchvision takes seconds to import, which maps of classes need not wait for.
    from torchvision.ops import batched_nms

    suppression = batched_nms_rotated if boxes.shape[1] == 5 else batched_nms
    kept: NDArray[np.int64] = suppression(
        torch.from_numpy(boxes).float(), torch.from_numpy(scores), torch.from_numpy(labels), iou
    ).numpy()
    return kept
