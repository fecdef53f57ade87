# SPDX-License-Identifier: Apache-2.0
"""Boxes that networks find in windows, and one box for what several windows found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rsvheat.data import Window
from rsvheat.data.polygons import bounds, bounds_corners, rectangle_corners

# Intersection over union, and over the smaller part of boxes of which one is cut off, from which on
# boxes of two windows are of one object.
_IOU, _IOS = 0.5, 0.7
# Pixels from a window's edge within which a box is cut off by it.
_TOLERANCE = 2.0


@dataclass(frozen=True)
class FoundBoxes:
    """Boxes in pixels of a scene.

    Attributes:
        boxes: Horizontal boxes (N, 4) as left, top, right, bottom, or oriented ones (N, 5) as
            center x, center y, width, height, angle counter-clockwise in degrees; float64, which
            holds a hundredth of a pixel in scenes of any size.
        scores: Scores (N,).
        labels: Numbers of the classes (N,).
        seen: Part of the scene (N, 4) in which the network found each, as left, top, right, bottom.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    seen: NDArray[np.float64]

    @classmethod
    def none(cls, numbers: int) -> "FoundBoxes":
        """Return no boxes.

        Args:
            numbers: 4 for horizontal boxes, 5 for oriented ones.
        """
        scores, labels = np.zeros(0, np.float32), np.zeros(0, np.int64)
        return cls(np.zeros((0, numbers)), scores, labels, np.zeros((0, 4)))

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
        edges = (*origin, window.left + window.width, window.top + window.height)
        seen = np.tile(np.array(edges, np.float64), (len(boxes), 1))
        return cls(boxes, scores, labels.astype(np.int64), seen)[scores >= min_score]

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.boxes)

    def __getitem__(self, chosen: NDArray[Any]) -> "FoundBoxes":
        """Return some of the boxes.

        Args:
            chosen: Mask or numbers of the boxes.
        """
        return FoundBoxes(
            self.boxes[chosen], self.scores[chosen], self.labels[chosen], self.seen[chosen]
        )

    def __add__(self, other: "FoundBoxes") -> "FoundBoxes":
        """Return these boxes and others after them."""
        return FoundBoxes(
            np.concatenate((self.boxes, other.boxes)),
            np.concatenate((self.scores, other.scores)),
            np.concatenate((self.labels, other.labels)),
            np.concatenate((self.seen, other.seen)),
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
        oriented = self.boxes.shape[1] == 5
        return rectangle_corners(self.boxes) if oriented else bounds_corners(self.boxes)

    @property
    def extents(self) -> NDArray[np.float64]:
        """Horizontal boxes (N, 4) around the boxes."""
        return bounds(self.corners)


def merge(found: FoundBoxes, scene: tuple[int, int]) -> tuple[FoundBoxes, NDArray[np.int64]]:
    """Return one box for each object that several windows found.

    Two boxes of a class from two windows are of one object if they agree on the ground that both
    windows show: by the intersection over union of their parts there or, where a window cut one of
    them off, over the smaller part. Of boxes of an object the one with the highest score stays, and
    whole ones go before cut ones. Where all are cut, as objects larger than the overlap are, the
    box around the pieces takes their place, along the axes of the largest.

    Args:
        found: Boxes.
        scene: Height and width of the scene, at whose border no object is cut by a window.

    Returns:
        The boxes, and the object (N,) that each of ``found`` belongs to: its number in them.
    """
    cut = _is_cut(found, scene)
    groups = np.arange(len(found))
    for first, second in _same_object(found, cut):
        joined = groups[[first, second]]
        groups[groups == joined.max()] = joined.min()
    _, groups = np.unique(groups, return_inverse=True)
    # The best of each group is the first one in this order.
    order = np.lexsort((-found.scores, cut, groups))
    best = order[np.searchsorted(groups[order], np.arange(groups.max(initial=-1) + 1))]
    objects = found[best]
    sizes = np.bincount(groups, minlength=len(best))
    for number in np.flatnonzero((sizes > 1) & cut[best]):
        _put_together(objects, int(number), found[groups == number])
    return objects, groups.astype(np.int64)


def _is_cut(found: FoundBoxes, scene: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which boxes end at an edge of their window that is not the scene's."""
    (height, width), extents, seen = scene, found.extents, found.seen
    low = (extents[:, :2] <= seen[:, :2] + _TOLERANCE) & (seen[:, :2] > 0)
    high = (extents[:, 2:] >= seen[:, 2:] - _TOLERANCE) & (seen[:, 2:] < (width, height))
    cut: NDArray[np.bool_] = np.any(low | high, axis=1)
    return cut


def _same_object(found: FoundBoxes, cut: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return pairs (P, 2) of boxes of one object from two windows."""
    import shapely

    if len(found) < 2:
        return np.zeros((0, 2), np.int64)
    polygons = shapely.polygons(found.corners)
    pairs = shapely.STRtree(polygons).query(polygons).T
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    first, second = pairs.T
    low = np.maximum(found.seen[first, :2], found.seen[second, :2])
    high = np.minimum(found.seen[first, 2:], found.seen[second, 2:])
    chosen = (found.labels[first] == found.labels[second]) & (low < high).all(1)
    chosen &= (found.seen[first] != found.seen[second]).any(1)
    pairs, common = pairs[chosen], shapely.box(*low[chosen].T, *high[chosen].T)
    first, second = pairs.T
    parts = [shapely.intersection(polygons[i], common) for i in (first, second)]
    areas = [shapely.area(part) for part in parts]
    both = shapely.area(shapely.intersection(*parts))
    union, smaller = areas[0] + areas[1] - both, np.minimum(*areas)
    pieces = cut[first] | cut[second]
    same = (both > _IOU * union) | (pieces & (both > _IOS * smaller) & (both > 0))
    chosen_pairs: NDArray[np.int64] = pairs[same]
    return chosen_pairs


def _put_together(objects: FoundBoxes, number: int, pieces: FoundBoxes) -> None:
    """Replace an object's box by the one around its pieces."""
    objects.seen[number] = (*pieces.seen[:, :2].min(0), *pieces.seen[:, 2:].max(0))
    if pieces.boxes.shape[1] == 4:
        objects.boxes[number] = (*pieces.boxes[:, :2].min(0), *pieces.boxes[:, 2:].max(0))
        return
    largest = pieces.boxes[np.prod(pieces.boxes[:, 2:4], 1).argmax()]
    cosine, sine = np.cos(np.deg2rad(largest[4])), np.sin(np.deg2rad(largest[4]))
    # The angle is counter-clockwise as seen, where y points down.
    axes = np.array([[cosine, -sine], [sine, cosine]])
    along = pieces.corners.reshape(-1, 2) @ axes.T
    low, high = along.min(0), along.max(0)
    objects.boxes[number] = (*((low + high) / 2 @ axes), *(high - low), largest[4])
